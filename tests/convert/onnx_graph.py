"""Read a small ONNX classifier as a converter Graph: channels last, batch norm folded.

Only what the classifiers of the accuracy tests need; the product reads models through Relax.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnxscript import optimizer

from tvm_shiftadd.convert.graph import Graph, Node


def read_graph(path: Path) -> Graph:
    """The graph of the ONNX file at ``path``."""
    model = optimizer.optimize(onnx.load(path), onnx_shape_inference=True)
    return _Reader(shape_inference.infer_shapes(model).graph).read()


class _Reader:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.alias: dict[str, str] = {}
        for info in [*graph.input, *graph.value_info, *graph.output]:
            dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
            self.shapes[info.name] = _channels_last((-1, *dims[1:]))

    def read(self) -> Graph:
        inputs = tuple(i.name for i in self.graph.input if i.name not in self.constants)
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
                continue
            if all(name in self.constants for name in node.input if name):
                self._fold(node)
                continue
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            names = [self.alias.get(name, name) for name in node.input]
            getattr(self, "_" + node.op_type.lower())(node, names, attrs)
        made = {node.output for node in self.nodes}.union(inputs)
        shapes = {name: shape for name, shape in self.shapes.items() if name in made}
        outputs = tuple(self.alias.get(o.name, o.name) for o in self.graph.output)
        return Graph(tuple(self.nodes), inputs, outputs, shapes)

    def _fold(self, node: Any) -> None:
        feeds = {name: self.constants[name] for name in node.input if name}
        values = ReferenceEvaluator(node, {"": 17}).run(None, feeds)
        self.constants.update(zip(node.output, values, strict=True))

    def _emit(self, node: Any, op: str, inputs: list[str], **rest: Any) -> None:
        name = node.name or node.output[0]
        weight, bias = rest.pop("weight", None), rest.pop("bias", None)
        self.nodes.append(Node(name, op, tuple(inputs), node.output[0], rest, weight, bias))

    def _conv(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        weight = self.constants[names[1]].transpose(2, 3, 1, 0)
        bias = self.constants[names[2]] if len(names) > 2 else None
        self._emit(
            node,
            "conv2d",
            names[:1],
            strides=tuple(attrs.get("strides", (1, 1))),
            padding=tuple(attrs.get("pads", (0, 0, 0, 0))),
            dilation=tuple(attrs.get("dilations", (1, 1))),
            groups=attrs.get("group", 1),
            weight=np.ascontiguousarray(weight, dtype=np.float32),
            bias=None if bias is None else bias.astype(np.float32),
        )

    def _batchnormalization(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        scale, shift, mean, variance = (self.constants[name] for name in names[1:5])
        factor = scale / np.sqrt(variance + np.float32(attrs.get("epsilon", 1e-5)))
        conv = self.nodes.pop()
        assert conv.output == names[0] and conv.weight is not None
        bias = shift - mean * factor
        if conv.bias is not None:
            bias = bias + conv.bias * factor
        weight = np.asarray(conv.weight * factor, dtype=np.float32)
        self.nodes.append(
            Node(conv.name, conv.op, conv.inputs, node.output[0], conv.attrs, weight, bias)
        )

    def _relu(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        self._emit(node, "clip", names, lo=0.0, hi=math.inf)

    def _clip(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        lo, hi = (float(self.constants[name].item()) for name in names[1:])
        self._emit(node, "clip", names[:1], lo=lo, hi=hi)

    def _add(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        self._emit(node, "add", names)

    def _maxpool(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        self._emit(
            node,
            "max_pool2d",
            names,
            pool_size=tuple(attrs["kernel_shape"]),
            strides=tuple(attrs.get("strides", (1, 1))),
            padding=tuple(attrs.get("pads", (0, 0, 0, 0))),
            dilation=(1, 1),
            ceil_mode=bool(attrs.get("ceil_mode", 0)),
        )

    def _globalaveragepool(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        self._emit(
            node,
            "avg_pool2d",
            names,
            pool_size=self.shapes[names[0]][1:3],
            strides=(1, 1),
            padding=(0, 0, 0, 0),
            dilation=(1, 1),
            ceil_mode=False,
            count_include_pad=False,
        )

    def _flatten(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        shape = self.shapes[names[0]]
        source = names[0]
        if math.prod(shape[1:3]) > 1:
            turned = f"{node.output[0]}.nchw"
            self.shapes[turned] = (-1, shape[3], *shape[1:3])
            attributes = {"axes": (0, 3, 1, 2)}
            self.nodes.append(Node(turned, "permute", (source,), turned, attributes))
            source = turned
        self._emit(node, "reshape", [source], shape=(-1, math.prod(shape[1:])))

    def _reshape(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        self._flatten(node, names, attrs)

    def _gemm(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        weight: NDArray[np.float32] = self.constants[names[1]]
        matrix = weight.T if attrs.get("transB", 0) else weight
        bias = self.constants[names[2]] if len(names) > 2 else None
        self._emit(node, "dense", names[:1], weight=np.ascontiguousarray(matrix), bias=bias)

    def _slice(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        begin, end, axes = (self.constants[name].tolist() for name in names[1:4])
        steps = self.constants[names[4]].tolist() if len(names) > 4 else [1] * len(axes)
        last = [(0, 3, 1, 2)[axis % 4] for axis in axes]
        self._emit(node, "slice", names[:1], axes=last, begin=begin, end=end, strides=steps)

    def _pad(self, node: Any, names: list[str], attrs: dict[str, Any]) -> None:
        ends = self.constants[names[1]].reshape(2, -1).T
        width = tuple((int(a), int(b)) for a, b in ends[[0, 2, 3, 1]])
        self._emit(node, "pad", names[:1], pad_width=width)


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
