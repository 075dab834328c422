"""Prove that no shift-add region multiplies data.

Checked on the graph, where every operator that touches the region's integers must be one of the
dialect or move bytes, and on the TensorIR that each of them legalises to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay_passes.base import ModulePass, bindings, op_name, operands
from tvm_shiftadd._compat import ir, relax, tirx
from tvm_shiftadd.dialect.purity import multiplications
from tvm_shiftadd.errors import VerificationError

#: Operators of Relax that only move data and so may stand inside a region.
MOVEMENT = frozenset({"relax.reshape", "relax.permute_dims", "relax.strided_slice"})
INTEGER = frozenset({"int8", "int16", "int32", "uint8"})


@dataclass(frozen=True)
class VerifyMultiplierFree(ModulePass):
    """Refuse a module in which integers of a region meet a multiplication; change nothing."""

    requires = ("requantized",)
    ensures = ("multiplier_free",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass.

        Raises VerificationError naming the operator, and the expression where there is one.
        """
        region = [b for b in bindings(mod["main"]) if _touches_integers(b)]
        for binding in region:
            name = op_name(binding.value)
            if not name.startswith("shiftadd.") and name not in MOVEMENT:
                raise VerificationError(
                    f"expected only shift-add operators on the region's integers, got "
                    f"{name or type(binding.value).__name__} at {binding.var.name}; "
                    "region selection must leave it on the host"
                )
        legal = relax.transform.LegalizeOps()(mod)
        for binding in bindings(legal["main"]):
            if op_name(binding.value) != "relax.call_tir" or not _touches_integers(binding):
                continue
            self._check_function(legal[binding.value.args[0]], binding.var.name)
        return mod

    def _check_function(self, func: tirx.PrimFunc, where: str) -> None:
        found = multiplications(func)
        if found:
            raise VerificationError(
                f"expected no multiplication of data in a shift-add region, got {found[0]} in "
                f"{where}"
            )


def _touches_integers(binding: Any) -> bool:
    """Whether a binding computes from or makes integers of a region."""
    if isinstance(binding.value, relax.Var):
        return False
    tensors = [binding.var, *(x for x in operands(binding.value) if isinstance(x, relax.Var))]
    return any(str(getattr(x.ty, "dtype", "")) in INTEGER for x in tensors)
