"""Adder layers: one scale for inputs and weights, and a factor a channel made of shifts.

``|x - w|`` is an integer operation only where x and w are on one scale, so the scale of the input
tensor also decides how finely the weights are rounded. It is chosen by the error of what its
readers make of it. The batch norm behind the layer is fitted to the float output: its slope
becomes at most three shifted copies of the accumulator, its offset part of the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.bias import channel_mean
from tvm_shiftadd.convert.calibrate import EXPONENT_LIMITS
from tvm_shiftadd.convert.execute import run_float
from tvm_shiftadd.convert.feeds import Feeds
from tvm_shiftadd.convert.graph import ADDER_OPS, Graph, Node
from tvm_shiftadd.convert.operators import distances
from tvm_shiftadd.convert.plan import AdderPlan, ChannelFactor
from tvm_shiftadd.convert.storage import Storage
from tvm_shiftadd.convert.terms import MAX_REQUANTIZE_SHIFT, SCALE_LIMIT, Limits
from tvm_shiftadd.errors import RangeError
from tvm_shiftadd.formats import adder, codes, reference

Float = NDArray[np.float32]
Float64 = NDArray[np.float64]

#: Images an exponent is chosen with, and positions a factor is fitted to, at most.
IMAGES = 32
SAMPLES = 1 << 16

#: Exponents tried, relative to the one with the least error of the tensor itself.
STEPS = (-1, 0, 1, 2)

#: Copies of the accumulator that make a factor.
COPIES = codes.MAX_TERMS  # within 2 % of any factor

#: Factors are taken from the upper octave of what the copies can make, where they are dense; each
#: step below halves them, for channels that leave them less room.
COARSER_STEPS = range(8)


def integer_weight(node: Node, exponent: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """An adder layer's weight on the scale 2^-exponent, folded: int8 and what the bias gains."""
    assert node.weight is not None
    wide = np.rint(np.ldexp(node.weight.astype(np.float64), exponent)).astype(np.int64)
    return adder.fold_weight(wide)


def refine_exponents(
    graph: Graph, storage: Storage, exponents: Mapping[str, int], feeds: Feeds
) -> dict[str, int]:
    """``exponents`` with those that adder layers read chosen anew, by the error of their readers.

    The error of an adder layer is that of its output, input and weight rounded alike and each
    channel's mean corrected; of any other reader, that of the tensor; both relative to the signal.
    """
    readers = graph.consumers()
    refined = dict(exponents)
    groups = [
        (group, [name for name in group if any(r.op in ADDER_OPS for r in readers[name])])
        for group in storage.groups
    ]
    wanted = [name for _, read in groups for name in read]
    if not wanted:
        return refined
    few = {name: array[:IMAGES] for name, array in feeds.items()}
    values = run_float(graph, few, keep=wanted)
    for group, read in groups:
        if not read:
            continue
        low, high = EXPONENT_LIMITS
        base = exponents[group[0]]
        candidates = [min(max(base + step, low), high) for step in STEPS]
        errors = [
            sum(_error(values[name], readers[name], exponent) for name in read)
            for exponent in candidates
        ]
        best = candidates[int(np.argmin(errors))]
        refined.update(dict.fromkeys(group, best))
    return refined


def _error(x: Float, readers: Sequence[Node], exponent: int) -> float:
    """Noise relative to signal that int8 on the scale 2^-exponent causes, summed over readers."""
    rounded = reference.quantize(x, exponent)
    total = 0.0
    for node in readers:
        if node.op not in ADDER_OPS:
            noise = np.square(np.ldexp(rounded.astype(np.float32), -exponent) - x).mean()
            total += float(noise) / max(float(np.square(x).mean()), 1e-30)
            continue
        assert node.weight is not None
        weight, _ = integer_weight(node, exponent)
        wanted = -distances(node, x, node.weight)
        made = -np.ldexp(distances(node, rounded, weight).astype(np.float32), -exponent)
        factor = 1.0 if node.factor is None else np.square(node.factor.astype(np.float64))
        noise = (factor * _variance(made - wanted)).sum()
        total += float(noise / max(float((factor * _variance(wanted)).sum()), 1e-30))
    return total


def _variance(values: Float) -> Float64:
    """Variance of each channel, the last axis, in float64."""
    flat = values.reshape(-1, values.shape[-1])
    return np.asarray(flat.var(axis=0, dtype=np.float64))


def fit_adder(
    node: Node,
    acc: NDArray[np.int32],
    weight: NDArray[np.int8],
    offset: NDArray[np.int64],
    limits: Limits,
    target: Float | None,
) -> AdderPlan:
    """Factor and bias of an adder layer.

    acc: ``-sum |x - weight|`` of the folded weight ``[R, O]`` on the layer's own integer inputs,
    ``[..., O]``; offset: what folding adds to it; target: what the layer should give, to fit
    factor and bias to, None to take those of the float network. Raises RangeError where a channel
    fits no accumulator.
    """
    own = np.ones(weight.shape[1]) if node.factor is None else node.factor.astype(np.float64)
    slope = own
    if target is not None and node.factor is not None:
        slope = np.ldexp(_regression(acc, target), limits.input_exponent)
    chosen = _Choice(slope, offset, channel_mean(acc), weight, limits, target)
    if node.factor is None:
        fits = chosen.allow(slope, np.zeros_like(slope))
        if not fits.all():
            raise _no_room(node, fits)
        return AdderPlan(weight, _integers(chosen.bias(slope)))
    values, exponent = _choose_factor(node, chosen)
    bias = _integers(chosen.bias(np.ldexp(values, -exponent)))
    planes = codes.encode(values.astype(np.int32), COPIES)
    used = max(1, int(planes.any(axis=1).sum()))
    return AdderPlan(weight, bias, ChannelFactor(planes[:used], exponent))


@dataclass(frozen=True)
class _Choice:
    """What decides about a factor: the slope wanted, and what bias and sums follow from one.

    slope: real factor of the accumulator on the layer's scale, ``[O]``; offset and mean in units
    of the accumulator; the rest as in :func:`fit_adder`.
    """

    slope: Float64
    offset: NDArray[np.int64]
    mean: Float64
    weight: NDArray[np.int8]
    limits: Limits
    target: Float | None

    def bias(self, factor: Float64) -> Float64:
        """The bias, in front of a factor, with which the layer's mean is that of the target."""
        exponent = self.limits.input_exponent
        if self.target is None:
            # A rounded factor turns about the mean: zero distance is far from any that occurs.
            wanted = self.slope * (self.mean + self.offset) + np.ldexp(self.limits.bias, exponent)
        else:
            wanted = np.ldexp(channel_mean(self.target), exponent)
        return wanted / factor - self.mean

    def allow(self, values: Float64, exponent: Float64) -> NDArray[np.bool_]:
        """Which channels leave their accumulators room with factors values * 2^-exponent."""
        wide = self.weight.astype(np.int64)
        reach = np.maximum(127 - wide, wide + 128).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = reach + np.abs(self.bias(np.ldexp(values, -exponent.astype(np.int32))))
        # Copies of both signs: their sum may be less than what the larger ones reach.
        total = reach * 2 * np.maximum(np.abs(values), 1)
        scale = exponent.astype(np.int32) + self.limits.input_exponent
        return np.isfinite(total) & self.limits.fit(total, scale)


def _choose_factor(node: Node, chosen: _Choice) -> tuple[Float64, NDArray[np.int32]]:
    """Integers F of at most three terms and exponents q: the finest F * 2^-q that has room."""
    table = codes.representable(COPIES).astype(np.float64)
    middles = (table[1:] + table[:-1]) / 2
    with np.errstate(divide="ignore"):
        finest = np.floor(np.log2(table[-1] / np.abs(chosen.slope)))
    ceiling = _finest_exponent(chosen.limits)
    finest = np.minimum(finest, ceiling)
    values, exponent = np.zeros_like(chosen.slope), finest
    left = np.ones(len(values), np.bool_)
    for step in COARSER_STEPS:
        now = finest - step
        rounded = table[np.searchsorted(middles, np.ldexp(chosen.slope, now.astype(np.int32)))]
        # A channel that carries next to nothing still has its bias, which no factor of 0 passes.
        rounded = np.where(rounded == 0, np.where(chosen.slope < 0, -1.0, 1.0), rounded)
        good = left & chosen.allow(rounded, now)
        values, exponent = np.where(good, rounded, values), np.where(good, now, exponent)
        left &= ~good
    if left.any():
        raise _no_room(node, ~left)
    return values, exponent.astype(np.int32)


def _finest_exponent(limits: Limits) -> int:
    """The largest exponent of a factor that scales and the shift behind it leave room for."""
    if limits.output_exponent is None:
        return SCALE_LIMIT - limits.input_exponent
    return limits.output_exponent + MAX_REQUANTIZE_SHIFT - limits.input_exponent


def _no_room(node: Node, fits: NDArray[np.bool_]) -> RangeError:
    channel = int(np.flatnonzero(~fits)[0])
    return RangeError(
        f"layer '{node.name}', channel {channel}: no factor keeps its bias and its distances "
        "within int32; rescale the model"
    )


def _regression(acc: NDArray[np.int32], target: Float) -> Float64:
    """The factor of each channel that brings the accumulator nearest to the target, ``[O]``."""
    flat = acc.reshape(-1, acc.shape[-1])
    step = max(1, len(flat) // SAMPLES)
    x = flat[::step].astype(np.float64)
    y = target.reshape(flat.shape)[::step].astype(np.float64)
    x -= x.mean(axis=0)
    return np.asarray((x * y).sum(axis=0) / np.maximum(np.square(x).sum(axis=0), 1e-30))


def _integers(bias: Float64) -> NDArray[np.int32]:
    return np.rint(bias).astype(np.int32)
