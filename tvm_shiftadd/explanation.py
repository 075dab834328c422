"""What becomes of every operator of a model, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.costs.operations import multiply_accumulates

if TYPE_CHECKING:
    from tvm_shiftadd.api import Model


#: Placements inside a region.
INSIDE = frozenset({"shift-add", "adder"})


@dataclass(frozen=True)
class OperatorExplanation:
    """One operator. ``placement`` is "shift-add", "adder", "host" or "folded".

    operator: its name in the dialect or in Relax, or in the model's own format where it was folded.
    reason: why it stays on the host, or what it was folded into; macs: multiply-accumulates for
    one inference, or the distances of an adder layer, None where they are not known.
    """

    name: str
    operator: str
    placement: str
    reason: str
    macs: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Explanation:
    """Every operator in the network's order; the folded ones come last."""

    operators: tuple[OperatorExplanation, ...]
    notes: tuple[str, ...] = ()

    @property
    def shift_add_share(self) -> float:
        """Share of the known multiply-accumulates inside regions, adder layers too, 0 to 1."""
        total = sum(op.macs or 0 for op in self.operators)
        inside = sum(op.macs or 0 for op in self.operators if op.placement in INSIDE)
        return inside / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``explain --json`` prints them."""
        return {
            "operators": [operator.to_dict() for operator in self.operators],
            "shift_add_share": self.shift_add_share,
            "notes": list(self.notes),
        }


def explain_model(model: Model) -> Explanation:
    """Explain a loaded model."""
    from relay_passes.base import FOLDED_ATTR

    graph = model.graph
    operators = [_explain(graph, node) for node in graph.nodes]
    folded = model.selected["main"].attrs.get(FOLDED_ATTR, {})
    kept = {node.name for node in graph.nodes}
    sources = model.attrs.get("shiftadd.operators", {})
    for name, became in folded.items():
        if str(name) not in kept:
            kind = str(sources.get(name, "constant factor"))
            operators.append(OperatorExplanation(str(name), kind, "folded", str(became), 0))
    notes = tuple(str(note) for note in model.attrs.get("shiftadd.notes", ()))
    return Explanation(tuple(operators), notes)


def _explain(graph: Graph, node: Node) -> OperatorExplanation:
    macs = multiply_accumulates(graph, node)
    if node.on_host:
        operator = str(node.attrs["operator"]).removeprefix("relax.")
        return OperatorExplanation(node.name, operator, "host", node.reason, macs)
    if node.op in ADDER_OPS:
        return OperatorExplanation(node.name, node.op, "adder", "", macs)
    reason = "" if node.op in WEIGHT_OPS else "between layers of the region"
    return OperatorExplanation(node.name, node.op, "shift-add", reason, macs)
