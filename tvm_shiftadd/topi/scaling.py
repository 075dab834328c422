"""Compute definitions between float32 and integers, and between integer scales.

A power-of-two scale is an addition to a float's exponent field, never a multiplication: a normal
float32 is ``sign | (127 + e) << 23 | fraction``, and non-negative floats are ordered as their
bits are, so clamping works on the bits too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.formats.ranges import activation_range

_FRACTION_BITS = 23
_BIAS = 127
_INFINITY = 255 << _FRACTION_BITS
_MAGNITUDE = (1 << 31) - 1

_MAX_SHIFT = 31


def int32(value: int) -> Any:
    """An int32 constant."""
    return tirx.const(value, "int32")


def of_channel(vector: Any, indices: tuple[Any, ...]) -> Any:
    """Element of a ``[C]`` or ``[1]`` vector for the channel, the last of ``indices``."""
    single = isinstance(vector.shape[0], tirx.IntImm) and int(vector.shape[0]) == 1
    return vector[0] if single else vector[indices[-1]]


def clamp(value: Any, low: int, high: int) -> Any:
    """int32 ``value`` limited to [low, high]."""
    return tirx.max(tirx.min(value, int32(high)), int32(low))


def quantize(x: Any, exponent: int, *, dtype: str = "int8") -> Any:
    """float32 ``x`` of any shape to int8 or uint8 on the scale 2^-exponent.

    NaN gives 0; x * 2^exponent is rounded half to even and saturated to the range of the type.
    """

    def body(*i: Any) -> Any:
        bits = tirx.reinterpret("int32", x(*i))
        return quantized(bits, exponent, dtype, int32).astype(dtype)

    return te.compute(x.shape, body, name="quantize")


def quantized(bits: Any, exponent: int, dtype: str, constant: Callable[[int], Any]) -> Any:
    """The bits of a float32, int32, as the int32 that ``quantize`` gives.

    ``bits`` may be a vector; ``constant`` makes a constant like it.
    """
    # 2^(8 - exponent) scales to 256: beyond it every value saturates, and none can wrap.
    limit = (_BIAS + 8 - exponent) << _FRACTION_BITS
    # Below: zero, subnormal, or the exponent field would not stay positive. All round to 0.
    least = max(1, 1 - exponent) << _FRACTION_BITS
    magnitude = bits & constant(_MAGNITUDE)
    scaled = tirx.min(magnitude, constant(limit)) + constant(exponent << _FRACTION_BITS)
    nothing = (magnitude < constant(least)) | (magnitude > constant(_INFINITY))
    signed = tirx.Select(nothing, constant(0), scaled | (bits & constant(-_MAGNITUDE - 1)))
    kind = str(bits.ty.dtype)
    rounded = tirx.nearbyint(tirx.reinterpret(kind.replace("int", "float"), signed))
    least_value, most_value = map(constant, activation_range(dtype))
    return tirx.max(tirx.min(rounded.astype(kind), most_value), least_value)


def dequantize(x: Any, exponent: Any) -> Any:
    """int8, uint8 or int32 ``x [..., C]`` to float32(x) * 2^-exponent.

    ``exponent``: int32 ``[C]`` or ``[1]``. The integer is rounded to the nearest float32; the
    scaling is exact for |exponent| <= 64.
    """

    def body(*i: Any) -> Any:
        value = x(*i).astype("int32")
        bits = tirx.reinterpret("int32", value.astype("float32"))
        scaled = bits - (of_channel(exponent, i) << int32(_FRACTION_BITS))
        # Zero has no exponent to add to.
        return tirx.reinterpret("float32", tirx.Select(value == int32(0), int32(0), scaled))

    return te.compute(x.shape, body, name="dequantize")


def scale(x: Any, codes: Any) -> Any:
    """int8, uint8 or int32 ``x [..., C]`` as an int32 sum of shifted copies.

    ``codes`` is uint8 ``[K, C]`` or ``[K, 1]``. A copy is 0 where the code's
    magnitude m is 0, else +-(x << (m - 1)).
    """
    single = isinstance(codes.shape[1], tirx.IntImm) and int(codes.shape[1]) == 1

    def copy(value: Any, code: Any) -> Any:
        magnitude = code & int32(7)
        shifted = value << tirx.max(magnitude - int32(1), int32(0))
        present = tirx.Select(magnitude == int32(0), int32(0), shifted)
        return tirx.Select((code & int32(8)) != int32(0), int32(0) - present, present)

    def body(*i: Any) -> Any:
        value = x(*i).astype("int32")
        channel = 0 if single else i[-1]
        total = int32(0)
        for term in range(int(codes.shape[0])):
            total = total + copy(value, codes[term, channel].astype("int32"))
        return total

    return te.compute(x.shape, body, name="scale")


def requantize(x: Any, shift: Any, *, lo: int, hi: int, dtype: str = "int8") -> Any:
    """int8, uint8 or int32 ``x [..., C]`` to ``dtype`` in [lo, hi] by ``shift``, n.

    ``shift`` is int32 ``[C]`` or ``[1]``. n >= 1: (x + 2^(n-1)) >> n, so halves round up;
    n <= 0: x << -n.
    """

    def body(*i: Any) -> Any:
        value = x(*i).astype("int32")
        n = of_channel(shift, i)
        # Select evaluates both sides: neither may shift by an amount outside 0..31.
        right = clamp(n, 1, _MAX_SHIFT)
        left = clamp(int32(0) - n, 0, _MAX_SHIFT)
        rounded = (value + (int32(1) << (right - int32(1)))) >> right
        shifted = tirx.Select(n >= int32(1), rounded, value << left)
        return clamp(shifted, lo, hi).astype(dtype)

    return te.compute(x.shape, body, name="requantize")
