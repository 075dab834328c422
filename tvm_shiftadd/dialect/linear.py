"""The layers with weights: conv2d, conv2d_transpose and dense.

Their weight is a packed code matrix, uint8 ``[K, ceil(R/2), O]`` (K terms a weight, two codes a
byte along the flattened reduction R, O output channels); see docs/integer-specification.md. The
result is the int32 accumulator, bias added, on the scale 2^-(a_x + b[c]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import Conv2DAttrs, Conv2DTransposeAttrs
from tvm_shiftadd.dialect.types import ACTIVATIONS, Operands, tensor_type
from tvm_shiftadd.formats.codes import MAX_TERMS
from tvm_shiftadd.formats.windows import conv_map_size, transpose_map_size

_ARGUMENTS = (
    ("x", "int8 or uint8 activations, channels last"),
    ("codes", "uint8 [K, ceil(R/2), O], packed weight codes"),
    ("bias", "int32 [O], on the accumulator's scale"),
)


def conv2d(
    x: Any,
    codes: Any,
    bias: Any,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """2-D convolution: int8 or uint8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``.

    ``padding`` is (top, left, bottom, right), zeros. R = kh * kw * (I / groups), flattened in
    that order. Depthwise is groups = I. Raises VerificationError on attributes that are not
    allowed; type inference raises it on operands that do not fit.
    """
    attrs = Conv2DAttrs(kernel_size, strides, padding, dilation, groups)  # type: ignore[arg-type]
    return relax.Call(registry.op("conv2d"), [x, codes, bias], attrs.to_node())


def conv2d_transpose(
    x: Any,
    codes: Any,
    bias: Any,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    output_padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Any:
    """Transposed 2-D convolution: int8 or uint8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``.

    output[y * stride - top + ky * dilation] += x[y] * weight[ky]; OH = (H - 1) * stride - top
    - bottom + (kh - 1) * dilation + 1 + output_padding. R = kh * kw * I, in that order. Raises
    VerificationError as conv2d does.
    """
    attrs = Conv2DTransposeAttrs(
        kernel_size,  # type: ignore[arg-type]
        strides,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        output_padding,  # type: ignore[arg-type]
        dilation,  # type: ignore[arg-type]
    )
    return relax.Call(registry.op("conv2d_transpose"), [x, codes, bias], attrs.to_node())


def dense(x: Any, codes: Any, bias: Any) -> Any:
    """Matrix product: int8 or uint8 ``[..., I]`` to int32 ``[..., O]``; R = I.

    Raises VerificationError at type inference on operands that do not fit.
    """
    return relax.Call(registry.op("dense"), [x, codes, bias])


def _check_weight(operands: Operands, reduction: int) -> int:
    """Check codes and bias of a layer whose reduction has that length; returns O."""
    terms, rows, outputs = operands.tensor(1, "uint8", "[K, ceil(R/2), O]")
    operands.require(
        all(isinstance(d, int) for d in (terms, rows, outputs)), "codes of a known shape"
    )
    operands.require(1 <= terms <= MAX_TERMS, f"codes of 1 to {MAX_TERMS} terms")
    expected = (reduction + 1) // 2
    operands.require(
        rows == expected, f"codes with {expected} rows (two codes a byte for R = {reduction})"
    )
    (channels,) = operands.tensor(2, "int32", "[O]")
    operands.require(channels == outputs, f"bias int32 [{outputs}], one value an output of codes")
    return int(outputs)


def _infer_conv2d(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    attrs = Conv2DAttrs.of(call)
    n, h, w, c = operands.image(0, ACTIVATIONS)
    operands.require(
        c % attrs.groups == 0, f"channels of x to be a multiple of groups = {attrs.groups}"
    )
    kh, kw = attrs.kernel_size
    outputs = _check_weight(operands, kh * kw * (c // attrs.groups))
    operands.require(
        outputs % attrs.groups == 0, f"outputs of codes a multiple of groups = {attrs.groups}"
    )
    with operands.expecting("a window that fits"):
        size = conv_map_size((h, w), (kh, kw), attrs.strides, attrs.padding, attrs.dilation)
    return tensor_type((n, *size, outputs), "int32")


def _infer_conv2d_transpose(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    attrs = Conv2DTransposeAttrs.of(call)
    n, h, w, c = operands.image(0, ACTIVATIONS)
    kh, kw = attrs.kernel_size
    outputs = _check_weight(operands, kh * kw * c)
    window = ((kh, kw), attrs.strides, attrs.padding, attrs.dilation, attrs.output_padding)
    with operands.expecting("a result that is not empty"):
        size = transpose_map_size((h, w), *window)
    return tensor_type((n, *size, outputs), "int32")


def _infer_dense(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    dims = operands.tensor(0, ACTIVATIONS, "[..., I]")
    known = len(dims) >= 1 and isinstance(dims[-1], int)
    operands.require(known, "x with a known last dimension")
    outputs = _check_weight(operands, int(dims[-1]))
    return tensor_type((*dims[:-1], outputs), "int32")


def _legalize_conv2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import conv

    return registry.call_te(builder, call, conv.conv2d, Conv2DAttrs)


def _legalize_conv2d_transpose(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import conv

    return registry.call_te(builder, call, conv.conv2d_transpose, Conv2DTransposeAttrs)


def _legalize_dense(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import dense as topi_dense

    return registry.call_te(builder, call, topi_dense.dense)


SPECS = (
    registry.OpSpec(
        "conv2d",
        "2-D convolution by shift-add weight codes",
        _ARGUMENTS,
        _infer_conv2d,
        _legalize_conv2d,
    ),
    registry.OpSpec(
        "conv2d_transpose",
        "transposed 2-D convolution by shift-add weight codes",
        _ARGUMENTS,
        _infer_conv2d_transpose,
        _legalize_conv2d_transpose,
    ),
    registry.OpSpec(
        "dense",
        "matrix product by shift-add weight codes",
        _ARGUMENTS,
        _infer_dense,
        _legalize_dense,
    ),
)
