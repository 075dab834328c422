"""Proofs, from the actual integers, that no 32-bit accumulator overflows.

Bounds are int64, one a channel. Every input value is taken as possible, so a bound is attained by
some input; nothing depends on data seen in calibration.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats.codes import DECODE_TABLE, validate
from tvm_shiftadd.formats.reciprocal import Reciprocal

INT32_MIN = -(1 << 31)
INT32_MAX = (1 << 31) - 1
INT8_MIN = -128
INT8_MAX = 127

#: Least and greatest value of a stored activation, by its type.
ACTIVATION_RANGES = MappingProxyType({"int8": (INT8_MIN, INT8_MAX), "uint8": (0, 255)})

#: A shift of a 32-bit integer is defined for 0 to 31 only.
MAX_SHIFT = 31

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]


def activation_range(dtype: DTypeLike) -> tuple[int, int]:
    """Least and greatest value of a stored activation. Raises InputError for any other type."""
    name = np.dtype(dtype).name
    if name not in ACTIVATION_RANGES:
        raise InputError(
            f"a stored activation is {' or '.join(ACTIVATION_RANGES)}, not {name}; "
            "quantise or requantise it"
        )
    return ACTIVATION_RANGES[name]


def accumulator_bounds(
    weight: NDArray[np.signedinteger],
    bias: NDArray[np.signedinteger],
    input_lo: int = INT8_MIN,
    input_hi: int = INT8_MAX,
) -> Bounds:
    """Least and greatest ``sum(w * x) + bias`` of each output: (lo, hi), int64 ``[O]``.

    weight: integers ``[R, O]``; bias: integers ``[O]``; x ranges over [input_lo, input_hi], which
    must hold 0 because padding is 0. Raises InputError otherwise or for shapes that do not fit.
    """
    if weight.ndim != 2 or bias.shape != weight.shape[1:]:
        raise InputError(
            f"bounds need a weight [R, O] and a bias [O], not {list(weight.shape)} and "
            f"{list(bias.shape)}; flatten the reduction axes first"
        )
    if not input_lo <= 0 <= input_hi:
        raise InputError(
            f"the input range must hold 0 (padding), not [{input_lo}, {input_hi}]; widen it"
        )
    wide = weight.astype(np.int64)
    positive = np.maximum(wide, 0).sum(axis=0)
    negative = np.minimum(wide, 0).sum(axis=0)
    offset = bias.astype(np.int64)
    return (
        positive * input_lo + negative * input_hi + offset,
        positive * input_hi + negative * input_lo + offset,
    )


def prove_int32(name: str, lo: NDArray[np.int64], hi: NDArray[np.int64]) -> Bounds:
    """Return (lo, hi) where all of it fits int32; else raise RangeError naming layer ``name``."""
    lo, hi = np.asarray(lo, dtype=np.int64), np.asarray(hi, dtype=np.int64)
    bad = (lo < INT32_MIN) | (hi > INT32_MAX)
    if bool(bad.any()):
        channel = int(np.flatnonzero(np.atleast_1d(bad))[0])
        low, high = (int(np.atleast_1d(v)[channel]) for v in np.broadcast_arrays(lo, hi))
        raise RangeError(
            f"{name}: channel {channel} can reach [{low}, {high}], which must fit int32; "
            "use fewer terms, a smaller weight exponent or keep this layer on the host"
        )
    return lo, hi


def prove_layer(
    name: str,
    codes: NDArray[np.uint8],
    bias: NDArray[np.signedinteger],
    input_lo: int = INT8_MIN,
    input_hi: int = INT8_MAX,
) -> Bounds:
    """Prove a layer of codes ``[K, R, O]``: every partial sum of its shifted terms fits int32.

    Terms may be added in any order, the bias first or last. Returns :func:`accumulator_bounds`
    of the decoded weights. Raises RangeError naming the layer, InputError for unusable codes.
    """
    validate(codes)
    terms = DECODE_TABLE[codes]
    flat = terms.reshape(-1, codes.shape[-1])
    nothing = np.zeros_like(bias)
    lo, hi = accumulator_bounds(flat, nothing, input_lo, input_hi)
    offset = bias.astype(np.int64)
    prove_int32(name, lo + np.minimum(offset, 0), hi + np.maximum(offset, 0))
    return accumulator_bounds(terms.sum(axis=0, dtype=np.int32), bias, input_lo, input_hi)


def prove_adder(name: str, weight: NDArray[np.int8], bias: NDArray[np.signedinteger]) -> Bounds:
    """Prove an adder layer, weight ``[R, O]``: ``bias - sum |x - w|`` fits int32 for int8 x.

    Distances may be added in any order, the bias first or last. Returns the bounds of the result.
    Raises RangeError naming the layer.
    """
    wide = weight.astype(np.int64)
    most = np.maximum(INT8_MAX - wide, wide - INT8_MIN).sum(axis=0)
    offset = bias.astype(np.int64)
    prove_int32(name, np.minimum(offset, 0) - most, np.maximum(offset, 0))
    return offset - most, offset


def prove_scale(
    name: str, lo: NDArray[np.int64], hi: NDArray[np.int64], codes: NDArray[np.uint8]
) -> Bounds:
    """Prove the sum of shifted copies of an accumulator in [lo, hi]; codes uint8 ``[K, C]``.

    Copies may be added in any order. Returns the bounds of the sum. Raises RangeError naming the
    layer, InputError for unusable codes.
    """
    validate(codes)
    terms = DECODE_TABLE[codes].astype(np.int64)
    reach = np.abs(terms).sum(axis=0) * np.maximum(np.abs(lo), np.abs(hi))
    prove_int32(name, -reach, reach)
    factor = terms.sum(axis=0)
    ends = (factor * lo, factor * hi)
    return np.minimum(*ends), np.maximum(*ends)


def _check_shift(name: str, what: str, shift: NDArray[np.int64], least: int) -> None:
    if bool(((shift < least) | (shift > MAX_SHIFT)).any()):
        raise RangeError(
            f"{name}: every {what} must be in [{least}, {MAX_SHIFT}], but they span "
            f"[{int(shift.min())}, {int(shift.max())}]; choose scales that are closer together"
        )


def _shift_left(lo: NDArray[np.int64], hi: NDArray[np.int64], by: NDArray[np.int64]) -> Bounds:
    # Python-sized headroom is not needed: callers pass int32 bounds, and 32 + 31 bits fit int64.
    return lo << by, hi << by


def prove_requantize(
    name: str,
    lo: NDArray[np.int64],
    hi: NDArray[np.int64],
    shift: NDArray[np.signedinteger],
    clip_lo: int = INT8_MIN,
    clip_hi: int = INT8_MAX,
) -> Bounds:
    """Prove requantisation of an accumulator in [lo, hi] by ``shift`` (int ``[C]`` or ``[1]``).

    Covers the rounding addend of a right shift and the result of a left shift. Returns the bounds
    of the stored result. Raises RangeError naming the layer, also for a shift beyond +-31.
    """
    lo, hi = prove_int32(name, lo, hi)
    by = np.asarray(shift, dtype=np.int64)
    _check_shift(name, "requantise shift", by, -MAX_SHIFT)
    right, left = np.maximum(by, 0), np.maximum(-by, 0)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    low, high = prove_int32(name, *_shift_left(lo + half, hi + half, left))
    return (
        np.clip(low >> right, clip_lo, clip_hi),
        np.clip(high >> right, clip_lo, clip_hi),
    )


def prove_add(
    name: str,
    lhs: Bounds,
    rhs: Bounds,
    lhs_shift: NDArray[np.signedinteger],
    rhs_shift: NDArray[np.signedinteger],
) -> Bounds:
    """Prove ``(lhs << lhs_shift) + (rhs << rhs_shift)``: both shifted operands and the sum.

    ``lhs`` and ``rhs`` are (lo, hi). Returns the bounds of the sum. Raises RangeError naming the
    layer, also for a shift outside 0 to 31.
    """
    shifted = []
    for bounds, shift in ((lhs, lhs_shift), (rhs, rhs_shift)):
        by = np.asarray(shift, dtype=np.int64)
        _check_shift(name, "alignment shift", by, 0)
        shifted.append(prove_int32(name, *_shift_left(*prove_int32(name, *bounds), by)))
    (left_lo, left_hi), (right_lo, right_hi) = shifted
    return prove_int32(name, left_lo + right_lo, left_hi + right_hi)


def avg_pool_bounds(
    scale: Reciprocal, input_lo: int = INT8_MIN, input_hi: int = INT8_MAX
) -> Bounds:
    """Bounds of an average pooling's int32 result, int64 ``[1]``.

    No proof is needed: :func:`~tvm_shiftadd.formats.reciprocal.reciprocal` gives only
    reciprocals whose partial sums fit int32 for stored activations.
    """
    factors = [
        count * sum(sign << left for sign, left in terms) for count, terms in scale.terms.items()
    ]
    top = max(factors)
    return (
        np.array([input_lo * top], dtype=np.int64),
        np.array([input_hi * top], dtype=np.int64),
    )
