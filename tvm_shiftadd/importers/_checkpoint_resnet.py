"""Recognise a residual network by the names of its layers, and build its forward pass.

The ResNets of CIFAR (three stages) and of ImageNet (four), with basic or bottleneck blocks, as
PyTorch's training scripts name them: ``conv1``, ``bn1``, ``layer1.0.conv1`` ..., ``fc`` or
``linear``. Which is which is read off the keys and the shapes of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_shiftadd._compat import TensorType, ir, relax, tirx
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers._checkpoint_weights import BatchNorm, Layer, Network
from tvm_shiftadd.importers._common import closed_on_error, float_constant
from tvm_shiftadd.importers.naming import name_variables

RECOGNISED = (
    "ResNet-20, 32, 44, 56 and 110 for CIFAR (with or without a convolution in the shortcut), "
    "and ResNet-18, 34, 50, 101 and 152"
)

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.+)")
_EPSILON = 1e-5


def build_resnet(network: Network, shape: Sequence[int] | None, label: str) -> ir.IRModule:
    """The Relax module of a residual network; its input is called ``x``.

    Args:
        network: the layers.
        shape: the input's shape, -1 for an open batch; None for the usual size of such a network.
        label: the file, for messages.

    Raises:
        ModelError: the layers are not those of a residual network, or do not fit one another.
    """
    return _Builder(network, label).run(shape)


class _Builder:
    def __init__(self, network: Network, label: str) -> None:
        self._left = dict(network.layers)
        self._label = label
        self._builder = relax.BlockBuilder()
        self._names: dict[str, str] = {}
        self._operators: dict[str, str] = {}
        self._stages = self._count_blocks(network.layers)

    def run(self, shape: Sequence[int] | None) -> ir.IRModule:
        stem = self._left.get("conv1", self._left.get("conv1.0"))
        if not self._stages or not isinstance(stem, Layer) or stem.weight.ndim != 4:
            raise self._not_recognised(next(iter(self._left), "none"))
        large = stem.weight.shape[2] == 7
        dims = _input_shape(shape, stem.weight.shape[1], 224 if large else 32)
        batch = tirx.Var("N", "int64") if dims[0] == -1 else dims[0]
        x = relax.Var("x", TensorType([batch, *dims[1:]], "float32"))
        with (
            closed_on_error(lambda: self._builder),
            self._builder.function("main", params=[x]),
        ):
            with self._builder.dataflow():
                result = self._builder.emit_output(self._forward(x, large))
                self._names[result.name] = "output"
            self._builder.emit_func_output(result)
        module = name_variables(self._builder.get(), self._names)
        module["main"] = module["main"].with_attrs(
            {
                "shiftadd.outputs": ["output"],
                "shiftadd.operators": self._operators,
                "shiftadd.notes": [f"recognised as {self.title} by its keys"],
            }
        )
        return module

    @property
    def title(self) -> str:
        """The network's usual name, which counts the layers off the shortcuts."""
        blocks = sum(self._stages)
        bottleneck = any(path.endswith("conv3") or ".conv3." in path for path in self._paths)
        return f"ResNet-{blocks * (3 if bottleneck else 2) + 2}"

    def _count_blocks(self, paths: Mapping[str, Any]) -> list[int]:
        """Blocks of each stage; empty where stages or blocks are missing in between."""
        self._paths = list(paths)
        found = {(int(m[1]), int(m[2])) for m in map(_BLOCK.fullmatch, paths) if m}
        stages = max((stage for stage, _ in found), default=0)
        counts = [sum(stage == s for stage, _ in found) for s in range(1, stages + 1)]
        expected = {(s, b) for s, count in enumerate(counts, 1) for b in range(count)}
        return counts if stages in (3, 4) and found == expected else []

    def _forward(self, x: relax.Var, large: bool) -> relax.Var:
        x = self._unit(x, "conv1", 2 if large else 1)
        x = self._relu(self._batch_norm(x, "bn1"), "relu")
        if large:
            pool = relax.op.nn.max_pool2d(x, pool_size=[3, 3], strides=[2, 2], padding=[1] * 4)
            x = self._emit(pool, "maxpool", "MaxPool2d")
        for stage, count in enumerate(self._stages, start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                x = self._block(x, f"layer{stage}.{block}", stride)
        return self._head(x)

    def _block(self, x: relax.Var, path: str, stride: int) -> relax.Var:
        bottleneck = any(other.startswith(f"{path}.conv3") for other in self._paths)
        strides = [1, stride, 1] if bottleneck else [stride, 1]
        result = x
        for index, step in enumerate(strides, start=1):
            result = self._unit(result, f"{path}.conv{index}", step)
            result = self._batch_norm(result, f"{path}.bn{index}")
            if index < len(strides):
                result = self._relu(result, f"{path}.relu")
        shortcut = self._shortcut(x, path, stride, _channels(result))
        total = self._emit(relax.op.add(result, shortcut), f"{path}.add", "add")
        return self._relu(total, f"{path}.relu")

    def _shortcut(self, x: relax.Var, path: str, stride: int, channels: int) -> relax.Var:
        for name in ("downsample", "shortcut"):
            prefix = f"{path}.{name}"
            indices = [
                index for index in range(4) if f"{prefix}.{index}" in self._left
            ]  # a convolution and its batch norm, with an adder layer between them in ShiftAddNet
            for index in indices:
                part = f"{prefix}.{index}"
                if isinstance(self._left[part], BatchNorm):
                    x = self._batch_norm(x, part)
                else:
                    x = self._layer(x, part, stride if index == 0 else 1)
            if indices:
                return x
        if stride > 1:
            cut = relax.op.strided_slice(x, [2, 3], [0, 0], [2**31 - 1] * 2, [stride, stride])
            x = self._emit(cut, f"{path}.shortcut.slice", "slice")
        extra = channels - _channels(x)
        if extra:
            if extra < 0 or extra % 2:
                raise ModelError(
                    f"Block '{path}' has {_channels(x)} channels going in, {channels} coming out "
                    "and no layer in its shortcut: it is no residual block of this kind."
                )
            widths = [0, 0, extra // 2, extra // 2, 0, 0, 0, 0]
            x = self._emit(relax.op.nn.pad(x, widths), f"{path}.shortcut", "pad")
        return x

    def _head(self, x: relax.Var) -> relax.Var:
        name = "fc" if "fc" in self._left else "linear"
        layer = self._left.get(name)
        if not isinstance(layer, Layer):
            raise self._not_recognised(next(iter(self._left), "none"))
        x = self._emit(relax.op.mean(x, axis=[2, 3], keepdims=True), "avgpool", "AvgPool2d")
        if layer.operator == "dense":
            x = self._flatten(x)
        x = self._layer(x, name, 1)
        if "bn2" in self._left:
            x = self._batch_norm(x, "bn2")
        if layer.operator != "dense":
            x = self._flatten(x)
        if self._left:
            raise self._not_recognised(next(iter(self._left)))
        return x

    def _flatten(self, x: relax.Var) -> relax.Var:
        flat = relax.op.reshape(x, [x.ty.shape[0], _channels(x)])
        return self._emit(flat, "flatten", "flatten")

    def _unit(self, x: relax.Var, path: str, stride: int) -> relax.Var:
        """A layer, or ShiftAddNet's two in a row, of which the first has the stride."""
        if path in self._left:
            return self._layer(x, path, stride)
        for index in range(2):
            x = self._layer(x, f"{path}.{index}", stride if index == 0 else 1)
        return x

    def _layer(self, x: relax.Var, path: str, stride: int) -> relax.Var:
        layer = self._left.pop(path, None)
        if not isinstance(layer, Layer):
            raise self._not_recognised(path)
        if layer.clip is not None:
            x = self._emit(relax.op.clip(x, 0.0, layer.clip), f"{path}.act", "clip")
        groups = self._groups(path, layer, _channels(x))
        if layer.operator == "dense":
            call = relax.op.matmul(x, float_constant(np.ascontiguousarray(layer.weight.T)))
        elif layer.operator == "adder2d":
            call = _adder(x, layer, stride)
        else:
            kernel = layer.weight.shape[2:]
            call = relax.op.nn.conv2d(
                x,
                float_constant(layer.weight),
                strides=[stride, stride],
                padding=[size // 2 for size in kernel] * 2,
                groups=groups,
            )
        result = self._emit(call, path, layer.operator)
        if layer.bias is None:
            return result
        bias = layer.bias if layer.operator == "dense" else layer.bias.reshape(1, -1, 1, 1)
        return self._emit(relax.op.add(result, float_constant(bias)), f"{path}.bias")

    def _groups(self, path: str, layer: Layer, channels: int) -> int:
        taken = layer.weight.shape[1]
        groups = channels // taken if taken and channels % taken == 0 else 0
        grouped_well = layer.operator == "conv2d" and groups and layer.weight.shape[0] % groups == 0
        if groups != 1 and not grouped_well:
            raise ModelError(
                f"Layer '{path}' takes {taken} channels, but {channels} come in: the weights do "
                "not fit the network they are named after."
            )
        return groups

    def _batch_norm(self, x: relax.Var, path: str) -> relax.Var:
        norm = self._left.pop(path, None)
        if not isinstance(norm, BatchNorm):
            raise self._not_recognised(path)
        if norm.mean.size != _channels(x):
            raise ModelError(
                f"Batch norm '{path}' has {norm.mean.size} channels, but {_channels(x)} come in: "
                "the weights do not fit the network they are named after."
            )
        parts = map(float_constant, (norm.gamma, norm.beta, norm.mean, norm.variance))
        call = relax.op.nn.batch_norm(x, *parts, axis=1, epsilon=_EPSILON, training=False)
        statistics = self._emit(call, f"{path}.statistics")
        return self._emit(relax.TupleGetItem(statistics, 0), path, "BatchNorm2d")

    def _relu(self, x: relax.Var, name: str) -> relax.Var:
        return self._emit(relax.op.nn.relu(x), name, "relu")

    def _emit(self, expr: relax.Expr, name: str, operator: str = "") -> relax.Var:
        var = self._builder.emit(expr)
        self._names[var.name] = name
        if operator:
            self._operators.setdefault(name, operator)
        return var

    def _not_recognised(self, path: str) -> ModelError:
        return ModelError(
            f"{self._label} is none of the networks recognised by their keys (it stumbles over "
            f"'{path}'): {RECOGNISED}; pass architecture=, a torch.nn.Module with these keys."
        )


def _adder(x: relax.Var, layer: Layer, stride: int) -> relax.Call:
    from tvm_shiftadd.dialect.ops import float_adder_conv2d

    padding = [size // 2 for size in layer.weight.shape[2:]] * 2
    weight = float_constant(layer.weight)
    return float_adder_conv2d(x, weight, strides=[stride, stride], padding=padding)


def _channels(x: relax.Var) -> int:
    return int(x.ty.shape[1])


def _input_shape(shape: Sequence[int] | None, channels: int, size: int) -> list[int]:
    if shape is None:
        return [-1, channels, size, size]
    dims = [int(dim) for dim in shape]
    if len(dims) != 4 or dims[1] != channels or min(dims[2:]) < 1 or dims[0] == 0 or dims[0] < -1:
        raise ModelError(
            f"Expected an input shape [batch or -1, {channels}, height, width], but got {dims}."
        )
    return dims
