"""Between float and integers, and between integer scales."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import constant_array, relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import (
    QuantizeAttrs,
    RequantizeAttrs,
)
from tvm_shiftadd.dialect.types import INTEGERS, Operands, same, tensor_type
from tvm_shiftadd.formats.codes import MAX_TERMS, validate
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES
from tvm_shiftadd.formats.reference import MAX_SCALE

#: A requantising shift: to the right where positive, to the left where negative.
MAX_SHIFT = 31


def quantize(x: Any, exponent: int, *, dtype: str = "int8") -> Any:
    """float32 of any shape to ``dtype``, int8 or uint8, on the scale 2^-exponent.

    NaN becomes 0; x * 2^exponent is rounded half to even and saturated to the range of the type.
    Raises VerificationError if the exponent is out of range, or for another type.
    """
    return relax.Call(registry.op("quantize"), [x], QuantizeAttrs(exponent, dtype).to_node())


def dequantize(x: Any, exponent: Any) -> Any:
    """int8, uint8 or int32 ``[..., C]`` to float32(x) * 2^-exponent.

    ``exponent`` is an int32 constant ``[C]`` or ``[1]``. The integer is rounded to the nearest
    float32; the scaling is exact.
    """
    return relax.Call(registry.op("dequantize"), [x, exponent])


def requantize(
    x: Any, shift: Any, *, lo: int | None = None, hi: int | None = None, dtype: str = "int8"
) -> Any:
    """int8, uint8 or int32 ``[..., C]`` to int8 or uint8 by a rounding shift a channel.

    The result is clamped to [lo, hi], by default the whole range of ``dtype``.

    ``shift`` is an int32 constant ``[C]`` or ``[1]``, n: for n >= 1 (x + 2^(n-1)) >> n, else
    x << -n. Raises VerificationError if lo and hi are no range of the type.
    """
    least, most = ACTIVATION_RANGES.get(dtype, (0, 0))
    attrs = RequantizeAttrs(least if lo is None else lo, most if hi is None else hi, dtype)
    return relax.Call(registry.op("requantize"), [x, shift], attrs.to_node())


def scale(x: Any, codes: Any) -> Any:
    """int8, uint8 or int32 ``[..., C]`` to int32: the sum of one to three shifted copies a channel.

    ``codes`` is uint8 ``[K, C]`` or ``[K, 1]``, K in 1 to 3, term codes, not packed: the channel is
    multiplied by their sum. Followed by requantize it is the finer requantisation.
    """
    return relax.Call(registry.op("scale"), [x, codes])


def _infer_scale(call: Any) -> Any:
    operands = Operands(call, ["x", "codes"])
    dims = operands.tensor(0, INTEGERS, "[..., C]")
    terms, channels = operands.tensor(1, "uint8", "[K, C]")
    known = isinstance(terms, int) and 1 <= terms <= MAX_TERMS
    operands.require(known, f"codes of 1 to {MAX_TERMS} terms")
    fits = len(dims) > 0 and (channels == 1 or same(channels, dims[-1]))
    operands.require(fits, "codes of one factor or one a channel of x")
    values = constant_array(call.args[1])
    if values is not None:
        with operands.expecting("valid term codes"):
            validate(values)
    return tensor_type(dims, "int32")


def _infer_quantize(call: Any) -> Any:
    operands = Operands(call, ["x"])
    dtype = QuantizeAttrs.of(call).dtype
    return tensor_type(operands.tensor(0, "float32", "[...]"), dtype)


def _infer_dequantize(call: Any) -> Any:
    operands = Operands(call, ["x", "exponent"])
    dims = operands.tensor(0, INTEGERS, "[..., C]")
    operands.channel_vector(1, dims, -MAX_SCALE, MAX_SCALE)
    return tensor_type(dims, "float32")


def _infer_requantize(call: Any) -> Any:
    operands = Operands(call, ["x", "shift"])
    dtype = RequantizeAttrs.of(call).dtype
    dims = operands.tensor(0, INTEGERS, "[..., C]")
    operands.channel_vector(1, dims, -MAX_SHIFT, MAX_SHIFT)
    return tensor_type(dims, dtype)


def _legalize_quantize(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import scaling

    return registry.call_te(builder, call, scaling.quantize, QuantizeAttrs)


def _legalize_dequantize(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import scaling

    return registry.call_te(builder, call, scaling.dequantize)


def _legalize_requantize(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import scaling

    return registry.call_te(builder, call, scaling.requantize, RequantizeAttrs)


def _legalize_scale(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import scaling

    return registry.call_te(builder, call, scaling.scale)


SPECS = (
    registry.OpSpec(
        "quantize",
        "float32 to int8 or uint8 on a power-of-two scale",
        (("x", "float32"),),
        _infer_quantize,
        _legalize_quantize,
    ),
    registry.OpSpec(
        "dequantize",
        "int8, uint8 or int32 to float32 from a power-of-two scale",
        (("x", "int8, uint8 or int32, channels last"), ("exponent", "int32 [C] or [1]")),
        _infer_dequantize,
        _legalize_dequantize,
    ),
    registry.OpSpec(
        "requantize",
        "to int8 or uint8 by a rounding shift a channel, clamped",
        (("x", "int8, uint8 or int32, channels last"), ("shift", "int32 [C] or [1]")),
        _infer_requantize,
        _legalize_requantize,
    ),
    registry.OpSpec(
        "scale",
        "sum of at most three shifted copies a channel",
        (
            ("x", "int8, uint8 or int32, channels last"),
            ("codes", "uint8 [K, C] or [K, 1], term codes"),
        ),
        _infer_scale,
        _legalize_scale,
    ),
)
