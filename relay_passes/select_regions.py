"""Decide for every operator whether it becomes shift-add or stays on the host, and say why.

Layers with constant weights always convert. What lies between them joins the region where that
spares a round trip through float: it must be fed by the region or by an input of the network, and
an operator that only moves int8 data must also lead back into the region, since at the end of the
network the exact accumulators serve the host better than a rounded copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay_passes.base import ModulePass
from relay_passes.classify import Match, Refusal, bias_of, classify
from relay_passes.expressions import bindings, is_operator, uses, variables
from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.convert.graph import LAYER_OPS, WIDE_OPS

#: Function attribute: {variable name: reason}, the reason empty for shift-add operators.
REGIONS_ATTR = "shiftadd.regions"

NOT_FED = "nothing of the shift-add region feeds it"
LEADS_NOWHERE = "only the host reads it, and in float it loses no precision"
MAP_IN_FLOAT = "its feature map is also read in float, and would be rounded for it alone"


@dataclass(frozen=True)
class SelectRegions(ModulePass):
    """Write the decision for every binding of ``main`` into a function attribute."""

    requires = ("channels_last",)
    ensures = ("regions_selected",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        func = mod["main"]
        new = ir.IRModule(dict(mod.functions))
        new.update_func(mod.get_global_var("main"), func.with_attr(REGIONS_ATTR, select(func)))
        return new


def select(func: relax.Function) -> dict[str, str]:
    """The reason each binding stays on the host, '' where it is shift-add, by variable name."""
    matches = {b.var: classify(b.value) for b in bindings(func) if is_operator(b)}
    fed = _fed_by_region(func, matches)
    inside = _without_dead_ends(func, matches, fed)
    reasons = {}
    for var, match in matches.items():
        if var in inside:
            reasons[var.name] = ""
        elif isinstance(match, Refusal):
            reasons[var.name] = match.reason
        elif var not in fed:
            reasons[var.name] = NOT_FED
        else:
            reasons[var.name] = MAP_IN_FLOAT if match.op == "avg_pool2d" else LEADS_NOWHERE
    return reasons


def _fed_by_region(func: relax.Function, matches: Mapping[Any, Match | Refusal]) -> set[relax.Var]:
    """Convertible operators that read the region's results, or a network input, only by int8."""
    params = set(func.params)
    reads = uses(func)
    inside: set[relax.Var] = set()
    for binding in bindings(func):
        match = matches.get(binding.var)
        if match is None:
            continue
        if isinstance(match, Refusal):
            if _is_bias(binding.value, matches, reads):
                inside.add(binding.var)
            continue
        fed = [x in inside or (x in params and match.op not in WIDE_OPS) for x in match.inputs]
        if match.op in LAYER_OPS or any(fed):
            inside.add(binding.var)
    return inside


def _is_bias(call: Any, matches: Mapping[Any, Match | Refusal], reads: Mapping[Any, int]) -> bool:
    """Whether a call adds a constant to a layer that nothing else reads, so that it is its bias."""
    if bias_of(call) is None:
        return False
    layer = call.args[0]
    match = matches.get(layer)
    return isinstance(match, Match) and match.op in LAYER_OPS and reads[layer] == 1


def _without_dead_ends(
    func: relax.Function, matches: Mapping[Any, Match | Refusal], fed: set[relax.Var]
) -> set[relax.Var]:
    """The operators of ``fed`` that lead back into the region, or end it without rounding."""
    inside = set(fed)
    # The bindings that stand for the network's results are readers outside.
    readers: dict[relax.Var, list[relax.Var]] = {}
    for binding in bindings(func):
        for x in variables(binding.value):
            readers.setdefault(x, []).append(binding.var)
    for binding in reversed(list(bindings(func))):
        match = matches.get(binding.var)
        if binding.var not in inside or not isinstance(match, Match):
            continue
        keeps = match.op in WIDE_OPS
        if match.op == "avg_pool2d":
            # A map that is read exactly besides should not be rounded for the sake of its mean.
            keeps = all(reader in inside for reader in readers[match.inputs[0]])
        if not keeps and not any(reader in inside for reader in readers.get(binding.var, [])):
            inside.discard(binding.var)
    return inside
