"""Prove that no shift-add region multiplies data.

Checked on the graph, where every operator that touches the region's integers must be one of the
dialect or move bytes, and on the TensorIR that each of them legalises to. Integers of the host's
own, an argmax for instance, are not the region's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay_passes.base import ModulePass
from relay_passes.expressions import bindings, dtype, is_operator, op_name, variables
from tvm_shiftadd._compat import ir, relax, tirx
from tvm_shiftadd.dialect.purity import multiplications
from tvm_shiftadd.dialect.registry import is_integer_call
from tvm_shiftadd.errors import VerificationError

#: Operators of Relax that only move data and so may stand inside a region.
MOVEMENT = frozenset({"relax.reshape", "relax.permute_dims", "relax.strided_slice"})


@dataclass(frozen=True)
class VerifyMultiplierFree(ModulePass):
    """Refuse a module in which integers of a region meet a multiplication; change nothing."""

    requires = ("requantized",)
    ensures = ("multiplier_free",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass.

        Raises VerificationError naming the operator, and the expression where there is one.
        """
        host = host_operators(mod["main"])
        legal = relax.transform.LegalizeOps()(mod)
        for binding in bindings(legal["main"]):
            name = binding.var.name
            if op_name(binding.value) != "relax.call_tir" or name in host:
                continue
            if any(_is_integer(x) for x in (binding.var, *variables(binding.value))):
                _check_function(legal[binding.value.args[0]], name)
        return mod


def host_operators(func: relax.Function) -> frozenset[str]:
    """The names of the operators outside every region.

    Raises VerificationError where an operator of the host reads integers of a region, or an
    operator of the dialect integers that the host made.
    """
    host: set[str] = set()
    region: set[relax.Var] = {param for param in func.params if _is_integer(param)}
    for binding in bindings(func):
        var, value = binding.var, binding.value
        reads = [x for x in variables(value) if _is_integer(x)]
        inside = [x for x in reads if x in region]
        regroups = not is_operator(binding) or op_name(value) in MOVEMENT
        if is_integer_call(value):
            strangers = [x for x in reads if x not in region]
            if strangers:
                _refuse(value, var, f"which reads the host's {strangers[0].name}")
            region.add(var)
        elif inside and regroups:
            region.add(var)
        elif inside:
            _refuse(value, var, "region selection must leave it on the host")
        else:
            host.add(var.name)
    return frozenset(host)


def _refuse(value: Any, var: relax.Var, why: str) -> None:
    raise VerificationError(
        "expected only shift-add operators on the region's integers, got "
        f"{op_name(value) or type(value).__name__} at {var.name}; {why}"
    )


def _check_function(func: tirx.PrimFunc, where: str) -> None:
    found = multiplications(func)
    if found:
        raise VerificationError(
            f"expected no multiplication of data in a shift-add region, got {found[0]} in {where}"
        )


def _is_integer(x: Any) -> bool:
    return dtype(x).startswith(("int", "uint"))
