"""Operations, memory traffic and energy of a network before and after its conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tvm_shiftadd.convert.graph import ADDER_OPS, LAYER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.plan import Plan
from tvm_shiftadd.costs.energy import MEMORY, OPERATIONS, operation_energy
from tvm_shiftadd.costs.operations import (
    Operations,
    float_operations,
    multiply_accumulates,
    shift_add_operations,
    size,
)
from tvm_shiftadd.formats.codes import count_terms

FLOAT_BYTES = 4
BIAS_BYTES = 4

ASSUMPTIONS = (
    "Counts are for one inference of one input. Products with padding are counted like others.",
    "A weight costs one shift and one add for each of its non-zero terms; a shift by zero counts.",
    "Comparisons (ReLU, clip, max pooling), address arithmetic and copies are counted nowhere.",
    "A function such as exp or a division on the host counts as one multiplication.",
    "Every layer is charged for its memory traffic: weights, bias, inputs and output once each, "
    "through DRAM, global buffer, on-chip network and register file.",
    "A tensor that only passes from one operator of a region to the next as an accumulator is not "
    "charged, in float and in int8 neither: every network is taken as fused alike.",
    "Energies are for 45 nm. Shifts of activations and int8 products are charged at 8 bits, all "
    "integer sums and the shifts of accumulators at 32 bits.",
    "The int8 network differs from the shift-add network in its layers' products alone: one "
    "multiply and one add each.",
    "Shift-add weights are charged as stored: 4 bits for each term that the layer allows, zero or "
    "not.",
)


@dataclass(frozen=True)
class Traffic:
    """Bytes that a layer moves: weights with bias, and inputs with output."""

    weights: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.activations


@dataclass(frozen=True)
class LayerCost:
    """One operator, in float, in plain int8 and in shift-add form.

    ``macs``, ``float32`` and ``shift_add`` are None for a host operator whose operations are not
    known. ``terms`` are the non-zero terms of all weights.
    """

    name: str
    op: str
    on_host: bool
    macs: int | None
    weights: int
    terms: int
    weight_bytes: int
    float32: Operations | None
    shift_add: Operations | None
    float32_traffic: Traffic
    int8_traffic: Traffic
    shift_add_traffic: Traffic

    @property
    def term_shifts(self) -> int:
        """Shifts of an activation by a weight's term; the other shifts are of accumulators."""
        return self.terms * (self.macs or 0) // self.weights if self.weights else 0

    @property
    def int8(self) -> Operations | None:
        """The layer with ordinary 8-bit products; the rest, adder layers too, as converted."""
        if self.shift_add is None or self.op not in WEIGHT_OPS:
            return self.shift_add
        products, terms = self.macs or 0, self.term_shifts
        adds = self.shift_add.adds - terms + products
        return Operations(products, adds, self.shift_add.shifts - terms)


@dataclass(frozen=True)
class Energy:
    """Microjoules for one inference, spent on operations and on memory traffic."""

    compute: float
    memory: float

    @property
    def total(self) -> float:
        """Both."""
        return self.compute + self.memory


@dataclass(frozen=True)
class CostReport:
    """The layers, and what they add up to."""

    layers: tuple[LayerCost, ...]

    @property
    def multiplications(self) -> int:
        """Multiplications of data left in one inference: all of them on the host."""
        return sum(c.shift_add.multiplies for c in self.layers if c.shift_add)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Host operators whose operations are not known."""
        return tuple(c.name for c in self.layers if c.shift_add is None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the float network, as far as known."""
        return sum(c.macs or 0 for c in self.layers)

    @property
    def shift_add_share(self) -> float:
        """Fraction of the multiply-accumulates that became shifts and adds, 0 to 1."""
        converted = sum(c.macs or 0 for c in self.layers if not c.on_host)
        return converted / self.macs if self.macs else 0.0

    @property
    def terms_per_weight(self) -> float:
        """Non-zero terms, mean over all converted weights but those of adder layers."""
        weights = sum(c.weights for c in self.layers if c.op in WEIGHT_OPS)
        return sum(c.terms for c in self.layers) / weights if weights else 0.0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed weight codes, and of the int8 weights of adder layers."""
        return sum(c.weight_bytes for c in self.layers)

    def operations(self) -> dict[str, Operations]:
        """Totals of the three forms of the network, as far as known."""
        return {
            "float32": _sum(c.float32 for c in self.layers),
            "int8": _sum(c.int8 for c in self.layers),
            "shift_add": _sum(c.shift_add for c in self.layers),
        }

    def energy(self) -> dict[str, Energy]:
        """Energy of the three forms of the network; see :data:`ASSUMPTIONS`."""
        operations, region = self.operations(), [c for c in self.layers if not c.on_host]
        host = _float_energy(_sum(c.shift_add for c in self.layers if c.on_host))
        int8, shift_add = _sum(c.int8 for c in region), _sum(c.shift_add for c in region)
        terms = sum(c.term_shifts for c in region)
        compute = {
            "float32": _float_energy(operations["float32"]),
            "int8": _integer_energy(int8, 0) + host,
            "shift_add": _integer_energy(shift_add, terms) + host,
        }
        return {
            form: Energy(energy, _memory(self._bytes(form))) for form, energy in compute.items()
        }

    def _bytes(self, form: str) -> int:
        return sum(getattr(c, f"{form}_traffic").total for c in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "multiplications": self.multiplications,
            "multiply_accumulates": self.macs,
            "shift_add_share": self.shift_add_share,
            "terms_per_weight": self.terms_per_weight,
            "weight_bytes": self.weight_bytes,
            "weight_bytes_float32": FLOAT_BYTES * sum(c.weights for c in self.layers),
            "weight_bytes_int8": sum(c.weights for c in self.layers),
            "operations": {k: dataclasses.asdict(v) for k, v in self.operations().items()},
            "traffic_bytes": {form: self._bytes(form) for form in ("float32", "int8", "shift_add")},
            "energy_microjoules": {
                k: {"compute": v.compute, "memory": v.memory, "total": v.total}
                for k, v in self.energy().items()
            },
            "uncounted": list(self.uncounted),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "assumptions": list(ASSUMPTIONS),
            "unit_energies": {
                "picojoules": [dataclasses.asdict(row) for row in OPERATIONS],
                "picojoules_per_16_bits": [dataclasses.asdict(row) for row in MEMORY],
            },
        }


def count(graph: Graph, plan: Plan) -> CostReport:
    """Count every operator of ``graph`` as ``plan`` converts it, and the casts at the borders."""
    layers = [_layer(graph, node, plan) for node in graph.nodes]
    return CostReport(tuple(_quantizers(graph, plan) + layers + _dequantizers(graph, plan)))


def _layer(graph: Graph, node: Node, plan: Plan) -> LayerCost:
    before = float_operations(graph, node)
    after = before if node.on_host else shift_add_operations(graph, node, plan)
    weights = node.weight.size if node.weight is not None and node.op in LAYER_OPS else 0
    codes = plan.layers[node.name].codes if weights and node.op in WEIGHT_OPS else None
    packed = 0 if codes is None else codes.shape[0] * ((codes.shape[1] + 1) // 2) * codes.shape[2]
    if weights and node.op in ADDER_OPS:
        packed = weights
    bias = BIAS_BYTES * (node.weight.shape[-1] if weights and node.weight is not None else 0)
    moved = [(t, _charged(graph, plan, t)) for t in (*node.inputs, node.output)]
    elements = sum(size(graph, tensor) for tensor, charged in moved if charged)
    integer = sum(
        size(graph, tensor) * (1 if not node.on_host and tensor in plan.exponents else 4)
        for tensor, charged in moved
        if charged
    )
    return LayerCost(
        name=node.name,
        op=node.op,
        on_host=node.on_host,
        macs=multiply_accumulates(graph, node),
        weights=weights,
        terms=0 if codes is None else count_terms(codes),
        weight_bytes=packed,
        float32=before,
        shift_add=after,
        float32_traffic=Traffic(FLOAT_BYTES * weights + bias, FLOAT_BYTES * elements),
        int8_traffic=Traffic(weights + bias, integer),
        shift_add_traffic=Traffic(packed + bias, integer),
    )


def _charged(graph: Graph, plan: Plan, tensor: str) -> bool:
    """Whether a tensor goes through memory, rather than staying an accumulator in a region."""
    if tensor in plan.exponents or tensor in graph.outputs or tensor in graph.inputs:
        return True
    nodes = [n for n in graph.nodes if tensor in n.inputs or tensor == n.output]
    return any(node.on_host for node in nodes)


def _quantizers(graph: Graph, plan: Plan) -> list[LayerCost]:
    """Floats that enter a region: network inputs and host results."""
    floats = [*graph.inputs, *(node.output for node in graph.nodes if node.on_host)]
    return [_cast(graph, name, "quantize", 4 + 1) for name in floats if name in plan.exponents]


def _dequantizers(graph: Graph, plan: Plan) -> list[LayerCost]:
    """Region results that the host or the caller reads."""
    casts = []
    readers = graph.consumers()
    for node in graph.nodes:
        name = node.output
        if node.on_host or not (name in graph.outputs or any(r.on_host for r in readers[name])):
            continue
        casts.append(_cast(graph, name, "dequantize", 4 + (1 if name in plan.exponents else 4)))
    return casts


def _cast(graph: Graph, tensor: str, op: str, width: int) -> LayerCost:
    """A cast adds to a float's exponent: no multiplication."""
    elements = size(graph, tensor)
    traffic = Traffic(activations=width * elements)
    return LayerCost(
        name=f"{op} {tensor}",
        op=op,
        on_host=False,
        macs=0,
        weights=0,
        terms=0,
        weight_bytes=0,
        float32=Operations(),
        shift_add=Operations(adds=elements),
        float32_traffic=Traffic(),
        int8_traffic=traffic,
        shift_add_traffic=traffic,
    )


def _sum(counts: Iterable[Operations | None]) -> Operations:
    return sum((c for c in counts if c is not None), Operations())


def _float_energy(operations: Operations) -> float:
    """Microjoules in float32."""
    picojoules = operations.multiplies * operation_energy("multiply", "float32")
    return 1e-6 * (picojoules + operations.adds * operation_energy("add", "float32"))


def _integer_energy(operations: Operations, narrow: int) -> float:
    """Microjoules of a region; ``narrow`` of the shifts are of int8 activations."""
    return 1e-6 * (
        operations.multiplies * operation_energy("multiply", "int8")
        + operations.adds * operation_energy("add", "int32")
        + narrow * operation_energy("shift", "int8")
        + (operations.shifts - narrow) * operation_energy("shift", "int32")
    )


def _memory(moved: int) -> float:
    """Microjoules of ``moved`` bytes through every level once."""
    return moved / 2 * sum(row.picojoules for row in MEMORY) * 1e-6
