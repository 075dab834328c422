"""Proof, from the integers of a plan alone, that nothing in the converted network overflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.execute import as_exponent, exponent_of
from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.operators import pool_window
from tvm_shiftadd.convert.plan import ChannelFactor, Plan
from tvm_shiftadd.formats import ranges, reference


@dataclass(frozen=True)
class Bounded:
    """Least and greatest integer of a tensor, int64 ``[C]`` or ``[1]``, and its exponent."""

    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    exponent: NDArray[np.int32]

    @property
    def magnitude(self) -> NDArray[np.int64]:
        """The largest absolute value a channel can have."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))


def stored_bounds(name: str, plan: Plan) -> Bounded:
    """Any value of the type and at the exponent that the plan gives tensor ``name``."""
    lo, hi = ranges.activation_range(plan.dtype(name))
    return Bounded(np.array([lo]), np.array([hi]), as_exponent(exponent_of(name, plan)))


def prove_plan(graph: Graph, plan: Plan) -> None:
    """Raise RangeError, naming the layer, where an int32 of the converted network can overflow."""
    wide: dict[str, Bounded] = {}
    for node in graph.nodes:
        if not node.on_host:
            result = prove_node(graph, plan, node, wide)
            if node.output not in plan.exponents:
                wide[node.output] = result


def prove_node(graph: Graph, plan: Plan, node: Node, wide: Mapping[str, Bounded]) -> Bounded:
    """The bounds of one region node's result; ``wide`` has those of the tensors not stored."""
    operands = [wide[name] if name in wide else stored_bounds(name, plan) for name in node.inputs]
    result = _bounds(graph, plan, node, operands)
    if node.output in plan.exponents:
        return _requantized(node, result, plan)
    return result


def _bounds(graph: Graph, plan: Plan, node: Node, operands: Sequence[Bounded]) -> Bounded:
    """Bounds of what ``node`` makes before requantisation; movements and clips pass theirs on."""
    first = operands[0]
    if node.op in WEIGHT_OPS:
        layer = plan.layers[node.name]
        lo, hi = ranges.prove_layer(node.name, layer.codes, layer.bias, *_ends(first))
        acc = Bounded(lo, hi, first.exponent + layer.weight_exponent)
        return _scaled(node, acc, layer.factor)
    if node.op in ADDER_OPS:
        adder = plan.adders[node.name]
        lo, hi = ranges.prove_adder(node.name, adder.weight, adder.bias)
        return _scaled(node, Bounded(lo, hi, first.exponent), adder.factor)
    if node.op == "add":
        second = operands[1]
        exponent = np.maximum(first.exponent, second.exponent)
        lo, hi = ranges.prove_add(
            node.name,
            (first.lo, first.hi),
            (second.lo, second.hi),
            exponent - first.exponent,
            exponent - second.exponent,
        )
        return Bounded(lo, hi, exponent)
    if node.op == "avg_pool2d":
        height, width = graph.shapes[node.inputs[0]][1:3]
        scale = reference.avg_pool_reciprocal((height, width), **pool_window(node))
        lo, hi = ranges.avg_pool_bounds(scale, *_ends(first))
        return Bounded(lo, hi, first.exponent + np.int32(scale.shift))
    if node.op == "concat":
        for operand in operands:
            shift = operand.exponent - exponent_of(node.output, plan)
            ranges.prove_requantize(node.name, operand.lo, operand.hi, shift)
        return stored_bounds(node.output, plan)
    return first


def _ends(value: Bounded) -> tuple[int, int]:
    return int(value.lo.min()), int(value.hi.max())


def _scaled(node: Node, acc: Bounded, factor: ChannelFactor | None) -> Bounded:
    if factor is None:
        return acc
    lo, hi = ranges.prove_scale(node.name, acc.lo, acc.hi, factor.codes)
    return Bounded(lo, hi, (acc.exponent + factor.exponent).astype(np.int32))


def _requantized(node: Node, value: Bounded, plan: Plan) -> Bounded:
    shift = value.exponent - plan.exponents[node.output]
    ranges.prove_requantize(node.name, value.lo, value.hi, shift)
    return stored_bounds(node.output, plan)
