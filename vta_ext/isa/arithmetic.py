"""What the operations compute: functions on integer vectors, one vector a micro-op.

Every result is int32 and wraps as 32-bit hardware does; the checker proves that it need not.
Shift amounts are six bits, read as -32 to 31: a negative one shifts the other way.
The rounding and the term codes are those of docs/integer-specification.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats.codes import DECODE_TABLE

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


def wrap(value: Int64) -> Int32:
    """The low 32 bits of ``value``, as a signed number."""
    return value.astype(np.int32)


def amount(lanes: Int32) -> Int64:
    """The shift that a lane stands for: its low six bits, -32 to 31."""
    return ((lanes.astype(np.int64) & 63) ^ 32) - 32


def _shift_right(value: Int64, by: Int64) -> Int64:
    """``value >> by``, or ``value << -by`` where ``by`` is negative; not yet wrapped."""
    return np.where(by >= 0, value >> np.maximum(by, 0), value << np.maximum(-by, 0))


def minimum(x: Int32, y: Int32) -> Int32:
    """The smaller of the two."""
    return np.minimum(x, y)


def maximum(x: Int32, y: Int32) -> Int32:
    """The larger of the two."""
    return np.maximum(x, y)


def add(x: Int32, y: Int32) -> Int32:
    """The sum."""
    return wrap(x.astype(np.int64) + y)


def multiply(x: Int32, y: Int32) -> Int32:
    """The low 32 bits of the product."""
    return wrap(x.astype(np.int64) * y)


def shift_right(x: Int32, y: Int32) -> Int32:
    """``x >> y``, rounding down; a left shift where y is negative."""
    return wrap(_shift_right(x.astype(np.int64), amount(y)))


def rounding_shift(x: Int32, y: Int32) -> Int32:
    """``(x + 2**(y-1)) >> y`` where y > 0, so that halves round up; ``x << -y`` elsewhere."""
    by = amount(y)
    half = np.where(by > 0, np.int64(1) << np.maximum(by - 1, 0), 0)
    # The rounding addend goes into a 33-bit sum: it may not wrap the accumulator.
    return wrap(_shift_right(x.astype(np.int64) + half, by))


def absolute_difference(x: Int32, y: Int32) -> Int32:
    """``|x - y|``."""
    return wrap(np.abs(x.astype(np.int64) - y))


def shift_and_add(x: Int32, y: Int32, *, shift: int, subtract: int, replace: int) -> Int32:
    """``x + (y << shift)``; minus with ``subtract``; without x with ``replace``."""
    term = y.astype(np.int64) << shift
    return wrap((0 if replace else x.astype(np.int64)) + (-term if subtract else term))


def lane_shift_accumulate(x: Int32, y: Int32, codes: Int32, *, row: int, replace: int) -> Int32:
    """``x +- (y << exponent)`` with the term codes of a row of weights, lane by lane."""
    term = y.astype(np.int64) * DECODE_TABLE[codes]
    return wrap((0 if replace else x.astype(np.int64)) + term)


def clip(x: Int32, *, lo: int, hi: int) -> Int32:
    """x limited to [lo, hi]: a saturating narrow to 8 bits or less."""
    return np.minimum(np.maximum(x, np.int32(lo)), np.int32(hi))


def requantize(x: Int32, bias: Int32, shift: Int32, *, lo: int, hi: int) -> Int32:
    """Bias, rounding shift and clip in one: ``clip(rounding_shift(x + bias, shift), lo, hi)``."""
    return clip(rounding_shift(add(x, bias), shift), lo=lo, hi=hi)


def multiply_products(inputs: Int32, weights: Int32) -> Int32:
    """Sum over i of ``inputs[n, b, i] * weights[n, o, i]``: int32 ``[n, b, o]``."""
    return np.einsum("nbi,noi->nbo", inputs, weights, dtype=np.int32)


def shift_products(inputs: Int32, codes: Int32) -> Int32:
    """Sum over i of ``+-(inputs[n, b, i] << exponent(codes[n, o, i]))``: int32 ``[n, b, o]``."""
    return multiply_products(inputs, DECODE_TABLE[codes].astype(np.int32))


def adder_products(inputs: Int32, weights: Int32) -> Int32:
    """Minus the sum over i of ``|inputs[n, b, i] - weights[n, o, i]|``: int32 ``[n, b, o]``."""
    distance = np.abs(inputs[:, :, None, :] - weights[:, None, :, :])
    return -distance.sum(axis=3, dtype=np.int32)
