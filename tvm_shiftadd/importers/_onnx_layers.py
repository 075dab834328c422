"""Converters of the ONNX layers with weights, of pooling, clipping and normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import relax
from tvm_shiftadd.importers._common import float_constant
from tvm_shiftadd.importers._onnx_node import OnnxNode, spatial_padding

#: A converter returns the node's last operator, or None to leave the node to TVM's own.
Converter = Callable[[OnnxNode], "relax.Expr | None"]


def conv(node: OnnxNode) -> relax.Expr | None:
    """Conv on maps with a constant weight: conv2d, then the bias as an addition of [1, C, 1, 1]."""
    weight = _layer_weight(node)
    if weight is None or weight.ndim != 4:
        return None
    strides = node.integers("strides", [1, 1])
    dilations = node.integers("dilations", [1, 1])
    result = relax.op.nn.conv2d(
        node.inputs[0],
        float_constant(weight),
        strides=strides,
        padding=spatial_padding(node, weight.shape[2:], strides, dilations),
        dilation=dilations,
        groups=int(node.attrs.get("group", 1)),
    )
    return _with_channel_bias(node, result)


def conv_transpose(node: OnnxNode) -> relax.Expr | None:
    """ConvTranspose on maps with a constant weight [I, O/groups, kh, kw]."""
    weight = _layer_weight(node, transposed=True)
    if weight is None or weight.ndim != 4:
        return None
    strides = node.integers("strides", [1, 1])
    dilations = node.integers("dilations", [1, 1])
    extra = node.integers("output_padding", [0, 0])
    result = relax.op.nn.conv2d_transpose(
        node.inputs[0],
        float_constant(weight),
        strides=strides,
        padding=_transpose_padding(node, weight.shape[2:], strides, dilations, extra),
        output_padding=extra,
        dilation=dilations,
        groups=int(node.attrs.get("group", 1)),
    )
    return _with_channel_bias(node, result)


def _layer_weight(node: OnnxNode, transposed: bool = False) -> NDArray[Any] | None:
    """A convolution's constant weight, held against its attributes, data and bias."""
    _check_float32(node)
    weight = node.constant(1)
    if weight is None or weight.ndim < 3:
        return None
    groups = int(node.attrs.get("group", 1))
    if groups < 1:
        raise node.unsupported(f"expected one group or more, but got {groups}")
    if weight.size == 0:
        raise node.unsupported(f"its weight of shape {list(weight.shape)} is empty")
    kernel = list(weight.shape[2:])
    given = node.integers("kernel_shape", kernel)
    if given != kernel:
        raise node.unsupported(f"its kernel_shape {given} is not its weight's, {kernel}")
    _check_window(node, kernel)
    first, second = weight.shape[0], weight.shape[1] * groups
    inputs, outputs = (first, second) if transposed else (second, first)
    data, bias = node.shape(), node.constant(2)
    if first % groups or len(data) != weight.ndim or data[1] != inputs:
        raise node.unsupported(
            f"its weight of shape {list(weight.shape)} in {groups} groups does not fit its input "
            f"of shape {data}"
        )
    if bias is not None and bias.size not in (0, outputs):
        raise node.unsupported(f"its bias has {bias.size} values for {outputs} channels")
    return weight


def _check_window(node: OnnxNode, kernel: list[int]) -> None:
    """Refuse a window that the ONNX specification does not define."""
    rank = len(kernel)
    for key, length, least in (
        ("kernel_shape", rank, 1),
        ("strides", rank, 1),
        ("dilations", rank, 1),
        ("pads", 2 * rank, 0),
        ("output_padding", rank, 0),
    ):
        values = node.integers(key, [least] * length)
        if len(values) != length or min(values, default=least) < least:
            raise node.unsupported(
                f"expected {length} values of at least {least} as its {key}, but got {values}"
            )


def _check_float32(node: OnnxNode) -> None:
    """Refuse a layer whose data, weight or bias is of another type, as mixed models have it."""
    for index, expr in enumerate(node.inputs):
        kind = str(getattr(getattr(expr, "ty", None), "dtype", "float32"))
        if kind != "float32" and not node.is_left_out(index):
            raise node.unsupported(
                f"its input {index} is {kind}, and only float32 is handled; export the model in "
                "float32"
            )


def _transpose_padding(
    node: OnnxNode, kernel: Any, strides: list[int], dilations: list[int], extra: list[int]
) -> list[int]:
    """(top, left, bottom, right) of a transposed convolution: what is cut off its output."""
    mode = node.text("auto_pad", "NOTSET")
    size = node.attrs.get("output_shape")
    if size is None and mode == "NOTSET":
        return node.integers("pads", [0, 0, 0, 0])
    if size is None and mode == "VALID":
        return [0, 0, 0, 0]
    before, after = [], []
    for axis, (k, stride, dilation, add) in enumerate(
        zip(kernel, strides, dilations, extra, strict=True)
    ):
        span = (k - 1) * dilation + 1 + add
        if size is None:
            # The output is stride times the input, so the input's size cancels out.
            total = max(span - stride, 0)
        else:
            length = node.shape()[2 + axis]
            if not isinstance(length, int):
                raise node.unsupported("output_shape needs a static height and width")
            total = stride * (length - 1) + span - int(size[len(size) - 2 + axis])
        if total < 0:
            raise node.unsupported("output_shape is larger than the kernel reaches")
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before + after


def _with_channel_bias(node: OnnxNode, result: relax.Expr) -> relax.Expr:
    if node.is_left_out(2):
        return result
    bias = node.constant(2)
    layer = node.emit(result)
    node.result_suffix = ".bias"
    if bias is None:
        shape = [1, node.shape(2)[0], 1, 1]
        return relax.op.add(layer, node.emit(relax.op.reshape(node.inputs[2], shape), ".shape"))
    return relax.op.add(layer, float_constant(bias.reshape(1, -1, 1, 1)))


def gemm(node: OnnxNode) -> relax.Expr | None:
    """Gemm with a constant matrix: alpha, beta and the transposition go into the constants."""
    _check_float32(node)
    weight = node.constant(1)
    if weight is None:
        return None
    if node.attrs.get("transB", 0):
        weight = weight.T
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    data = node.inputs[0]
    if node.attrs.get("transA", 0):
        data = node.emit(relax.op.permute_dims(data, [1, 0]), ".transpose")
    result = relax.op.matmul(data, float_constant(_scaled(weight, alpha)))
    if node.is_left_out(2):
        return result
    layer = node.emit(result)
    node.result_suffix = ".bias"
    bias = node.constant(2)
    if bias is not None:
        bias = _scaled(bias, beta)
        if bias.size in (1, weight.shape[1]) and bias.shape[:-1] in ((), (1,)):
            bias = np.broadcast_to(bias.reshape(-1), (weight.shape[1],))
        return relax.op.add(layer, float_constant(bias))
    extra = node.inputs[2]
    if beta != 1.0:
        extra = node.emit(relax.op.multiply(extra, float_constant(beta)), ".beta")
    return relax.op.add(layer, extra)


def matmul(node: OnnxNode) -> relax.Expr | None:
    """MatMul is left to TVM, once the data of one with a constant matrix is known to be float32."""
    weight = node.constant(1)
    if weight is not None and weight.dtype.kind == "f":
        _check_float32(node)
    return None


def _scaled(values: NDArray[Any], factor: float) -> NDArray[Any]:
    return values if factor == 1.0 else values * np.float32(factor)


def batch_norm(node: OnnxNode) -> relax.Expr | None:
    """BatchNormalization with its running statistics; folding it is left to a pass."""
    if node.attrs.get("training_mode", 0):
        raise node.unsupported("it is in training mode: export the model in inference mode")
    if any(node.constant(index) is None for index in range(1, 5)):
        return None
    least = float(np.min(np.asarray(node.constant(4)), initial=np.inf))
    if not least + float(node.attrs.get("epsilon", 1e-5)) > 0:
        raise node.unsupported(f"its variance of {least:g} plus epsilon is not positive")
    tensors = [float_constant(np.asarray(node.constant(index))) for index in range(1, 5)]
    statistics = node.emit(
        relax.op.nn.batch_norm(
            node.inputs[0],
            *tensors,
            axis=1,
            epsilon=float(node.attrs.get("epsilon", 1e-5)),
            training=False,
        ),
        ".statistics",
    )
    return relax.TupleGetItem(statistics, 0)


def instance_norm(node: OnnxNode) -> relax.Expr | None:
    """InstanceNormalization as one operator: it stays on the host."""
    scale, offset = node.constant(1), node.constant(2)
    if scale is None or offset is None:
        return None
    return relax.op.nn.instance_norm(
        node.inputs[0],
        float_constant(scale),
        float_constant(offset),
        channel_axis=1,
        axes=list(range(2, len(node.shape()))),
        epsilon=float(node.attrs.get("epsilon", 1e-5)),
    )


def max_pool(node: OnnxNode) -> relax.Expr | None:
    """MaxPool on maps, its values only."""
    if sum(bool(name) for name in node.outputs) > 1:
        raise node.unsupported("its second output, the indices, is used")
    return _pool(node, relax.op.nn.max_pool2d)


def average_pool(node: OnnxNode) -> relax.Expr | None:
    """AveragePool on maps."""
    return _pool(
        node,
        relax.op.nn.avg_pool2d,
        count_include_pad=bool(node.attrs.get("count_include_pad", 0)),
    )


def _pool(node: OnnxNode, operator: Callable[..., relax.Expr], **extra: bool) -> relax.Expr | None:
    kernel = node.integers("kernel_shape", [])
    _check_window(node, kernel)
    if len(kernel) != 2:
        return None
    strides = node.integers("strides", [1, 1])
    dilations = node.integers("dilations", [1, 1])
    padding = spatial_padding(node, kernel, strides, dilations)
    for axis, pad in enumerate(padding):
        reach = (kernel[axis % 2] - 1) * dilations[axis % 2]
        if pad > reach:
            raise node.unsupported(f"a padding of {pad} makes windows of nothing but padding")
    return operator(
        node.inputs[0],
        pool_size=kernel,
        strides=strides,
        padding=padding,
        dilation=dilations,
        ceil_mode=bool(node.attrs.get("ceil_mode", 0)),
        **extra,
    )


def clip(node: OnnxNode) -> relax.Expr | None:
    """Clip with constant bounds; an open one is an infinity, and a lower one of 0 alone a ReLU."""
    if node.opset < 11:
        bounds = [float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))]
    else:
        bounds = [-np.inf, np.inf]
        for index in (0, 1):
            if node.is_left_out(index + 1):
                continue
            value = node.constant(index + 1)
            if value is None:
                return None
            bounds[index] = float(value.reshape(-1)[0])
    # The specification: where the bounds are crossed, every value becomes the upper one.
    lo, hi = min(bounds), bounds[1]
    if (lo, hi) == (-np.inf, np.inf):
        return node.inputs[0]
    if (lo, hi) == (0.0, np.inf):
        return relax.op.nn.relu(node.inputs[0])
    return relax.op.clip(node.inputs[0], lo, hi)


LAYER_CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "Clip": clip,
}
