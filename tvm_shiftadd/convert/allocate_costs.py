"""What the terms of a layer cost: terms, bytes, energy, cycles of the accelerator.

All are measured on the layer's integers, so a report says what was built and no estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_budget import UNITS, Unit
from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.plan import LayerPlan
from tvm_shiftadd.formats import codes

#: Picojoules of a non-zero term at one output position: an 8-bit shift and a 32-bit addition at
#: 45 nm, as in ``costs/energy.py``.
TERM_PICOJOULES = 0.024 + 0.1

#: Inputs and outputs of a tile: the accelerator's block.
BLOCK = 16

#: Operators whose weights are sums of terms.
TERM_OPS = frozenset({"conv2d", "conv2d_transpose", "dense"})


@cache
def _counts() -> tuple[NDArray[np.int64], int]:
    """Fewest terms of each value, by value + offset."""
    top = int(codes.representable(codes.MAX_TERMS)[-1])
    table = np.full(2 * top + 1, codes.MAX_TERMS, dtype=np.int64)
    for terms in range(codes.MAX_TERMS - 1, 0, -1):
        table[codes.representable(terms) + top] = terms
    table[top] = 0
    return table, top


def term_counts(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Non-zero terms of each representable integer, in its canonical code."""
    table, offset = _counts()
    return table[values + offset]


def positions(graph: Graph, node: Node) -> int:
    """How often each weight of a layer is used in one inference."""
    if node.op == "dense":
        return math.prod(max(size, 1) for size in graph.shapes[node.output][1:-1])
    mapped = node.inputs[0] if node.op == "conv2d_transpose" else node.output
    return math.prod(graph.shapes[mapped][1:3])


def tiles(node: Node) -> NDArray[np.int64]:
    """The number of each weight's tile, int64 ``[R, O]``, counted from 0.

    A tile is 16 inputs by 16 outputs of one group at one kernel position. Depthwise layers have
    one input a group: there a tile is one kernel position of 16 neighbouring channels.
    """
    assert node.weight is not None
    shape = (1, 1, *node.weight.shape) if node.op == "dense" else node.weight.shape
    rows, columns, inputs, outputs = shape
    groups = int(node.attrs.get("groups", 1)) if node.op == "conv2d" else 1
    made = outputs if inputs == 1 else outputs // groups
    across = -(-made // BLOCK)
    channel = np.arange(outputs)
    block = channel // made * across + channel % made // BLOCK
    blocks = outputs // made * across
    deep = -(-inputs // BLOCK)
    kernel = np.arange(rows * columns)[:, None, None]
    depth = np.arange(inputs)[None, :, None] // BLOCK
    index = (kernel * deep + depth) * blocks + block[None, None, :]
    return np.broadcast_to(index, (rows * columns, inputs, outputs)).reshape(-1, outputs)


@dataclass(frozen=True)
class LayerCost:
    """Costs of one layer, each in its unit; ``terms`` counts all non-zero terms."""

    weights: int
    terms: int
    bytes: int
    energy: float
    cycles: int


def layer_cost(graph: Graph, node: Node, values: NDArray[np.int32], planes: int) -> LayerCost:
    """What a layer of the integers ``values`` ``[R, O]``, stored in K = ``planes``, costs."""
    counts = term_counts(values)
    used = positions(graph, node)
    index = tiles(node)
    passes = np.zeros(int(index.max()) + 1, dtype=np.int64)
    np.maximum.at(passes, index, counts)
    reduction, outputs = values.shape
    terms = int(counts.sum())
    return LayerCost(
        weights=values.size,
        terms=terms,
        bytes=planes * -(-reduction // 2) * outputs,
        energy=1e-6 * TERM_PICOJOULES * terms * used,
        cycles=int(passes.sum()) * used,
    )


def layer_costs(graph: Graph, layers: Mapping[str, LayerPlan]) -> dict[str, LayerCost]:
    """What each converted layer of ``graph`` costs, by name."""
    return {
        node.name: layer_cost(
            graph, node, codes.decode(layers[node.name].codes), layers[node.name].terms
        )
        for node in graph.nodes
        if node.op in TERM_OPS
    }


def totals(layers: Mapping[str, LayerCost]) -> dict[Unit, float]:
    """The network's cost in every unit; ``terms`` as a mean over its weights."""
    found: dict[Unit, float] = {
        unit: float(sum(getattr(cost, unit) for cost in layers.values())) for unit in UNITS
    }
    found["terms"] /= max(sum(cost.weights for cost in layers.values()), 1)
    return found
