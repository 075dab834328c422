"""What each layer loses with one, two and three terms, measured on calibration data.

:class:`Probe` converts the network with the most terms everywhere and, at each layer, also makes
the integers it would have with fewer. :func:`measure` then puts each of these into the float
network, alone, and looks at what comes out of the layer and out of the network. No labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_costs import (
    TERM_OPS,
    LayerCost,
    layer_cost,
    layer_costs,
    term_counts,
    tiles,
)
from tvm_shiftadd.convert.exact import KeptWeight
from tvm_shiftadd.convert.execute import run_float
from tvm_shiftadd.convert.feeds import Feeds, Progress, silent
from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.operators import run_linear, run_node
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.sequence import SequentialConversion
from tvm_shiftadd.convert.terms import nearest
from tvm_shiftadd.formats.codes import MAX_TERMS

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

#: Images that sensitivity is measured on: so many elements of all tensors, and between these.
SAMPLE_ELEMENTS = 1 << 28
SAMPLE_IMAGES = (4, 64)

#: The least sensitivity that is believed, as a part of the largest effect of a layer: a layer
#: whose errors were not seen on these few images must not lose all its terms.
LEAST_EFFECT = 1e-4

#: Integers ``[R, O]`` of a layer and their exponents ``[O]``.
Integers = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class TileProfile:
    """The tiles of a layer: index, int64 ``[R, O]``; noise, float64 ``[K, T]``, the part of the
    layer's noise that each tile makes with 1 to K terms; terms, float64 ``[K, T]``, its non-zero
    terms then.
    """

    index: NDArray[np.int64]
    noise: Float64
    terms: Float64


@dataclass(frozen=True)
class LayerProfile:
    """One layer as measured, index 0 for one term a weight.

    costs: what its integers cost; noise: mean squared error of the layer's output, its
    mean left out; effect: the squared error this makes in the network's outputs, relative to their
    variance. sensitivity: effect of a unit of noise.
    """

    node: Node
    costs: tuple[LayerCost, ...]
    noise: tuple[float, ...]
    sensitivity: float
    tiles: TileProfile

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.node.name

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return 0 if self.node.weight is None else int(self.node.weight.size)

    @property
    def effect(self) -> tuple[float, ...]:
        """Relative squared error of the network's outputs, with 1 to 3 terms in this layer."""
        return tuple(self.sensitivity * noise for noise in self.noise)


class Probe(SequentialConversion):
    """A conversion with the most terms that notes every layer's integers with fewer.

    ``candidates``: by layer, the integers with 1, 2 and 3 terms a weight.
    """

    def __init__(
        self, graph: Graph, exponents: dict[str, int], options: ConvertOptions, progress: Progress
    ) -> None:
        """As :class:`SequentialConversion`; the options' terms and allocation are not used."""
        # Integers of a folded layer stand for another function than the float layer's, and so do
        # those in front of a factor.
        options = dataclasses.replace(
            options, terms=MAX_TERMS, budget=None, frontier=False, finer=False
        )
        super().__init__(graph, exponents, options, progress)
        self._outlets = {}
        self.candidates: dict[str, tuple[Integers, ...]] = {}

    def _integers(self, node: Node, *rest: Any) -> KeptWeight:
        made, options = [], self.options
        for terms in range(1, MAX_TERMS + 1):
            self.options = dataclasses.replace(options, terms=terms)
            made.append(super()._integers(node, *rest))
        self.options = options
        self.candidates[node.name] = tuple((kept.values, kept.exponent) for kept in made)
        return made[-1]


def profile(
    graph: Graph,
    exponents: dict[str, int],
    options: ConvertOptions,
    feeds: Feeds,
    progress: Progress = silent,
) -> tuple[tuple[LayerProfile, ...], dict[str, LayerCost]]:
    """Every layer of ``graph`` measured on ``feeds``, and what those cost that have no choice.

    These are the layers whose weights are sums of powers of two already and are kept as they are.
    Tells ``progress`` of the phase "measure".
    """
    layers = [node for node in graph.nodes if node.op in TERM_OPS]
    total = 2 * len(layers)

    def tell(phase: str, done: int, count: int) -> None:
        progress("measure", done, total)

    probe = Probe(graph, exponents, options, tell)
    probe.run(feeds)
    sample = sample_of(graph, feeds)
    found = []
    for done, effect in enumerate(measure(graph, probe.candidates, sample), 1):
        found.append(effect)
        progress("measure", len(layers) + done, total)
    top = max((layer.effect[0] for layer in found), default=0.0)
    fixed = layer_costs(graph, probe.layers)
    for layer in found:
        del fixed[layer.name]
    return tuple(_believed(layer, LEAST_EFFECT * top) for layer in found), fixed


def sample_of(graph: Graph, feeds: Feeds) -> Feeds:
    """As many images, evenly spread, as :data:`SAMPLE_ELEMENTS` allows."""
    elements = sum(
        int(np.prod([max(size, 1) for size in shape[1:]], dtype=np.int64))
        for shape in graph.shapes.values()
    )
    least, most = SAMPLE_IMAGES
    return spread(feeds, min(max(SAMPLE_ELEMENTS // max(elements, 1), least), most))


def spread(feeds: Feeds, count: int) -> Feeds:
    """At most ``count`` images, evenly spread over those held."""
    held = len(next(iter(feeds.values())))
    if held <= count:
        return feeds
    places = np.arange(count) * held // count
    return {name: array[places] for name, array in feeds.items()}


def measure(
    graph: Graph, candidates: Mapping[str, Sequence[Integers]], feeds: Feeds
) -> list[LayerProfile]:
    """The profile of every layer that has candidates, in order."""
    values = run_float(graph, feeds, keep=list(graph.shapes))
    scale = {name: _energy(values[name]) for name in graph.outputs}
    found = []
    for place, node in enumerate(graph.nodes):
        if node.name not in candidates or node.op not in TERM_OPS:
            continue
        assert node.weight is not None
        x, noise, first = values[node.inputs[0]], [], None
        for integers in candidates[node.name]:
            change = dequantized(*integers) - node.weight.reshape(integers[0].shape)
            error = _centred(run_linear(node, x, change.reshape(node.weight.shape), None))
            noise.append(float(np.square(error, dtype=np.float64).mean()))
            first = error if first is None else first
        assert first is not None
        effect = _effect(graph, place, values, first, scale)
        sensitivity = effect / noise[0] if noise[0] > 0 else 0.0
        costs = tuple(
            layer_cost(graph, node, integers[0], planes)
            for planes, integers in enumerate(candidates[node.name], 1)
        )
        tile = _tile_profile(node, x, candidates[node.name], noise)
        found.append(LayerProfile(node, costs, tuple(noise), sensitivity, tile))
    return found


def dequantized(values: NDArray[np.int32], exponent: NDArray[np.int32]) -> Float32:
    """The real weights ``[R, O]`` of a layer's integers."""
    return np.ldexp(values.astype(np.float64), -exponent).astype(np.float32)


def output_error(have: Mapping[str, Float32], wanted: Mapping[str, Float32]) -> float:
    """Squared error of all outputs, each relative to its variance; the mean error is left out."""
    total = 0.0
    for name, right in wanted.items():
        total += _energy(have[name] - right) / max(_energy(right), np.finfo(np.float64).tiny)
    return total


def _effect(
    graph: Graph, place: int, values: Mapping[str, Float32], error: Float32, scale: Any
) -> float:
    """What ``error``, added to the result of node number ``place``, does to the outputs."""
    node = graph.nodes[place]
    changed: dict[str, Float32] = {node.output: values[node.output] + error}
    for later in graph.nodes[place + 1 :]:
        if any(name in changed for name in later.inputs):
            inputs = [changed.get(name, values[name]) for name in later.inputs]
            changed[later.output] = run_node(later, inputs, graph)
    total = 0.0
    for name in graph.outputs:
        if name in changed and scale[name] > 0:
            total += _energy(changed[name] - values[name]) / scale[name]
    return total if np.isfinite(total) else 0.0


def _tile_profile(
    node: Node,
    x: Float32,
    candidates: Sequence[Integers],
    noise: Sequence[float],
) -> TileProfile:
    """How the layer's noise is spread over its tiles.

    A weight's rounding error counts by the variance of its input; the sums of each number of
    terms are then scaled to the noise that was measured, compensation included.
    """
    index = tiles(node)
    count = int(index.max()) + 1
    exponent = candidates[0][1]
    assert node.weight is not None
    weight = np.ldexp(node.weight.reshape(index.shape).astype(np.float64), exponent)
    variance = x.astype(np.float64).var(axis=tuple(range(x.ndim - 1)))
    importance = np.ldexp(_importance(node, variance, index.shape), -2 * exponent)
    errors, used = [], []
    for terms, total in enumerate(noise, 1):
        rounded = nearest(weight, terms)
        loss = np.bincount(index.ravel(), (importance * np.square(rounded - weight)).ravel(), count)
        errors.append(loss * (total / max(float(loss.sum()), 1e-300)))
        counts = term_counts(rounded.astype(np.int32)).astype(np.float64)
        used.append(np.bincount(index.ravel(), counts.ravel(), count))
    return TileProfile(index, np.array(errors), np.array(used))


def _importance(node: Node, variance: Float64, shape: tuple[int, ...]) -> Float64:
    """The variance of each weight's input, ``[R, O]``."""
    groups = int(node.attrs.get("groups", 1)) if node.op == "conv2d" else 1
    reduction, outputs = shape
    # [positions of the kernel, inputs of a group, groups] to [R, O]
    part = np.repeat(variance.reshape(groups, -1).T, outputs // groups, axis=1)
    return np.tile(part, (reduction // part.shape[0], 1))


def _believed(layer: LayerProfile, least: float) -> LayerProfile:
    noise = layer.noise[0]
    if layer.effect[0] >= least or noise <= 0:
        return layer
    return dataclasses.replace(layer, sensitivity=least / noise)


def _centred(error: Float32) -> Float32:
    """Without the mean of each channel, which the bias takes up."""
    return np.asarray(error - error.mean(axis=tuple(range(error.ndim - 1)), keepdims=True))


def _energy(values: Float32) -> float:
    """Sum of squares of an image, mean over images, around the mean image."""
    centred = values.astype(np.float64)
    if len(centred) > 1:
        centred = centred - centred.mean(axis=0)
    return float(np.square(centred).sum()) / max(len(centred) - 1, 1)
