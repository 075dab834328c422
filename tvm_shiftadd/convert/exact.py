"""Weights that are sums of powers of two already, and are kept as they are.

A network trained with power-of-two weights loses what it was trained for if its weights are
rounded a second time. Usually a batch norm has been folded into them, so that each output channel
is its own sums of powers of two times one real factor. Those sums are found here, and the factor,
which then follows the layer as a few shifted copies of its accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.plan import ChannelFactor
from tvm_shiftadd.convert.terms import (
    MAX_REQUANTIZE_SHIFT,
    SCALE_LIMIT,
    Limits,
    TermLimits,
    nearest,
)
from tvm_shiftadd.formats import codes

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

#: Float32 weights that went through two or three products have this relative error, at most.
TOLERANCE = 2.0**-20

#: Fewer weights in a channel could be multiples of one another by chance.
MIN_REDUCTION = 4

#: Rows and channels looked at first: a layer of any other kind fails on these.
_SAMPLE = 16

#: The highest exponent above the lowest that is looked for, by the number of terms (1 and 2):
#: DeepShift's weights span 15 exponents, ShiftCNN's 8.
_FAR = (0, 24, 9)

#: Powers of two that are too far apart for seven exponents are taken when rounding the smallest
#: costs no more than this, relative to all weights (root mean square).
MAX_TAIL_ERROR = 0.01

#: The largest sum of a channel that is left out, in steps of the output.
DEAD = 1 / 16

#: Copies of the accumulator that make a factor, and the coarser ones tried for want of room.
_COPIES = codes.MAX_TERMS
_COARSER_STEPS = range(8)


@dataclass(frozen=True)
class ExactTerms:
    """Weights ``[R, O]`` as ``values * scale``.

    values: int32 ``[R, O]``, sums of at most ``terms`` terms; scale: float64 ``[O]``, positive;
    error: what rounding small weights away costs, relative to all weights (root mean square),
    0 where every weight is kept.
    """

    values: Int32
    scale: Float64
    terms: int
    error: float

    @property
    def exact(self) -> bool:
        """Whether every weight is kept."""
        return self.error == 0.0

    @property
    def plain(self) -> bool:
        """Whether every channel's scale is a power of two, so that no factor is needed."""
        mantissa, _ = np.frexp(self.scale)
        return bool((np.minimum(mantissa - 0.5, 1.0 - mantissa) <= TOLERANCE).all())


def exact_terms(weight: NDArray[np.floating], terms: int) -> ExactTerms | None:
    """The sums of powers of two that ``weight`` is made of, None where it is not.

    Args:
        weight: float ``[R, O]``.
        terms: K, the most terms a weight may have; the fewest that do are taken.
    """
    wide = np.asarray(weight, np.float64)
    if len(wide) < MIN_REDUCTION:
        return None
    for count in range(1, terms + 1):
        found = _per_channel(wide, _table(count, codes.MAX_EXPONENT))
        if found is not None:
            values, scale = found
            return ExactTerms(values.astype(np.int32), scale, count, 0.0)
    for count in range(1, min(terms, len(_FAR) - 1) + 1):
        found = _per_channel(wide, _table(count, _FAR[count]))
        if found is not None:
            return _without_the_smallest(*found, wide, count)
    return None


@cache
def _table(terms: int, highest: int) -> Float64:
    """All sums of at most ``terms`` terms +-2^0 to +-2^highest of distinct exponents, ascending."""
    sums = {0}
    for _ in range(terms):
        sums |= {
            total + sign * 2**e for total in sums for e in range(highest + 1) for sign in (1, -1)
        }
    if highest == codes.MAX_EXPONENT:
        sums = set(codes.representable(terms).tolist())
    return np.array(sorted(sums), np.float64)


def _nearest(scaled: Float64, table: Float64) -> Float64:
    return table[np.searchsorted((table[1:] + table[:-1]) / 2, scaled)]


def _per_channel(weight: Float64, table: Float64) -> tuple[Float64, Float64] | None:
    """Integers of ``table`` and the real unit of each channel, where all channels have one.

    The largest weight of a channel has to be some integer of the table; each is tried, small
    ones first.
    """
    few = weight[np.argsort(-np.abs(weight[:, :_SAMPLE]).sum(axis=1))[:_SAMPLE], :_SAMPLE]
    if np.isinf(_units(few, table)).any():
        return None
    scale = _units(weight, table)
    if np.isinf(scale).any():
        return None
    return _nearest(weight / scale, table), scale


def _units(weight: Float64, table: Float64) -> Float64:
    """The largest unit of each channel of which all weights are integers of ``table``; or infinity.

    1 for a channel of zeros.
    """
    largest = np.abs(weight).max(axis=0)
    units = np.where(largest > 0, np.inf, 1.0)
    for top in table[table > 0]:
        left = np.flatnonzero(np.isinf(units))
        if not left.size:
            break
        unit = largest[left] / top
        scaled = weight[:, left] / unit
        off = np.abs(_nearest(scaled, table) - scaled)
        good = (off <= TOLERANCE * np.abs(scaled)).all(axis=0)
        units[left[good]] = unit[good]
    return units


def _without_the_smallest(
    values: Float64, scale: Float64, weight: Float64, terms: int
) -> ExactTerms | None:
    """Terms of more than seven exponents: the largest seven, what is left rounded."""
    highest = codes.representable(terms)[-1]
    shift = np.ceil(np.log2(np.maximum(np.abs(values).max(axis=0) / highest, 1.0)))
    coarse = np.ldexp(scale, shift.astype(np.int32))
    kept = nearest(weight / coarse, terms)
    error = float(np.sqrt(np.square(kept * coarse - weight).sum() / np.square(weight).sum()))
    return (
        ExactTerms(kept.astype(np.int32), coarse, terms, error) if error < MAX_TAIL_ERROR else None
    )


@dataclass(frozen=True)
class KeptWeight:
    """The integers of a layer, found in its weights or chosen for them.

    values: int32 ``[R, O]``; exponent: int32 ``[O]``, b; terms: K of their codes; factor: the
    factor a channel that follows, None where all are 1; exact: whether the weights are those that
    were given, up to the factor.
    """

    values: Int32
    exponent: Int32
    terms: int
    factor: ChannelFactor | None = None
    exact: bool = False

    @property
    def multiplier(self) -> Float64:
        """The factor as a real number, float64 ``[O]``."""
        if self.factor is None:
            return np.ones(len(self.exponent))
        values = codes.decode(self.factor.codes).astype(np.float64)
        return np.asarray(np.ldexp(values, -self.factor.exponent))


def keep_weight(node: Node, allowed: TermLimits, limits: Limits) -> KeptWeight | None:
    """The integers of a layer whose weights are sums of powers of two up to a factor a channel.

    None where they are not, need more terms than ``allowed``, or leave no room in int32.
    """
    if node.weight is None:
        return None
    found = exact_terms(node.weight.reshape(-1, node.weight.shape[-1]), allowed.terms)
    if found is None:
        return None
    if allowed.most is not None:
        used = np.count_nonzero(codes.encode(found.values, found.terms), axis=0)
        if bool((used > allowed.most).any()):
            return None
    return keep(found, limits)


def keep(found: ExactTerms, limits: Limits) -> KeptWeight | None:
    """The integers for weights that were found, None where they leave no room in int32.

    A factor is the nearest sum of three terms that leaves the accumulator room: 0.75 % off on
    average, 2.4 % at most where there is room for all seven bits.
    """
    found = _without_dead_channels(found, limits)
    mantissa, power = np.frexp(found.scale)
    # scale = 2^-b * slope, the slope from 1 to 2, and exactly 1 for a power of two.
    slope, exponent = 2 * mantissa, (1 - power).astype(np.int32)
    near = np.abs(slope - 2) <= 2 * TOLERANCE
    slope, exponent = np.where(near, 1.0, slope), np.where(near, exponent - 1, exponent)
    values = found.values.astype(np.float64)
    if found.plain:
        fits = bool(limits.allow(values, exponent).all())
        kept = KeptWeight(found.values, exponent, found.terms, None, found.exact)
        return kept if fits else None
    factor = _factor(values, exponent, slope, limits)
    if factor is None:
        return None
    return KeptWeight(found.values, exponent, found.terms, factor, found.exact)


def _without_dead_channels(found: ExactTerms, limits: Limits) -> ExactTerms:
    """``found`` without the weights of channels that never move the layer's stored output.

    Training leaves some with a batch norm of next to zero; their scale is beyond all others.
    """
    if limits.output_exponent is None:
        return found
    reach = limits.input_limit * np.abs(found.values).sum(axis=0) * found.scale
    dead = np.ldexp(reach, limits.output_exponent - limits.input_exponent) < DEAD
    # Such a channel still has its bias: 8 bits finer than the output are plenty.
    scale = np.ldexp(1.0, limits.input_exponent - limits.output_exponent - 8)
    return replace(
        found,
        values=np.where(dead, 0, found.values).astype(np.int32),
        scale=np.where(dead, scale, found.scale),
    )


def _factor(
    values: Float64, exponent: Int32, slope: Float64, limits: Limits
) -> ChannelFactor | None:
    table = codes.representable(_COPIES).astype(np.float64)
    middles = (table[1:] + table[:-1]) / 2
    finest = np.floor(np.log2(table[-1] / slope)).astype(np.int32)
    ceiling = SCALE_LIMIT
    if limits.output_exponent is not None:
        ceiling = min(ceiling, limits.output_exponent + MAX_REQUANTIZE_SHIFT)
    finest = np.minimum(finest, ceiling - limits.input_exponent - exponent)
    chosen, shift = np.zeros_like(slope), np.zeros_like(exponent)
    error = np.full(slope.shape, np.inf)
    for step in _COARSER_STEPS:
        now = (finest - step).astype(np.int32)
        rounded = table[np.searchsorted(middles, np.ldexp(slope, now))]
        # The accumulator behind the factor is that of weights as many times as large.
        room = (rounded > 0) & limits.allow(values * rounded, exponent + now)
        off = np.abs(np.ldexp(rounded, -now) / slope - 1)
        better = room & (off < error - 1e-9)
        chosen, shift = np.where(better, rounded, chosen), np.where(better, now, shift)
        error = np.where(better, off, error)
    if not np.isfinite(error).all():
        return None
    planes = codes.encode(chosen.astype(np.int32), _COPIES)
    used = max(1, int(planes.any(axis=1).sum()))
    return ChannelFactor(planes[:used], shift.astype(np.int32))
