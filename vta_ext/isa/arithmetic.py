"""What the operations compute: functions on integer vectors, one vector a micro-op.

ALU functions take int32 or int64 and give exact int64 results. The machine keeps the low 32 bits
(:func:`wrap`); the checker proves that nothing is lost by it.
Shift amounts are six bits, read as -32 to 31: a negative one shifts the other way.
The rounding and the term codes are those of docs/integer-specification.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats.codes import DECODE_TABLE

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
#: What ALU functions take.
Lanes = NDArray[np.signedinteger[Any]]


def wrap(value: Int64) -> Int32:
    """The low 32 bits of ``value``, as a signed number."""
    return value.astype(np.int32)


def amount(lanes: Lanes) -> Int64:
    """The shift that a lane stands for: its low six bits, -32 to 31."""
    return ((lanes.astype(np.int64) & 63) ^ 32) - 32


def _shift_right(value: Int64, by: Int64) -> Int64:
    """``value >> by``, or ``value << -by`` where ``by`` is negative."""
    return np.where(by >= 0, value >> np.maximum(by, 0), value << np.maximum(-by, 0))


def minimum(x: Lanes, y: Lanes) -> Int64:
    """The smaller of the two."""
    return np.minimum(x, y).astype(np.int64)


def maximum(x: Lanes, y: Lanes) -> Int64:
    """The larger of the two."""
    return np.maximum(x, y).astype(np.int64)


def add(x: Lanes, y: Lanes) -> Int64:
    """The sum."""
    return x.astype(np.int64) + y


def multiply(x: Lanes, y: Lanes) -> Int64:
    """The product."""
    return x.astype(np.int64) * y


def shift_right(x: Lanes, y: Lanes) -> Int64:
    """``x >> y``, rounding down; a left shift where y is negative."""
    return _shift_right(x.astype(np.int64), amount(y))


def rounding_shift(x: Lanes, y: Lanes) -> Int64:
    """``(x + 2**(y-1)) >> y`` where y > 0, so that halves round up; ``x << -y`` elsewhere.

    The rounding addend goes into a sum of 33 bits: it does not wrap.
    """
    by = amount(y)
    half = np.where(by > 0, np.int64(1) << np.maximum(by - 1, 0), 0)
    return _shift_right(x.astype(np.int64) + half, by)


def absolute_difference(x: Lanes, y: Lanes) -> Int64:
    """``|x - y|``."""
    return np.abs(x.astype(np.int64) - y)


def shift_and_add(x: Lanes, y: Lanes, *, shift: int, subtract: int, replace: int) -> Int64:
    """``x + (y << shift)``; minus with ``subtract``; without x with ``replace``."""
    term = y.astype(np.int64) << shift
    return (0 if replace else x.astype(np.int64)) + (-term if subtract else term)


def lane_shift_accumulate(x: Lanes, y: Lanes, codes: Lanes, *, row: int, replace: int) -> Int64:
    """``x +- (y << exponent)`` with the term codes of a row of weights, lane by lane."""
    term = y.astype(np.int64) * DECODE_TABLE[codes]
    return term if replace else x.astype(np.int64) + term


def clip(x: Lanes, *, lo: int, hi: int) -> Int64:
    """x limited to [lo, hi]: a saturating narrow to 8 bits or less."""
    return np.minimum(np.maximum(x, lo), hi).astype(np.int64)


def requantize(x: Lanes, bias: Lanes, shift: Lanes, *, lo: int, hi: int) -> Int64:
    """Bias, rounding shift and clip in one; the sum and the shifted sum keep 32 bits."""
    return clip(wrap(rounding_shift(wrap(add(x, bias)), shift)), lo=lo, hi=hi)


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
