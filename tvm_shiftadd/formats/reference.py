"""The meaning of every shift-add operator on integer arrays: the oracle for all back ends.

Maps are ``[N, H, W, C]``. A stored activation is int8, or uint8 where nothing can be negative:
the type of an operand says which range its values have. The linear operators take decoded integer
weights (see :func:`tvm_shiftadd.formats.packing.decode_packed`); a sum of signed shifts equals a
product with the decoded integer, so products are used here, and compilers under test use shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import linear
from tvm_shiftadd.formats.adder import adder_conv2d, adder_dense
from tvm_shiftadd.formats.codes import decode
from tvm_shiftadd.formats.pooling import Activations, avg_pool2d, avg_pool_reciprocal, max_pool2d
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES, INT32_MAX, activation_range
from tvm_shiftadd.formats.windows import Padding, Pair

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

__all__ = [
    "add",
    "adder_conv2d",
    "adder_dense",
    "avg_pool2d",
    "avg_pool_reciprocal",
    "clip",
    "concat",
    "conv2d",
    "conv2d_transpose",
    "dense",
    "dequantize",
    "max_pool2d",
    "pad",
    "quantize",
    "requantize",
    "scale",
    "upsample2d",
]

#: Scales 2^-e with e beyond this are refused: within it, scaling a float32 that matters by 2^e
#: never leaves the normal numbers.
MAX_SCALE = 64

#: What reads stored activations and accumulators alike.
_ANY = (*ACTIVATION_RANGES, "int32")


def _need(name: str, array: NDArray[Any], *kinds: str) -> None:
    if array.dtype.name not in kinds:
        raise InputError(
            f"{name} needs {' or '.join(kinds)}, not {array.dtype.name}; "
            "quantise or requantise the operand first"
        )


def _check_scale(exponent: NDArray[Any]) -> None:
    if bool((np.abs(exponent) > MAX_SCALE).any()):
        raise InputError(
            f"a scale exponent must be in [-{MAX_SCALE}, {MAX_SCALE}], but they span "
            f"[{int(exponent.min())}, {int(exponent.max())}]; rescale the model's tensors"
        )


def quantize(x: Float32, exponent: int, dtype: DTypeLike = np.int8) -> Activations:
    """float32 to int8 or uint8 on scale 2^-exponent: NaN is 0, ties round to even, values saturate.

    Raises InputError for another type or an exponent out of range.
    """
    _need("quantize", x, "float32")
    _check_scale(np.asarray(exponent))
    limit = np.ldexp(np.float32(1), 8 - exponent)
    scaled = np.ldexp(np.clip(np.nan_to_num(x, nan=0.0), -limit, limit), exponent)
    return np.clip(np.rint(scaled), *activation_range(dtype)).astype(dtype)


def dequantize(x: Activations | Int32, exponent: NDArray[np.int32]) -> Float32:
    """int8, uint8 or int32 to float32: rounded to nearest even, then times 2^-exponent exactly.

    ``exponent``: int32 ``[C]`` or ``[1]``, along the last axis of ``x``.
    """
    _need("dequantize", x, *_ANY)
    exponent = np.asarray(exponent)
    _check_scale(exponent)
    # int32 to float32 rounds to nearest even; the power of two is a normal float32, so exact.
    return x.astype(np.float32) * np.ldexp(np.float32(1), -exponent)


def _exact(magnitude: int, weight: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """The weight in the fastest float type whose sums up to ``magnitude`` are exact integers."""
    return weight.astype(np.float32 if magnitude <= 1 << 24 else np.float64)


def _prepare(
    name: str, x: Activations, weight: Int32, bias: Int32 | None, axes: tuple[int, ...]
) -> NDArray[Any]:
    """Check a linear operator; give its weight in a type that computes exactly."""
    _need(name, x, *ACTIVATION_RANGES)
    _need(f"{name} weight", weight, "int32", "int8")
    largest = max(map(abs, activation_range(x.dtype)))
    total = np.abs(weight.astype(np.int64)).sum(axis=axes) * largest
    reach = total
    if bias is not None:
        _need(f"{name} bias", bias, "int32")
        if bias.shape != total.shape:
            raise InputError(
                f"{name} needs a bias {list(total.shape)}, not {list(bias.shape)}; "
                "give one value an output channel"
            )
        reach = total + np.abs(bias.astype(np.int64))
    if bool((reach > INT32_MAX).any()):
        raise RangeError(
            f"{name} can reach {int(reach.max())}, which must fit int32; "
            "prove the layer with formats.ranges before running it"
        )
    return _exact(int(total.max(initial=0)), weight)


def conv2d(
    x: Activations,
    weight: Int32,
    bias: Int32 | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Int32:
    """Convolution: int8 or uint8 ``[N, H, W, I]`` and int32 ``[kh, kw, I/groups, O]`` to int32.

    Raises RangeError where an accumulator could leave int32, InputError for shapes or dtypes that
    do not fit.
    """
    return linear.conv2d(
        x,
        _prepare("conv2d", x, weight, bias, (0, 1, 2)),
        bias,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        out_dtype=np.int32,
    )


def conv2d_transpose(
    x: Activations,
    weight: Int32,
    bias: Int32 | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Int32:
    """Transposed convolution: ``out[y*s - p + ky*d] += x[y] * weight[ky]``, weight
    ``[kh, kw, I, O]``, one group. Errors as :func:`conv2d`.
    """
    return linear.conv2d_transpose(
        x,
        _prepare("conv2d_transpose", x, weight, bias, (0, 1, 2)),
        bias,
        strides=strides,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        out_dtype=np.int32,
    )


def dense(x: Activations, weight: Int32, bias: Int32 | None = None) -> Int32:
    """Fully connected: int8 or uint8 ``[..., I]``, int32 ``[I, O]`` to int32 ``[..., O]``.

    Errors as :func:`conv2d`.
    """
    return linear.dense(x, _prepare("dense", x, weight, bias, (0,)), bias, out_dtype=np.int32)


def requantize(
    acc: Activations | Int32,
    shift: NDArray[np.int32],
    lo: int | None = None,
    hi: int | None = None,
    dtype: DTypeLike = np.int8,
) -> Activations:
    """Accumulators to int8 or uint8, clamped to [lo, hi], which are by default all of that type.

    ``shift``: int32 ``[C]`` or ``[1]``, along the last axis.

    n >= 1: ``(acc + 2^(n-1)) >> n``, an arithmetic shift, so halves round up; n = 0: acc;
    n < 0: ``acc << -n``.
    """
    _need("requantize", acc, *_ANY)
    shift = np.asarray(shift)
    least, most = activation_range(dtype)
    lo, hi = least if lo is None else lo, most if hi is None else hi
    if bool((np.abs(shift) > 31).any()) or not least <= lo <= hi <= most:
        raise InputError(
            f"requantize needs shifts in [-31, 31] and bounds within {np.dtype(dtype).name}, not "
            f"[{int(shift.min())}, {int(shift.max())}] and [{lo}, {hi}]; choose other scales"
        )
    if bool((shift >= 1).all()):
        # Equal to the definition, without an addend that could overflow int32.
        by = shift.astype(np.int32)
        wide = acc.astype(np.int32, copy=False)
        rounded = (wide >> by) + ((wide >> (by - 1)) & 1)
    else:
        by = shift.astype(np.int64)
        right, left = np.maximum(by, 0), np.maximum(-by, 0)
        half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
        rounded = ((acc.astype(np.int64) + half) >> right) << left
    return np.clip(rounded, lo, hi).astype(dtype)


def scale(x: Activations | Int32, codes: NDArray[np.uint8]) -> Int32:
    """The sum of one to three shifted copies of ``x`` a channel, in int32.

    codes: uint8 ``[K, C]`` or ``[K, 1]``, term codes (not packed) along the last axis of x: the
    result is ``sum over k of +-(x << exponent(codes[k]))``. Raises InputError for unusable codes
    and RangeError where these values leave int32.
    """
    _need("scale", x, *_ANY)
    factor = decode(codes)
    largest = max(abs(int(x.max(initial=0))), abs(int(x.min(initial=0))))
    if largest * int(np.abs(factor).max(initial=0)) <= INT32_MAX:
        return np.asarray(x.astype(np.int32, copy=False) * factor)
    # int64 costs twice the time; only values that might leave int32 need the check.
    result = x.astype(np.int64) * factor
    if bool((np.abs(result) > INT32_MAX).any()):
        raise RangeError("scale left int32; prove it with formats.ranges.prove_scale first")
    return result.astype(np.int32)


def add(
    lhs: Activations | Int32,
    rhs: Activations | Int32,
    lhs_shift: NDArray[np.int32],
    rhs_shift: NDArray[np.int32],
) -> Int32:
    """``(lhs << lhs_shift) + (rhs << rhs_shift)`` in int32; shifts int32 ``[C]`` or ``[1]``.

    Raises RangeError where these operands leave int32.
    """
    _need("add", lhs, *_ANY)
    _need("add", rhs, *_ANY)
    shifts = [np.asarray(shift, dtype=np.int32) for shift in (lhs_shift, rhs_shift)]
    if any(bool(((shift < 0) | (shift > 31)).any()) for shift in shifts):
        raise InputError("add needs shifts in [0, 31]; align both operands to the finer scale")
    reach = sum(
        max(abs(int(operand.max(initial=0))), abs(int(operand.min(initial=0)))) << int(shift.max())
        for operand, shift in zip((lhs, rhs), shifts, strict=True)
    )
    # int64 costs twice the time; only operands that might leave int32 need the check.
    kind = np.int32 if reach <= INT32_MAX else np.int64
    total = (lhs.astype(kind) << shifts[0]) + (rhs.astype(kind) << shifts[1])
    result = total.astype(np.int32, copy=False)
    if kind is np.int64 and not np.array_equal(result, total):
        raise RangeError("add left int32; prove the operands with formats.ranges.prove_add first")
    return result


def clip(x: Activations, lo: int, hi: int) -> Activations:
    """Stored values limited to [lo, hi], of the type they have.

    Raises InputError for bounds beyond that type.
    """
    _need("clip", x, *ACTIVATION_RANGES)
    least, most = activation_range(x.dtype)
    if not least <= lo <= hi <= most:
        raise InputError(f"clip needs bounds within {x.dtype}, not [{lo}, {hi}]; limit them")
    return np.clip(x, lo, hi).astype(x.dtype)


def concat(tensors: Sequence[Activations], axis: int) -> Activations:
    """Tensors of one type and on one scale, joined along ``axis``."""
    for tensor in tensors:
        _need("concat", tensor, *ACTIVATION_RANGES)
        _need("concat", tensor, tensors[0].dtype.name)
    return np.concatenate(list(tensors), axis=axis)


def pad(x: Activations, pad_width: Sequence[int]) -> Activations:
    """Zeros around ``x``: ``pad_width`` is (before, after) for each axis, flat."""
    _need("pad", x, *ACTIVATION_RANGES)
    return np.pad(x, np.reshape(np.asarray(pad_width), (x.ndim, 2)))


def upsample2d(x: Activations, scale: Pair) -> Activations:
    """Nearest-neighbour enlargement of maps ``[N, H, W, C]`` by integers (vertical, horizontal)."""
    _need("upsample2d", x, *ACTIVATION_RANGES)
    return np.repeat(np.repeat(x, scale[0], axis=1), scale[1], axis=2)
