"""Layer by layer: convert each weight layer on inputs from the layers converted before it.

A few hundred images run through the float network and the converted one side by side. When a
weight layer is reached, its input in the converted network is final, so its integers and its bias
can be fitted to the float output, errors of earlier layers included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.adders import fit_adder, integer_weight
from tvm_shiftadd.convert.bias import channel_mean, corrected_bias, float_bias, integer_bias
from tvm_shiftadd.convert.blocks import fit_in_blocks
from tvm_shiftadd.convert.compensate import choose_damping, compensated_search, descend
from tvm_shiftadd.convert.diagnose import Diagnosis
from tvm_shiftadd.convert.exact import KeptWeight, keep_weight
from tvm_shiftadd.convert.execute import (
    QTensor,
    exponent_of,
    integer_node,
    run_layer,
    scaled,
    store,
    to_float,
    to_integers,
)
from tvm_shiftadd.convert.feeds import Feeds, Progress
from tvm_shiftadd.convert.finer import choose_finer_scales
from tvm_shiftadd.convert.fold import Outlet, averages_of, choose_folded_scales, outlets
from tvm_shiftadd.convert.graph import ADDER_OPS, LAYER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.moments import MAX_REDUCTION, Moments, gather, total
from tvm_shiftadd.convert.operators import distances, run_node
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.plan import AdderPlan, LayerPlan, Plan
from tvm_shiftadd.convert.prove import Bounded, prove_node, stored_bounds
from tvm_shiftadd.convert.report import LayerReport
from tvm_shiftadd.convert.storage import stored
from tvm_shiftadd.convert.terms import (
    Limits,
    TermLimits,
    choose_scales,
    group_weight,
    nearest_search,
)
from tvm_shiftadd.formats import codes

#: Bytes an element of a live tensor takes: float32 beside a byte or int32, and room to work.
ELEMENT_BYTES = 12


def images_in_memory(graph: Graph, budget: int) -> int:
    """How many images fit ``budget`` bytes when both networks run side by side; at least 1."""
    left = {name: len(readers) for name, readers in graph.consumers().items()}
    size = {name: int(np.prod(shape[1:], dtype=np.int64)) for name, shape in graph.shapes.items()}
    live = set(graph.inputs)
    peak = sum(size[name] for name in live)
    for node in graph.nodes:
        live.add(node.output)
        peak = max(peak, sum(size[name] for name in live))
        for name in node.inputs:
            left[name] -= 1
            if not left[name] and name not in graph.outputs:
                live.discard(name)
    return max(1, budget // (ELEMENT_BYTES * max(peak, 1)))


class SequentialConversion:
    """Runs both networks over ``feeds`` and collects ``layers`` and ``reports``."""

    def __init__(
        self, graph: Graph, exponents: dict[str, int], options: ConvertOptions, progress: Progress
    ) -> None:
        """``exponents``: a of every stored tensor, from calibration."""
        self.graph = graph
        self.options = options
        self.progress = progress
        self.layers: dict[str, LayerPlan] = {}
        self.reports: list[LayerReport] = []
        self.adders: dict[str, AdderPlan] = {}
        unsigned = stored(graph, options.unsigned).unsigned
        self.plan = Plan(self.layers, exponents, self.adders, unsigned)
        self._floats: dict[str, NDArray[Any]] = {}
        self._converted: dict[str, QTensor | NDArray[Any]] = {}
        self._wide: dict[str, Bounded] = {}
        self._consumers = graph.consumers()
        self._diagnosis = Diagnosis(self.plan, self._consumers)
        self._outlets = outlets(graph, self.plan) if options.fold else {}
        #: The factor of each channel of a converted tensor over the float one, float32 [C].
        self.gains: dict[str, NDArray[np.float32]] = {}

    def run(self, feeds: Feeds) -> None:
        """Convert every layer. Raises RangeError where a layer cannot be proved."""
        self._floats = dict(feeds)
        self._converted = dict(feeds)
        left = {name: len(readers) for name, readers in self._consumers.items()}
        total = sum(node.op in LAYER_OPS for node in self.graph.nodes)
        for node in self.graph.nodes:
            self._step(node)
            if node.op in LAYER_OPS:
                self.progress("convert", len(self.reports), total)
            for name in node.inputs:
                left[name] -= 1
            for name in {*node.inputs, node.output}:
                if not left[name]:
                    self._floats.pop(name, None)
                    self._converted.pop(name, None)

    def _step(self, node: Node) -> None:
        inputs = [self._floats[name] for name in node.inputs]
        self._floats[node.output] = run_node(node, inputs, self.graph)
        converted = [self._converted[name] for name in node.inputs]
        if node.op in WEIGHT_OPS:
            self._converted[node.output] = self._layer(node, converted)
        elif node.op in ADDER_OPS:
            self._converted[node.output] = self._adder(node, converted)
        else:
            self._converted[node.output] = integer_node(self.graph, self.plan, node, converted)
        if not node.on_host:
            result = prove_node(self.graph, self.plan, node, self._wide)
            if node.output not in self.plan.exponents:
                self._wide[node.output] = result

    def _layer(self, node: Node, inputs: Sequence[QTensor | NDArray[Any]]) -> QTensor:
        x = to_integers(inputs[0], node.inputs[0], self.plan)
        target, addend = self._target(node)
        limits = self._limits(node, addend)
        kept = keep_weight(node, self.options.limits_of(node.name), limits)
        if kept is None:
            kept, gain = self._fitted(node, x, target, limits)
            target = np.asarray(target * gain, dtype=np.float32)
            limits = replace(limits, bias=limits.bias * gain)
        values, exponent = kept.values, kept.exponent
        assert node.weight is not None
        acc = run_layer(node, x.values, values.reshape(node.weight.shape), None)
        scale = x.exponent + exponent
        if self.options.bias_correction:
            # The bias comes in front of the factor.
            wanted = target if kept.factor is None else _divided(target, kept.multiplier)
            bias = integer_bias(corrected_bias(wanted, acc, scale), scale)
        else:
            bias = integer_bias(limits.bias / kept.multiplier, scale)
        layer = LayerPlan(codes.encode(values, kept.terms), exponent, bias, kept.factor)
        self.layers[node.name] = layer
        acc += bias
        wide = scaled(QTensor(acc, scale), kept.factor)
        result = store(wide, node.output, self.plan)
        self.reports.append(self._report(node, layer, kept, x, wide))
        return result

    def _adder(self, node: Node, inputs: Sequence[QTensor | NDArray[Any]]) -> QTensor:
        x = to_integers(inputs[0], node.inputs[0], self.plan)
        target, addend = self._target(node)
        limits = self._limits(node, addend)
        weight, offset = integer_weight(node, limits.input_exponent)
        acc = -distances(node, x.values, weight)
        fitted = target if self.options.bias_correction else None
        flat = weight.reshape(-1, weight.shape[-1])
        adder = fit_adder(node, acc, flat, offset, limits, fitted)
        self.adders[node.name] = adder
        acc += adder.bias
        wide = scaled(QTensor(acc, x.exponent), adder.factor)
        wanted = self._floats[node.output]
        self.reports.append(self._diagnosis.adder_layer(node, adder, x, wanted, wide))
        return store(wide, node.output, self.plan)

    def _limits(self, node: Node, addend: str | None) -> Limits:
        """What the layer's accumulator has to fit."""
        name = node.inputs[0]
        return Limits(
            exponent_of(name, self.plan),
            float_bias(node),
            self._requantized_to(node),
            self._size(addend),
            int(stored_bounds(name, self.plan).magnitude.max()),
        )

    def _fitted(
        self, node: Node, x: QTensor, target: NDArray[np.float32], limits: Limits
    ) -> tuple[KeptWeight, NDArray[np.float64]]:
        """The layer's integers and the gains ``[O]`` of its output."""
        outlet = self._outlets.get(node.name)
        short = group_weight(node).shape[1] <= MAX_REDUCTION
        if outlet is not None and short and self.options.compensation:
            folded = self._folded(node, x, target, limits, outlet)
            if folded is not None:
                values, exponent, gain = folded
                self.gains.update(dict.fromkeys(outlet.tensors, gain.astype(np.float32)))
                terms = self.options.limits_of(node.name).terms
                return KeptWeight(values, exponent, terms), gain
        kept = self._integers(node, x, target, limits)
        return kept, np.ones(len(kept.exponent))

    def _folded(
        self,
        node: Node,
        x: QTensor,
        target: NDArray[np.float32],
        limits: Limits,
        outlet: Outlet,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]] | None:
        allowed = self._allowed(node)
        moments = self._moments(node, x, target, allowed)
        result = self._floats[node.output]
        found = choose_folded_scales(
            moments.ideal,
            np.einsum("gnn->gn", moments.hessian),
            allowed,
            compensated_search(moments, allowed),
            limits,
            outlet,
            result.reshape(-1, result.shape[-1]),
            averages_of(self.graph, outlet, node, result),
        )
        if found is None:
            return None
        values, exponent, gain = found
        price = self._price(allowed, limits, len(gain))
        finer = exponent + np.log2(gain)
        return descend(values, finer, moments, allowed, price), exponent, gain

    def _integers(
        self, node: Node, x: QTensor, target: NDArray[np.float32], limits: Limits
    ) -> KeptWeight:
        """The layer's integers where nothing is folded."""
        weight, allowed = self._weight(node), self._allowed(node)
        long = weight.shape[1] > MAX_REDUCTION
        if long or not self.options.compensation:
            search = nearest_search(weight, _mean_squares(x, weight), allowed)
            values, exponent = choose_scales(node.name, weight, allowed, search, limits)
            if not self.options.compensation:
                return KeptWeight(values, exponent, allowed.terms)
            price = self._price(allowed, limits, len(exponent))
            a = limits.input_exponent
            fitted = fit_in_blocks(node, x.values, a, target, weight, allowed, exponent, price)
            fits = limits.allow(fitted.astype(np.float64), exponent)
            return KeptWeight(np.where(fits, fitted, values), exponent, allowed.terms)
        moments = self._moments(node, x, target, allowed)
        search = compensated_search(moments, allowed)
        finer = None
        if self.options.finer:
            finer = choose_finer_scales(moments.ideal, allowed, search, limits)
        if finer is not None:
            price = self._price(allowed, limits, len(finer.exponent))
            values = descend(finer.values, finer.real, moments, allowed, price)
            return KeptWeight(values, finer.exponent, allowed.terms, finer.factor)
        values, exponent = choose_scales(node.name, moments.ideal, allowed, search, limits)
        price = self._price(allowed, limits, len(exponent))
        values = descend(values, exponent, moments, allowed, price)
        return KeptWeight(values, exponent, allowed.terms)

    def _moments(
        self, node: Node, x: QTensor, target: NDArray[np.float32], allowed: TermLimits
    ) -> Moments:
        weight = self._weight(node)
        parts = gather(node, x.values, int(x.exponent[0]), target, weight.shape)
        damping = choose_damping(parts, weight, allowed)
        return total(parts).moments(weight, damping)

    def _allowed(self, node: Node) -> TermLimits:
        allowed = self.options.limits_of(node.name)
        groups, reduction, made = group_weight(node).shape
        allowed.check(node.name, (reduction, groups * made))
        return allowed

    def _price(self, allowed: TermLimits, limits: Limits, channels: int) -> float:
        """The price of a term in units of one channel's integer input times real weight."""
        return math.ldexp(allowed.price * channels, 2 * limits.input_exponent)

    def _weight(self, node: Node) -> NDArray[np.float64]:
        """The layer's weight ``[G, n, O]`` for inputs with the gains they really have."""
        weight = group_weight(node)
        gain = self.gains.get(node.inputs[0])
        if gain is None:
            return weight
        rows = gain.astype(np.float64).reshape(weight.shape[0], -1)
        return weight / np.tile(rows, (1, weight.shape[1] // rows.shape[1]))[:, :, None]

    def _target(self, node: Node) -> tuple[NDArray[np.float32], str | None]:
        """What the layer should give, and the tensor its result is added to, if that is known.

        Where the accumulator goes straight into an addition, the layer makes up for the error of
        the other operand too.
        """
        result = self._floats[node.output]
        other = self._addend(node)
        if other is None:
            return result, None
        wanted = self._floats[other]
        have = to_float(self._as_operand(other))
        return result + (wanted - have), other

    def _addend(self, node: Node) -> str | None:
        readers = self._consumers[node.output]
        if node.output in self.plan.exponents or len(readers) != 1 or readers[0].op != "add":
            return None
        lhs, rhs = readers[0].inputs
        other = rhs if lhs == node.output else lhs
        same = self.graph.shapes[other][1:] == self.graph.shapes[node.output][1:]
        return other if other in self._converted and same else None

    def _as_operand(self, name: str) -> QTensor:
        return to_integers(self._converted[name], name, self.plan)

    def _size(self, addend: str | None) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
        if addend is None:
            return None
        bounds = self._wide.get(addend) or stored_bounds(addend, self.plan)
        channels = self.graph.shapes[addend][-1]
        return (
            np.broadcast_to(bounds.magnitude, (channels,)),
            np.broadcast_to(bounds.exponent, (channels,)),
        )

    def _requantized_to(self, node: Node) -> int | None:
        """The exponent of the stored tensor at the end of the layer's wide chain."""
        end = self._diagnosis.end_of(node)
        return None if end is None else self.plan.exponents[end]

    def _report(
        self, node: Node, layer: LayerPlan, kept: KeptWeight, x: QTensor, result: QTensor
    ) -> LayerReport:
        gain = self.gains.get(node.output, np.float32(1))
        weight = self._weight(node).transpose(1, 0, 2).reshape(kept.values.shape) * gain
        wanted = self._floats[node.output] * gain
        return self._diagnosis.weight_layer(node, layer, kept, weight, gain, x, wanted, result)


def _divided(values: NDArray[np.float32], factor: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values / factor.astype(np.float32), dtype=np.float32)


def _mean_squares(x: QTensor, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much an error of each weight matters: its input's mean square, ``[G, n]``."""
    square = channel_mean(np.square(x.values.astype(np.float32)))
    groups, reduction, _ = weight.shape
    return np.tile(square.reshape(groups, -1), (1, reduction * groups // square.size))
