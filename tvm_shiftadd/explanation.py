"""What becomes of every operator of a model, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.costs.operations import multiply_accumulates
from tvm_shiftadd.errors import ArtifactError

if TYPE_CHECKING:
    from tvm_shiftadd.api import Model
    from tvm_shiftadd.target.accelerator import Partition


#: Placements inside a region.
INSIDE = frozenset({"shift-add", "adder"})
#: Where an operator runs if the target has an accelerator.
ACCELERATOR, CPU = "accelerator", "cpu"
#: Why an operator that is not refused is on the CPU: it has integers, or it is the host's.
_REASONS = ("the host arranges what the accelerator reads", "it is float")
#: What the passes add to an operator's name where they make more than one of it.
_ENDINGS = ("", ".int8", ".uint8", ".scale")


@dataclass(frozen=True)
class OperatorExplanation:
    """One operator. ``placement`` is "shift-add", "adder", "host" or "folded".

    operator: its name in the dialect or in Relax, or in the model's own format where it was folded.
    reason: why it stays on the host, or what it was folded into; macs: multiply-accumulates for
    one inference, or the distances of an adder layer, None where they are not known. device: where
    it runs, "accelerator" or "cpu", and why not on the accelerator in ``device_reason``; None for a
    target without one, and for what was folded.
    """

    name: str
    operator: str
    placement: str
    reason: str
    macs: int | None
    device: str | None = None
    device_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without a device where the target has but one."""
        return {
            name: value
            for name, value in asdict(self).items()
            if self.device is not None or not name.startswith("device")
        }


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

    @property
    def accelerator_share(self) -> float | None:
        """Share of the known multiply-accumulates on the accelerator; None without one."""
        if all(op.device is None for op in self.operators):
            return None
        total = sum(op.macs or 0 for op in self.operators)
        there = sum(op.macs or 0 for op in self.operators if op.device == ACCELERATOR)
        return there / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``explain --json`` prints them."""
        share = self.accelerator_share
        return {
            "operators": [operator.to_dict() for operator in self.operators],
            "shift_add_share": self.shift_add_share,
            **({} if share is None else {"accelerator_share": share}),
            "notes": list(self.notes),
        }


def explain_model(model: Model, split: Partition | None = None) -> Explanation:
    """Explain a loaded model, and where its operators run if it was split for an accelerator."""
    from relay_passes.base import FOLDED_ATTR

    graph = model.graph
    operators = [_explain(graph, node) for node in graph.nodes]
    if split is not None:
        operators = [_placed(operator, split) for operator in operators]
    folded = model.selected["main"].attrs.get(FOLDED_ATTR, {})
    kept = {node.name for node in graph.nodes}
    sources = model.attrs.get("shiftadd.operators", {})
    for name, became in folded.items():
        if str(name) not in kept:
            kind = str(sources.get(name, "constant factor"))
            operators.append(OperatorExplanation(str(name), kind, "folded", str(became), 0))
    notes = tuple(str(note) for note in model.attrs.get("shiftadd.notes", ()))
    return Explanation(tuple(operators), notes)


def explain_report(report: Mapping[str, Any]) -> Explanation:
    """What an artifact's report says. Raises ArtifactError where it says nothing of operators."""
    try:
        return Explanation(tuple(OperatorExplanation(**row) for row in report["operators"]))
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"the artifact's report does not list its operators ({error}); compile the model again"
        ) from error


def _explain(graph: Graph, node: Node) -> OperatorExplanation:
    macs = multiply_accumulates(graph, node)
    if node.on_host:
        operator = str(node.attrs["operator"]).removeprefix("relax.")
        return OperatorExplanation(node.name, operator, "host", node.reason, macs)
    if node.op in ADDER_OPS:
        return OperatorExplanation(node.name, node.op, "adder", "", macs)
    reason = "" if node.op in WEIGHT_OPS else "between layers of the region"
    return OperatorExplanation(node.name, node.op, "shift-add", reason, macs)


def _placed(operator: OperatorExplanation, split: Partition) -> OperatorExplanation:
    """The same with its device: an operator's integers are under its name or one made of it."""
    names = [operator.name + ending for ending in _ENDINGS]
    if any(name in split.placed for name in names):
        return replace(operator, device=ACCELERATOR, device_reason="")
    found = next((split.reasons[name] for name in names if name in split.reasons), "")
    reason = found or _REASONS[operator.placement == "host"]
    return replace(operator, device=CPU, device_reason=reason)
