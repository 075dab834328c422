"""Converters of the PyTorch operators with weights, and of those the passes want in one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import relax
from tvm_shiftadd.importers._common import float_constant, unsupported


class Importer(Protocol):
    """What a converter may use: expressions of graph nodes, weights, and naming."""

    env: dict[Any, Any]

    def emit(self, expr: relax.Expr, name: str) -> relax.Var:
        """Bind ``expr`` under ``name``."""

    def constant(self, argument: Any) -> NDArray[Any] | None:
        """The value of an argument that is a weight, else None."""


#: Takes the importer, the graph node and its name; returns None to leave the node to TVM's own.
Converter = Callable[[Importer, Any, str], "relax.Expr | None"]


def _arguments(node: Any, *names: tuple[str, Any]) -> list[Any]:
    """Arguments in order, by position or keyword, with their defaults."""
    values = list(node.args)
    for index, (name, default) in enumerate(names):
        if index >= len(values):
            values.append(node.kwargs.get(name, default))
    return values


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else [int(item) for item in value]
    return values * 2 if len(values) == 1 else values


_CONVOLUTION = (("input", None), ("weight", None), ("bias", None), ("stride", 1), ("padding", 0))


def _conv2d(importer: Importer, node: Any, name: str) -> relax.Expr | None:
    x, weight, bias, stride, padding, dilation, groups = _arguments(
        node, *_CONVOLUTION, ("dilation", 1), ("groups", 1)
    )
    kernel = importer.constant(weight)
    data = importer.env[x]
    if kernel is None or data.ty.ndim != 4:
        return None
    layer = importer.emit(
        relax.op.nn.conv2d(
            data,
            float_constant(kernel),
            strides=_pair(stride),
            padding=_padding(padding, kernel.shape[2:], _pair(dilation)),
            dilation=_pair(dilation),
            groups=groups,
        ),
        name,
    )
    return _with_bias(importer, layer, bias, name, (1, -1, 1, 1))


def _padding(padding: Any, kernel: tuple[int, ...], dilation: list[int]) -> list[int]:
    """(top, left, bottom, right); ``same`` puts the odd element behind, ``valid`` pads nothing."""
    if padding == "same":
        totals = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    return [0] * 4 if padding == "valid" else _pair(padding) * 2


def _conv_transpose2d(importer: Importer, node: Any, name: str) -> relax.Expr | None:
    x, weight, bias, stride, padding, extra, groups, dilation = _arguments(
        node, *_CONVOLUTION, ("output_padding", 0), ("groups", 1), ("dilation", 1)
    )
    kernel = importer.constant(weight)
    data = importer.env[x]
    if kernel is None or data.ty.ndim != 4:
        return None
    layer = importer.emit(
        relax.op.nn.conv2d_transpose(
            data,
            float_constant(kernel),
            strides=_pair(stride),
            padding=_pair(padding),
            output_padding=_pair(extra),
            dilation=_pair(dilation),
            groups=groups,
        ),
        name,
    )
    return _with_bias(importer, layer, bias, name, (1, -1, 1, 1))


def _linear(importer: Importer, node: Any, name: str) -> relax.Expr | None:
    x, weight, bias = _arguments(node, ("input", None), ("weight", None), ("bias", None))
    matrix = importer.constant(weight)
    if matrix is None:
        return None
    layer = importer.emit(relax.op.matmul(importer.env[x], float_constant(matrix.T)), name)
    return _with_bias(importer, layer, bias, name, (-1,))


def _with_bias(
    importer: Importer, layer: relax.Var, bias: Any, name: str, shape: tuple[int, ...]
) -> relax.Expr:
    if bias is None:
        return layer
    values = importer.constant(bias)
    if values is None:
        raise unsupported("bias", name, "it is computed, but the weight is constant")
    return importer.emit(relax.op.add(layer, float_constant(values.reshape(shape))), f"{name}.bias")


def _batch_norm(importer: Importer, node: Any, name: str) -> relax.Expr | None:
    x, weight, bias, mean, variance, training, _, epsilon, _ = _arguments(
        node,
        *(("input", None), ("weight", None), ("bias", None)),
        *(("running_mean", None), ("running_var", None)),
        *(("training", False), ("momentum", 0.1), ("eps", 1e-5), ("cudnn_enabled", False)),
    )
    means, variances = importer.constant(mean), importer.constant(variance)
    if training or means is None or variances is None:
        raise unsupported(
            "batch_norm", name, "it uses the batch's statistics: call model.eval() before export"
        )
    gamma, beta = importer.constant(weight), importer.constant(bias)
    statistics = importer.emit(
        relax.op.nn.batch_norm(
            importer.env[x],
            float_constant(np.ones_like(means) if gamma is None else gamma),
            float_constant(np.zeros_like(means) if beta is None else beta),
            float_constant(means),
            float_constant(variances),
            axis=1,
            epsilon=float(epsilon),
            training=False,
        ),
        f"{name}.statistics",
    )
    return importer.emit(relax.TupleGetItem(statistics, 0), name)


def _adaptive_avg_pool2d(importer: Importer, node: Any, name: str) -> relax.Expr | None:
    x, size = _arguments(node, ("input", None), ("output_size", None))
    data = importer.env[x]
    if _pair(size) != [1, 1] or data.ty.ndim != 4:
        return None
    return importer.emit(relax.op.mean(data, axis=[2, 3], keepdims=True), name)


def _relu6(importer: Importer, node: Any, name: str) -> relax.Expr:
    return importer.emit(relax.op.clip(importer.env[node.args[0]], 0.0, 6.0), name)


TORCH_CONVERTERS: dict[str, Converter] = {
    "conv2d.default": _conv2d,
    "conv2d.padding": _conv2d,
    "conv_transpose2d.input": _conv_transpose2d,
    "linear.default": _linear,
    "batch_norm.default": _batch_norm,
    "adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "relu6.default": _relu6,
}
