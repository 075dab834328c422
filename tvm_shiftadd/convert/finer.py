"""Scales of output channels that are no powers of two, made of shifted copies of the accumulator.

A channel that nothing can be folded into (one that is added to another, or that leaves the
network) still rounds better at some scales than at powers of two. The accumulator is then
multiplied by a factor between 1 and 2, which takes two shifts and an addition for each output,
beside one for each weight. That is only worth it where the error falls by much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.plan import ChannelFactor
from tvm_shiftadd.convert.terms import (
    SCALE_STEPS,
    Float64,
    Int32,
    Limits,
    Search,
    TermLimits,
    covering_exponent,
)
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.codes import MAX_TERMS

#: The factors tried are these over 2^3: none, and those of two terms. Factors of three terms
#: between them gain nothing more.
NUMERATORS = np.array([8, 9, 10, 12, 14, 15])

#: Bits behind the point of a factor.
FRACTION_BITS = 3

#: Weights a channel beyond which one scale is about as good as another: their errors average out.
LONGEST = 512

#: The weights' error with factors over that without them, from which on they are worth it: 0.4 dB.
WORTH = 10**-0.04


@dataclass(frozen=True)
class FinerScales:
    """Integers for one layer: ``values`` int32 ``[R, O]`` times 2^-``exponent`` times ``factor``.

    real: the exponents of the weights' real scales, float64 ``[O]``, the factor included.
    """

    values: Int32
    exponent: Int32
    factor: ChannelFactor
    real: Float64


def choose_finer_scales(
    ideal: Float64, allowed: TermLimits, search: Search, limits: Limits
) -> FinerScales | None:
    """The integers of a layer at the scales with the least error, where factors are worth it.

    ideal: float64 ``[G, n, O]``. None where powers of two do nearly as well, or where a channel
    fits no accumulator.
    """
    groups, reduction, made = ideal.shape
    if reduction > LONGEST:
        return None
    steps, numerators = _candidates()
    whole = covering_exponent(ideal, allowed.terms, limits) + steps[:, None, None]
    real = whole + FRACTION_BITS - np.log2(numerators)[:, None, None]
    values, error = search(real.astype(np.float64))
    error = np.where(_fits(values, whole, numerators, limits), error, np.inf)
    plain = error[numerators == NUMERATORS[0]].min(axis=0)
    if not error.min(axis=0).sum() < WORTH * plain.sum():
        return None
    best = error.argmin(axis=0)[None]

    def chosen(of: NDArray[Any]) -> NDArray[Any]:
        return np.take_along_axis(of, best, axis=0).reshape(-1)

    found = np.take_along_axis(values, best[:, :, None, :], axis=0)[0]
    flat = found.transpose(1, 0, 2).reshape(reduction, groups * made).astype(np.int32)
    factor = _factor(numerators[best].reshape(-1))
    return FinerScales(flat, chosen(whole).astype(np.int32), factor, chosen(real))


@cache
def _candidates() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps of the exponent, as in SCALE_STEPS, and the numerators that go with them.

    Those without a factor come first: of equal errors, the first is taken.
    """
    pairs = [(step, NUMERATORS[0]) for step in SCALE_STEPS]
    # A factor of 1 to 2 at one step more is a scale between that step and the one below.
    pairs += [(step, above) for step in SCALE_STEPS[1:] for above in NUMERATORS[1:]]
    steps, numerators = np.array(pairs, np.int64).T
    return steps, numerators


def _fits(
    values: Float64, whole: NDArray[np.int64], numerators: NDArray[np.int64], limits: Limits
) -> NDArray[np.bool_]:
    """Which channels fit int32, ``[S, G, O]``: that of weights as many times as large."""
    _, groups, _, made = values.shape
    addend = limits.addend
    if addend is not None:
        addend = (addend[0].reshape(groups, made), addend[1].reshape(groups, made))
    split = replace(limits, bias=limits.bias.reshape(groups, made), addend=addend)
    planes, bits = _codes(numerators)
    reach = np.abs(codes.DECODE_TABLE[planes].astype(np.int64)).sum(axis=0)
    return split.allow(
        values * reach[:, None, None, None], (whole + bits[:, None, None]).astype(np.int32)
    )


def _codes(numerators: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The codes ``[K, ...]`` of the odd parts of ``numerators`` and the bits behind their point."""
    shift = np.minimum(np.log2(numerators & -numerators).astype(np.int64), FRACTION_BITS)
    return codes.encode((numerators >> shift).astype(np.int32), MAX_TERMS), FRACTION_BITS - shift


def _factor(numerators: NDArray[np.int64]) -> ChannelFactor:
    planes, bits = _codes(numerators)
    used = max(1, int(planes.any(axis=tuple(range(1, planes.ndim))).sum()))
    return ChannelFactor(planes[:used], bits.astype(np.int32))
