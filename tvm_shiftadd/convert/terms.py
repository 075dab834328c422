"""Weights as sums of K signed powers of two: nearest values and the choice of the scales.

Weights are handled in groups: ``[G, n, O]`` holds, for each of G groups, n weights of each of the
O output channels of the group (G is 1 except for grouped and depthwise convolutions). Output
channel ``g * O + o`` of the layer is channel o of group g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.errors import ConversionError, InputError, RangeError
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.ranges import INT8_MIN

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

#: Exponents tried, relative to the one that just covers the largest weight of the channel. A
#: finer scale saturates a few large weights and represents the many small ones better.
SCALE_STEPS = (-1, 0, 1, 2)

#: Coarser steps tried, in turn, for a channel whose accumulator leaves no other choice.
COARSER_STEPS = tuple(range(-2, -25, -1))

#: Headroom of the choice: correction moves a bias a little after the exponent is fixed.
ACCUMULATOR_LIMIT = 1 << 30

#: A requantise shift beyond this would spend the accumulator's range on bits that are dropped.
MAX_REQUANTIZE_SHIFT = 22

#: Scales 2^-e beyond these are refused by the specification's quantise and dequantise.
SCALE_LIMIT = 60


@cache
def _tables(terms: int) -> tuple[Float64, int]:
    """Row t: the nearest value of at most t terms, by floor(2 x) + offset.

    Every midpoint between two values is a multiple of 1/2.
    """
    offset = 2 * int(codes.representable(terms)[-1]) + 2
    cells = (np.arange(-offset, offset + 1) + 0.5) / 2
    rows = [np.zeros(len(cells))]
    for count in range(1, terms + 1):
        values = codes.representable(count).astype(np.float64)
        middles = (values[1:] + values[:-1]) / 2
        rows.append(values[np.searchsorted(middles, cells)])
    return np.stack(rows), offset


@cache
def _counts(terms: int) -> tuple[NDArray[np.int64], int]:
    """The fewest terms of each representable value, by value + offset."""
    offset = int(codes.representable(terms)[-1])
    counts = np.full(2 * offset + 1, terms)
    for count in range(terms - 1, 0, -1):
        counts[codes.representable(count) + offset] = count
    counts[offset] = 0
    return counts, offset


def nearest(scaled: Float64, terms: int, most: NDArray[np.uint8] | None = None) -> Float64:
    """The nearest representable value of at most ``terms`` terms, or ``most`` [...] where given."""
    tables, offset = _tables(terms)
    cells = np.clip(np.floor(scaled * 2), -offset, offset).astype(np.intp) + offset
    return tables[terms][cells] if most is None else tables[most, cells]


def cheapest(
    scaled: Float64, terms: int, most: NDArray[np.uint8] | None, price: Float64
) -> Float64:
    """The value with the least squared distance plus ``price`` times its terms."""
    counts, offset = _counts(terms)
    best, least = np.zeros_like(scaled), np.square(scaled)
    for count in range(1, terms + 1):
        allowed = np.uint8(count) if most is None else np.minimum(most, np.uint8(count))
        value = nearest(scaled, terms, np.broadcast_to(allowed, scaled.shape))
        cost = np.square(value - scaled) + price * counts[value.astype(np.intp) + offset]
        better = cost < least
        best, least = np.where(better, value, best), np.where(better, cost, least)
    return best


@dataclass(frozen=True)
class TermLimits:
    """How many terms the weights of a layer may have.

    terms: K of the layer's codes, 1 to 3. most: the most terms of each weight, uint8 ``[R, O]``,
    0 to K; None for K everywhere. price: the cost of one non-zero term, in units of the layer's
    mean squared output error (a real number squared, the mean over positions and channels); the
    search minimises that error plus the price of all its terms.

    Raises InputError for values that make no sense.
    """

    terms: int
    most: NDArray[np.uint8] | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 1 <= self.terms <= codes.MAX_TERMS:
            raise InputError(f"terms must be 1 to {codes.MAX_TERMS}, not {self.terms}; choose one")
        if not (np.isfinite(self.price) and self.price >= 0):
            raise InputError(f"price must be finite and not negative, not {self.price}; change it")
        if self.most is not None and (
            self.most.ndim != 2 or self.most.size == 0 or int(self.most.max()) > self.terms
        ):
            raise InputError(
                f"most must be [R, O] with no entry above terms = {self.terms}, not of shape "
                f"{self.most.shape}; change one of them"
            )

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise InputError where ``most`` is not for the layer's ``[R, O]`` weights."""
        if self.most is not None and self.most.shape != shape:
            raise InputError(
                f"layer '{name}' has weights {list(shape)}, but most is {list(self.most.shape)}; "
                "give one number a weight"
            )

    def rows(self, rows: slice) -> TermLimits:
        """The limits of a slice of the R weights of each channel."""
        return self if self.most is None else replace(self, most=self.most[rows])

    def grouped(self, groups: int) -> NDArray[np.uint8] | None:
        """``most`` as ``[G, n, O]``."""
        if self.most is None:
            return None
        return split_groups(self.most, groups)


@dataclass(frozen=True)
class Limits:
    """What an accumulator of a layer has to fit, beside int32 itself.

    input_exponent: a of the input; bias: real bias, float64 ``[O]``; output_exponent: a of the
    tensor the accumulator is requantised to, None where it is not; addend: the largest magnitude
    int64 ``[O]`` and the exponent int32 ``[O]`` of the tensor it is added to, where that is known;
    input_limit: the largest magnitude of an integer input.
    """

    input_exponent: int
    bias: Float64
    output_exponent: int | None = None
    addend: tuple[NDArray[np.int64], Int32] | None = None
    input_limit: int = -INT8_MIN

    def allow(self, values: Float64, exponent: Int32) -> NDArray[np.bool_]:
        """Which channels fit: ``values`` [..., n, O] at the weight exponents [..., O]."""
        scale = exponent + self.input_exponent
        # Twice, because a partial sum of terms can exceed the sum of the weights they make.
        reach = 2.0 * self.input_limit * np.abs(values).sum(axis=-2)
        return self.fit(reach + np.abs(np.ldexp(self.bias, scale)), scale)

    def fit(self, total: Float64, scale: Int32) -> NDArray[np.bool_]:
        """Which accumulators fit that reach ``total`` [..., O] at the scale exponents [..., O]."""
        fits = (total < ACCUMULATOR_LIMIT) & (np.abs(scale) <= SCALE_LIMIT)
        if self.output_exponent is not None:
            shift = scale - self.output_exponent
            fits &= shift <= MAX_REQUANTIZE_SHIFT
            fits &= np.ldexp(total, np.maximum(-shift, 0)) < ACCUMULATOR_LIMIT
        if self.addend is not None:
            size, other = self.addend
            aligned = np.ldexp(total, np.maximum(other - scale, 0))
            aligned += np.ldexp(size.astype(np.float64), np.maximum(scale - other, 0))
            fits &= aligned < ACCUMULATOR_LIMIT
        return np.asarray(fits)


#: Finds values for every candidate: exponents [S, G, O], which may be fractions, to the values
#: [S, G, n, O] and the error of each, [S, G, O].
Search = Callable[[Float64], tuple[Float64, Float64]]


def scale(values: Float64, exponent: Float64 | Int32) -> Float64:
    """``values`` times 2^exponent; exact where the exponent is an integer."""
    whole = np.floor(exponent)
    return np.ldexp(values * np.exp2(exponent - whole), whole.astype(np.int32))


def group_weight(node: Node) -> Float64:
    """The weight of a layer as ``[G, n, O]``, n in the order (kh, kw, input of the group)."""
    if node.weight is None:
        raise ConversionError(f"layer '{node.name}' ({node.op}) has no weight; rebuild the graph")
    groups = int(node.attrs.get("groups", 1)) if node.op == "conv2d" else 1
    return split_groups(node.weight.reshape(-1, node.weight.shape[-1]).astype(np.float64), groups)


def split_groups(flat: NDArray[Any], groups: int) -> NDArray[Any]:
    """``[R, G * O]`` as ``[G, R, O]``."""
    split = flat.reshape(flat.shape[0], groups, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 2))


def nearest_search(weight: Float64, importance: Float64, limits: TermLimits) -> Search:
    """Round to nearest; the error weighs each input by ``importance``, float64 ``[G, n]``."""
    terms, most = limits.terms, limits.grouped(weight.shape[0])

    def search(exponent: Float64) -> tuple[Float64, Float64]:
        values = nearest(scale(weight, exponent[:, :, None, :]), terms, most)
        error = scale(values, -exponent[:, :, None, :]) - weight
        return values, np.einsum("gn,sgno->sgo", importance, np.square(error))

    return search


def choose_scales(
    name: str, weight: Float64, allowed: TermLimits, search: Search, limits: Limits
) -> tuple[Int32, Int32]:
    """The layer's integers ``[R, G * O]`` and weight exponents ``[G * O]`` with the least error.

    Raises RangeError where a channel fits no accumulator at any scale.
    """
    groups, reduction, made = weight.shape
    terms, most = allowed.terms, allowed.grouped(groups)
    base = covering_exponent(weight, terms, limits)
    bias = limits.bias.reshape(groups, made)
    grouped = replace(limits, bias=bias, addend=_split(limits, groups))
    candidates = np.stack([base + step for step in SCALE_STEPS]).astype(np.int32)
    values, error = search(candidates.astype(np.float64))
    error = np.where(grouped.allow(values, candidates), error, np.inf)
    best = error.argmin(axis=0)[None]
    exponent = np.take_along_axis(candidates, best, axis=0)[0]
    chosen = np.take_along_axis(values, best[:, :, None, :], axis=0)[0]
    stuck = ~np.isfinite(error.min(axis=0))
    for step in COARSER_STEPS:
        if not stuck.any():
            break
        coarser = (base + step).astype(np.int32)
        rounded = nearest(np.ldexp(weight, coarser[:, None, :]), terms, most)
        now = stuck & grouped.allow(rounded, coarser)
        exponent = np.where(now, coarser, exponent)
        chosen = np.where(now[:, None, :], rounded, chosen)
        stuck &= ~now
    if stuck.any():
        channel = int(np.flatnonzero(stuck.reshape(-1))[0])
        raise RangeError(
            f"layer '{name}', channel {channel}: no weight scale keeps a bias of "
            f"{bias.reshape(-1)[channel]:g} and its sums within int32; rescale the model"
        )
    flat = chosen.transpose(1, 0, 2).reshape(reduction, groups * made)
    return flat.astype(np.int32), exponent.reshape(-1).astype(np.int32)


def covering_exponent(weight: Float64, terms: int, limits: Limits) -> Int32:
    """The finest exponent ``[G, O]`` at which no weight of a channel saturates."""
    largest = np.abs(weight).max(axis=1)
    top = float(codes.representable(terms)[-1])
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(top / largest))
    # A channel without weights only carries its bias: 8 bits finer than the output are plenty.
    finest = (limits.output_exponent or 0) + 8 - limits.input_exponent
    ceiling = SCALE_LIMIT - limits.input_exponent
    if limits.output_exponent is not None:
        ceiling = min(
            ceiling, limits.output_exponent + MAX_REQUANTIZE_SHIFT - limits.input_exponent
        )
    exponent = np.where(largest > 0, np.minimum(exponent, ceiling - max(SCALE_STEPS)), finest)
    return np.asarray(exponent, dtype=np.int32)


def _split(limits: Limits, groups: int) -> tuple[NDArray[np.int64], Int32] | None:
    if limits.addend is None:
        return None
    size, exponent = limits.addend
    return size.reshape(groups, -1), exponent.reshape(groups, -1)
