"""Channels of a tensor scaled to fill the range of its type, before anything is rounded.

A stored tensor has one scale, so a channel that stays far below the others is stored with few
bits. Scaling such a channel up in the weights that make it, and down in the weights that read it,
leaves the float network as it is and costs nothing later: the weights are rounded afterwards,
and every scale of the integer network remains a power of two. (The idea, for convolutions with a
ReLU in between: cross-layer equalisation, Nagel et al. 2019.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.exact import exact_terms
from tvm_shiftadd.convert.execute import run_float
from tvm_shiftadd.convert.feeds import Feeds
from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.storage import Storage
from tvm_shiftadd.formats.codes import MAX_TERMS
from tvm_shiftadd.formats.ranges import INT8_MAX, activation_range

#: Operators that treat every channel alike: a positive factor commutes with them (a clip's finite
#: bounds are heeded separately).
_CHANNELWISE_OPS = frozenset({"add", "clip", "max_pool2d", "avg_pool2d", "upsample2d"})

#: Gain of a channel over the largest one, at most: more would only serve channels that hardly
#: ever carry anything.
MAX_GAIN = 32

#: Images that run at a time.
_STEP = 16


@dataclass(frozen=True)
class Family:
    """Tensors whose channels must be scaled together, because channelwise operators join them."""

    tensors: tuple[str, ...]
    channels: int


def equalize(graph: Graph, storage: Storage, feeds: Feeds) -> Graph:
    """``graph`` with scaled channels where all their makers and readers are weight layers.

    ``feeds`` are images the ranges are taken from. Names and shapes stay; the upper end of a clip
    becomes the value at which the stored tensor saturates, so that the clip of the original graph,
    on the integers of a conversion, ends every channel where it should.
    """
    scalable = families(graph)
    measured = {name for names in storage.measured for name in names}
    wanted = {name for family in scalable for name in family.tensors} & measured
    if not wanted:
        return graph
    largest = _channel_maxima(graph, feeds, wanted)
    producers = graph.producers()
    factors: dict[str, NDArray[np.float32]] = {}
    ends: dict[str, float] = {}
    most = {name: activation_range(storage.dtype(name))[1] for name in wanted}
    for family in scalable:
        known = [name for name in family.tensors if name in largest]
        bound = _common_bound([producers[name] for name in family.tensors], len(known))
        if known and bound is not None:
            common = _factors([(largest[name], most[name]) for name in known], bound)
            factors.update(dict.fromkeys(family.tensors, common))
            if bound < math.inf:
                end = full_range(bound, most[known[0]])
                ends.update(dict.fromkeys(family.tensors, end))
    return scale_channels(graph, factors, ends)


def scale_channels(
    graph: Graph,
    factors: Mapping[str, NDArray[np.float32]],
    ends: Mapping[str, float] | None = None,
) -> Graph:
    """``graph`` with the channels of tensors times ``factors`` by name, undone where they are read.

    ``ends``: new upper ends of clips, by the name of their result.
    """
    return replace(graph, nodes=tuple(_scaled(node, factors, ends or {}) for node in graph.nodes))


def families(graph: Graph) -> list[Family]:
    """The tensors whose channels may be scaled, in the sets that must be scaled alike."""
    root = {name: name for name in graph.shapes}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    fixed = {*graph.inputs, *graph.outputs}
    for node in graph.nodes:
        if node.op in WEIGHT_OPS:
            fixed.update(_trained_tensors(node))
            continue
        if node.op in ADDER_OPS:
            # Distances do not scale with one channel of the input; their factor scales the output.
            fixed.update(node.inputs)
            continue
        if _keeps_channels(node, graph.shapes):
            for name in node.inputs:
                root[find(name)] = find(node.output)
        else:
            fixed.update((*node.inputs, node.output))
    members: dict[str, list[str]] = {}
    for name in graph.shapes:
        members.setdefault(find(name), []).append(name)
    return [
        Family(tuple(names), graph.shapes[names[0]][-1])
        for names in members.values()
        if not fixed.intersection(names)
    ]


def _trained_tensors(node: Node) -> tuple[str, ...]:
    """Tensors around a layer of power-of-two weights whose scaling would spoil them.

    A factor an output is nothing new to weights that have one from a batch norm; a factor an
    input is.
    """
    assert node.weight is not None
    found = exact_terms(node.weight.reshape(-1, node.weight.shape[-1]), MAX_TERMS)
    if found is None:
        return ()
    return (*node.inputs, node.output) if found.plain else node.inputs


def _keeps_channels(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether channel c of the result depends on channel c of the inputs alone, linearly enough."""
    channels = shapes[node.output][-1]
    if any(shapes[name][-1] != channels for name in node.inputs):
        return False
    if node.op == "pad":
        return not np.any(np.reshape(np.asarray(node.attrs["pad_width"]), (-1, 2))[-1])
    if node.op == "permute":
        return bool(node.attrs["axes"][-1] == len(node.attrs["axes"]) - 1)
    if node.op == "slice":
        return len(shapes[node.output]) - 1 not in node.attrs["axes"]
    if node.op == "concat":
        return bool(node.attrs["axis"] not in (-1, len(shapes[node.output]) - 1))
    # A reshape that leaves the last axis as it is only regroups positions.
    return node.op in _CHANNELWISE_OPS or node.op == "reshape"


def _channel_maxima(graph: Graph, feeds: Feeds, names: set[str]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of every channel of the named tensors, float32 ``[C]``."""
    largest: dict[str, NDArray[np.float32]] = {}
    count = len(next(iter(feeds.values())))
    for start in range(0, count, _STEP):
        piece = {name: array[start : start + _STEP] for name, array in feeds.items()}
        for name, values in run_float(graph, piece, keep=names).items():
            if name in names:
                flat = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0)
                largest[name] = np.maximum(largest.get(name, flat), flat)
    return largest


def _common_bound(makers: Sequence[Node], measured: int) -> float | None:
    """Where clips end the tensors of a family; None where scaling would move a clip's end.

    Stored values have to saturate just where the clip would have ended them. That works
    out for a clip from 0 to some bound that all values of the family go through.
    """
    bounds = {(float(n.attrs["lo"]), float(n.attrs["hi"])) for n in makers if n.op == "clip"}
    finite = {pair for pair in bounds if pair not in ((0, math.inf), (-math.inf, math.inf))}
    if not finite:
        return math.inf
    lo, hi = next(iter(finite))
    alone = measured == 1 and len(bounds) == 1
    return hi if alone and lo == 0 < hi < math.inf else None


def _factors(
    largest: Sequence[tuple[NDArray[np.float32], int]], bound: float
) -> NDArray[np.float32]:
    """The factor of each channel with which it fills the range of its type, float32 ``[C]``.

    largest: of each tensor of a family, the largest magnitudes and the greatest value of its type;
    bound: the clip that ends them.
    """
    factors = np.full(len(largest[0][0]), np.inf)
    for channels, most in largest:
        top = min(float(channels.max()), bound)
        if top > 0:
            full = full_range(top, most)
            factors = np.minimum(factors, full / np.maximum(channels, top / MAX_GAIN))
    return np.where(np.isfinite(factors), factors, 1).astype(np.float32)


def full_range(top: float, most: int = INT8_MAX) -> float:
    """The largest ``most * 2^-a`` that is at most ``top``: what a stored tensor saturates at.

    most: the greatest value of the tensor's type.
    """
    return math.ldexp(most, -math.ceil(math.log2(most / top)))


def _scaled(
    node: Node, factors: Mapping[str, NDArray[np.float32]], ends: Mapping[str, float]
) -> Node:
    """A weight layer with its output channels scaled and its inputs' scaling undone; a clip with
    its new end.
    """
    if node.op == "clip" and node.output in ends:
        return replace(node, attrs={**node.attrs, "hi": ends[node.output]})
    if node.op in ADDER_OPS and node.output in factors:
        gain = factors[node.output]
        factor = gain if node.factor is None else node.factor * gain
        scaled_bias = None if node.bias is None else node.bias * gain
        return replace(node, factor=factor, bias=scaled_bias)
    if node.op not in WEIGHT_OPS or node.weight is None:
        return node
    weight, bias = node.weight, node.bias
    before, after = factors.get(node.inputs[0]), factors.get(node.output)
    if before is not None:
        groups = int(node.attrs.get("groups", 1))
        rows = (1 / before).reshape(groups, -1)
        split = weight.reshape(*weight.shape[:-1], groups, -1)
        weight = (split * rows.T[:, :, None]).reshape(weight.shape)
    if after is not None:
        weight = weight * after
        bias = None if bias is None else bias * after
    return replace(node, weight=weight, bias=bias)
