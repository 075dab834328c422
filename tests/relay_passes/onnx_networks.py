"""Small ONNX networks that between them hold every operator a region can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

import tvm_shiftadd as tsa
from relay_passes import pipeline
from tests.importers import onnx_models
from tvm_shiftadd import convert
from tvm_shiftadd.convert.plan import Plan

Shape = tuple[int | str, ...]


class Onnx:
    """Nodes one after another; a method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self._random = np.random.default_rng(seed)

    def add(self, op: str, name: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> str:
        """A node; an input that is an array becomes a weight."""
        sources = []
        for position, value in enumerate(inputs):
            if not isinstance(value, str):
                self.weights[f"{name}.{position}"] = np.asarray(value)
                value = f"{name}.{position}"
            sources.append(value)
        made = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, sources, made, name=name, **attrs))
        return made[0]

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (self._random.standard_normal(shape) * scale).astype(np.float32)

    def conv(
        self, name: str, x: str, channels: tuple[int, int], kernel: int = 3, **attrs: Any
    ) -> str:
        """A convolution from so many channels to so many, with a bias, of the same size."""
        rows, columns = channels[0] // attrs.get("group", 1), channels[1]
        scale = 1 / np.sqrt(rows * kernel**2)
        weight = self.normal(columns, rows, kernel, kernel, scale=scale)
        bias = self.normal(columns, scale=0.1)
        attrs.setdefault("pads", [kernel // 2] * 4)
        return self.add("Conv", name, x, weight, bias, **attrs)

    def batch_norm(self, name: str, x: str, channels: int) -> str:
        mean, variance = self.normal(channels), np.abs(self.normal(channels)) + np.float32(0.5)
        scale, offset = self.normal(channels) + np.float32(1), self.normal(channels)
        return self.add("BatchNormalization", name, x, scale, offset, mean, variance)

    def relu(self, name: str, x: str) -> str:
        return self.add("Relu", name, x)

    def build(self, *outputs: str, shape: Shape = ("N", 3, 8, 8)) -> onnx.ModelProto:
        return onnx_models.build(self.nodes, self.weights, shape=shape, outputs=outputs)


def residual() -> onnx.ModelProto:
    """Two blocks, one with a projected shortcut; batch norms; a classifier."""
    n = Onnx()
    stem = n.relu("stem/relu", n.batch_norm("stem/bn", n.conv("stem/conv", "x", (3, 8)), 8))
    a = n.relu("a/relu", n.batch_norm("a/bn", n.conv("a/conv", stem, (8, 8)), 8))
    b = n.batch_norm("b/bn", n.conv("b/conv", a, (8, 8)), 8)
    first = n.relu("first/relu", n.add("Add", "first/add", b, stem))
    c = n.conv("c/conv", first, (8, 16), strides=[2, 2])
    shortcut = n.conv("shortcut", first, (8, 16), 1, strides=[2, 2])
    second = n.add("Clip", "clip", n.add("Add", "add", shortcut, c), np.float32(0), np.float32(3))
    flat = n.add("Flatten", "flat", n.add("GlobalAveragePool", "pool", second))
    return n.build(n.add("Gemm", "fc", flat, n.normal(5, 16), n.normal(5), transB=1))


def concatenated() -> onnx.ModelProto:
    """Branches that are joined, split and pooled in several ways."""
    n = Onnx(1)
    a, b = n.conv("a", "x", (3, 4)), n.relu("relu", n.conv("b", "x", (3, 4), 1))
    joined = n.add("Concat", "joined", a, b, axis=1)
    left = n.add("Split", "split", joined, outputs=2, axis=1)
    pooled = n.add("MaxPool", "max", left, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    mean = n.add("AveragePool", "mean", "split:1", kernel_shape=[2, 2], strides=[2, 2])
    both = n.add("Concat", "both", pooled, mean, axis=1)
    top = n.add("GlobalMaxPool", "top", n.conv("c", both, (8, 6)))
    return n.build(n.conv("head", top, (6, 5), 1))


def upsampling() -> onnx.ModelProto:
    """Padding, nearest-neighbour and transposed up-sampling, a skip connection across them."""
    n = Onnx(2)
    pads = np.array([0, 0, 0, 1, 0, 0, 1, 0], np.int64)
    edge = n.add("Pad", "pad", n.relu("skip", n.conv("a", "x", (3, 4))), pads)
    down = n.relu("relu", n.conv("down", edge, (4, 6), strides=[2, 2]))
    up = n.add("Resize", "up", down, "", np.float32([1, 1, 2, 2]), mode="nearest")
    weight, bias = n.normal(6, 4, 2, 2, scale=0.2), n.normal(4)
    wide = n.add("ConvTranspose", "transposed", down, weight, bias, strides=[2, 2])
    total = n.add("Add", "total", n.conv("narrow", up, (6, 4), 1), wide)
    cut = n.add("Slice", "cut", total, *(np.array(v, np.int64) for v in ([1, 0], [9, 8], [2, 3])))
    return n.build(n.conv("head", n.add("Add", "merged", cut, "skip:0"), (4, 2)))


def hosted() -> onnx.ModelProto:
    """A host operator in the middle whose result is added to the region's."""
    n = Onnx(3)
    a = n.conv("a", "x", (3, 4))
    gate = n.add("Sigmoid", "gate", n.conv("b", a, (4, 4), 1))
    scaled = n.add("Mul", "scaled", a, gate)
    total = n.relu("relu", n.add("Add", "total", scaled, n.conv("c", scaled, (4, 4))))
    return n.build(n.add("Softmax", "softmax", n.conv("head", total, (4, 3), 1), axis=1))


def two_outputs() -> onnx.ModelProto:
    """Two results, one of them an accumulator that the network goes on to read."""
    n = Onnx(4)
    features = n.conv("features", "x", (3, 4))
    head = n.conv("head", n.relu("relu", features), (4, 2))
    return n.build(features, head)


def clipped_input() -> onnx.ModelProto:
    """Clips and pooling of the input itself, in front of the first layer; no batch symbol."""
    n = Onnx(5)
    clipped = n.add("Clip", "clip", "x", np.float32(-0.7), np.float32(0.9))
    pooled = n.add("MaxPool", "pool", clipped, kernel_shape=[2, 2], strides=[2, 2])
    deep = n.conv("deep", n.conv("a", pooled, (3, 4)), (4, 4), group=4, dilations=[2, 2])
    turned = n.add("Transpose", "turned", n.relu("relu", deep), perm=[0, 2, 3, 1])
    rows = n.add("Reshape", "rows", turned, np.array([2, 36], np.int64))
    return n.build(n.add("MatMul", "fc", rows, n.normal(36, 5, scale=0.2)), shape=(2, 3, 10, 10))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__: make
    for make in (residual, concatenated, upsampling, hosted, two_outputs, clipped_input)
}


@dataclass(frozen=True)
class Converted:
    """A network at each step of its way: ``selected`` and ``integer`` are modules."""

    model: tsa.api.Model
    plan: Plan
    images: NDArray[np.float32]

    @property
    def selected(self) -> Any:
        return self.model.selected

    @property
    def integer(self) -> Any:
        """The module after all integer passes."""
        passes = pipeline.integer_passes(self.plan)
        given = pipeline.ensured(pipeline.FLOAT_PASSES)
        return pipeline.run(self.selected, passes, given=given)

    def expected(self) -> list[NDArray[np.float32]]:
        """The results as the converter's reference computes them."""
        outputs, _ = convert.run_integer(self.model.graph, self.plan, {"x": self.images})
        return [outputs[name] for name in self.model.graph.outputs]


def images_for(model: tsa.api.Model, count: int = 2) -> NDArray[np.float32]:
    shape = model.graph.shapes["x"]
    return np.random.default_rng(7).standard_normal((count, *shape[1:])).astype(np.float32)


@cache
def converted(name: str) -> Converted:
    """A network of ``NETWORKS``, loaded and converted once a session."""
    model = tsa.load(NETWORKS[name]())
    feeds = [{"x": images_for(model, 16)}]
    result = convert.convert(model.graph, lambda: feeds, convert.ConvertOptions(terms=2))
    return Converted(model, result.plan, images_for(model))
