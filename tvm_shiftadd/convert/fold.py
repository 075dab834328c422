"""Scales of output channels that are no powers of two, folded into the weights that read them.

A weight scale of the integers is a power of two, which is coarse where a channel has few weights
of few terms. Scaling the channel itself moves its weights to where they round well; the layers
that read it undo the factor before they are rounded themselves. Nothing is left of it in the
integer network but better weights, at the price of up to one bit of the stored activations, which
is weighed against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.equalize import Family, families
from tvm_shiftadd.convert.execute import integer_bounds
from tvm_shiftadd.convert.graph import LAYER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.operators import run_node
from tvm_shiftadd.convert.plan import Plan
from tvm_shiftadd.convert.terms import (
    SCALE_STEPS,
    Float64,
    Int32,
    Limits,
    Search,
    TermLimits,
    covering_exponent,
    nearest_search,
)
from tvm_shiftadd.formats.ranges import activation_range

#: Scales tried between one power of two and the next.
FRACTIONS = 8

#: Positions of a layer's output on which the error of storing it is measured. Few values are
#: clipped, but by much: of fewer positions, too many would have none.
POSITIONS = 1 << 17

#: A channel that clips let pass less often than this is treated as if it passed so often.
LEAST_PART = 1e-3

_TINY = np.finfo(np.float64).tiny

Float32 = NDArray[np.float32]

#: Values of all candidates together beyond which only the likeliest are compensated.
CANDIDATE_VALUES = 1 << 23

#: How many candidates are compensated then.
LIKELIEST = 6


@dataclass(frozen=True)
class Outlet:
    """Where a layer's output channels go, if they may be scaled.

    tensors: all that must be scaled alike; exponent, bounds: of the stored tensor the layer
    ends in; clip: the real bounds of the clips on the way; averages: the exponents of averages of
    that tensor, which are rounded again, by name; unsigned: those of them that are uint8.
    """

    tensors: tuple[str, ...]
    exponent: int
    bounds: tuple[int, int] = (-128, 127)
    clip: tuple[float, float] = (-math.inf, math.inf)
    averages: Mapping[str, int] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()

    def error(
        self, values: Float32, averages: Mapping[str, Float32], gains: Float64
    ) -> tuple[Float64, Float64]:
        """What storing costs with each of the ``gains`` ``[S]``, and the part clips let pass.

        values: the layer's results before clips, float32 ``[m, O]``; averages: those that are
        rounded again. The first is a mean squared error ``[S, O]`` of the layer's results, the
        second 0 to 1 ``[O]``.
        """
        wanted = np.clip(values, np.float32(self.clip[0]), np.float32(self.clip[1]))
        errors = _stored_error(values, wanted, gains, self.exponent, self.bounds)
        spread = wanted.var(axis=0, dtype=np.float64)
        for name, exponent in self.averages.items():
            mean = averages[name]
            ends = activation_range("uint8" if name in self.unsigned else "int8")
            again = _stored_error(mean, mean, gains, exponent, ends)
            variance = mean.var(axis=0, dtype=np.float64)
            errors += again * spread / np.maximum(variance, 1e-12 * spread + _TINY)
        inside = (values > self.clip[0]) & (values < self.clip[1])
        return errors, np.asarray(inside.mean(axis=0))


def _stored_error(
    values: Float32, wanted: Float32, gains: Float64, exponent: int, bounds: tuple[int, int]
) -> Float64:
    errors = np.empty((len(gains), values.shape[-1]))
    for place, gain in enumerate(gains):
        step = np.float32(math.ldexp(gain, exponent))
        kept = np.clip(np.rint(values * step), *map(np.float32, bounds)) / step
        errors[place] = np.square(kept - wanted).mean(axis=0, dtype=np.float64)
    return errors


def outlets(graph: Graph, plan: Plan) -> dict[str, Outlet]:
    """The outlet of each layer that has one, by the layer's name.

    plan: of which only how tensors are stored counts.
    """
    found = {}
    producers = graph.producers()
    for family in families(graph):
        makers = [producers[name] for name in family.tensors]
        layers = [node for node in makers if node.op in LAYER_OPS]
        # Channels that several layers add to cannot be scaled to suit one of them.
        if len(layers) == 1 and layers[0].op in WEIGHT_OPS and all(n.op != "add" for n in makers):
            outlet = _outlet(graph, layers[0], family, plan)
            if outlet is not None:
                found[layers[0].name] = outlet
    return found


#: Clips that end every channel where they should, whatever its scale.
_FREE_CLIPS = ((0.0, math.inf), (-math.inf, math.inf))


def _outlet(graph: Graph, layer: Node, family: Family, plan: Plan) -> Outlet | None:
    exponents = plan.exponents
    consumers, producers = graph.consumers(), graph.producers()
    name, bounds, passed = layer.output, (-math.inf, math.inf), set()
    while name not in exponents:
        readers = consumers[name]
        if len(readers) != 1 or readers[0].op != "clip":
            return None
        lo, hi = float(readers[0].attrs["lo"]), float(readers[0].attrs["hi"])
        bounds = (min(max(bounds[0], lo), hi), min(max(bounds[1], lo), hi))
        name = readers[0].output
        passed.add(name)
    for other in family.tensors:
        node = producers[other]
        ends = node.attrs.get("lo"), node.attrs.get("hi")
        if node.op == "clip" and other not in passed and ends not in _FREE_CLIPS:
            return None
    averages = {
        other: exponents[other]
        for other in family.tensors
        if producers[other].op == "avg_pool2d" and other in exponents
    }
    ends = integer_bounds(bounds, exponents[name], plan.dtype(name))
    unsigned = plan.unsigned.intersection(averages)
    return Outlet(family.tensors, exponents[name], ends, bounds, averages, unsigned)


def averages_of(graph: Graph, outlet: Outlet, layer: Node, values: Float32) -> dict[str, Float32]:
    """The float averages ``outlet`` names, from the layer's result ``[N, ..., O]``."""
    if not outlet.averages:
        return {}
    known: dict[str, Any] = {layer.output: values}
    for node in graph.nodes:
        if node.output in outlet.tensors and node.output not in known:
            known[node.output] = run_node(node, [known[name] for name in node.inputs], graph)
    return {name: known[name].reshape(-1, values.shape[-1]) for name in outlet.averages}


def choose_folded_scales(
    ideal: Float64,
    importance: Float64,
    allowed: TermLimits,
    search: Search,
    limits: Limits,
    outlet: Outlet,
    values: Float32,
    averages: Mapping[str, Float32],
) -> tuple[Int32, Int32, Float64] | None:
    """The integers ``[R, G * O]``, exponents ``[G * O]`` and gains ``[G * O]`` of a layer.

    ideal: float64 ``[G, n, O]``; importance: what an error of each weight costs, ``[G, n]``;
    values, averages: as for :meth:`Outlet.error`. None where a channel fits no accumulator.
    """
    groups, reduction, made = ideal.shape
    base = covering_exponent(ideal, allowed.terms, limits)
    steps = np.arange(len(SCALE_STEPS) * FRACTIONS) / FRACTIONS + (SCALE_STEPS[0] - 1)
    tried = base + (steps[:, None, None] + 1 / FRACTIONS)
    if tried[:, :, None].size * reduction > CANDIDATE_VALUES:
        tried = _likeliest(tried, nearest_search(ideal, importance, allowed))
    found, error = search(tried)
    # One scale 2^tried is two choices: a gain of at most 1, or twice that and one bit less.
    whole = np.concatenate([np.ceil(tried), np.ceil(tried) - 1]).astype(np.int32)
    tried = np.concatenate([tried, tried])
    gain = np.exp2(tried - whole)
    kept, part = outlet.error(_sample(values), averages, _GAINS)
    part = np.maximum(part, LEAST_PART).reshape(groups, made) * 4.0**-limits.input_exponent
    total = np.concatenate([error, error]) * part + _at(kept, gain)
    bias = limits.bias.reshape(groups, made) * gain
    fits = replace(limits, bias=bias).allow(np.concatenate([found, found]), whole)
    total = np.where(fits, total, np.inf)
    best = total.argmin(axis=0)[None]
    if not np.isfinite(np.take_along_axis(total, best, axis=0)).all():
        return None
    chosen = np.take_along_axis(found, best[:, :, None, :] % len(found), axis=0)[0]
    flat_values = chosen.transpose(1, 0, 2).reshape(reduction, groups * made)
    exponent = np.take_along_axis(whole, best, axis=0).reshape(-1)
    gains = np.take_along_axis(gain, best, axis=0).reshape(-1)
    return flat_values.astype(np.int32), exponent, gains


def _sample(values: Float32) -> Float32:
    """Some of the positions, seeded: at regular steps they could all be of one column."""
    if len(values) <= POSITIONS:
        return values
    chosen = np.random.default_rng(0).choice(len(values), POSITIONS, replace=False)
    return values[np.sort(chosen)]


#: Every gain there is: 2^(-7/8) to 2.
_GAINS = np.exp2(np.arange(1 - FRACTIONS, FRACTIONS + 1) / FRACTIONS)


def _at(errors: Float64, gain: Float64) -> Float64:
    """``errors`` ``[S, G * O]`` of all gains, looked up at ``gain`` ``[T, G, O]``."""
    place = np.rint(np.log2(gain) * FRACTIONS).astype(np.intp) + FRACTIONS - 1
    channel = np.arange(errors.shape[1]).reshape(gain.shape[1:])
    return np.asarray(errors[place, channel])


def _likeliest(tried: Float64, search: Search) -> Float64:
    """The candidates with the least error where nothing is compensated."""
    error = np.concatenate([search(one[None])[1] for one in tried])
    order = np.argsort(error, axis=0, kind="stable")[:LIKELIEST]
    return np.take_along_axis(tried, order, axis=0)
