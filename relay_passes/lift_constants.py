"""Turn the constants of ``main`` into parameters behind its inputs, so that the artifact keeps
them once, in its weight file, and not inside the compiled library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from relay_passes.base import ModulePass, Rewriter
from relay_passes.expressions import array, bindings, constant, op_name, operands
from tvm_shiftadd._compat import GenericConst, ir, relax
from tvm_shiftadd.dialect.registry import specs
from tvm_shiftadd.importers.naming import UniqueNames

#: Function attribute: the names of the parameters that hold constants, in their order.
PARAMETERS_ATTR = "shiftadd.parameters"

#: A constant with fewer elements stays in the code, where the compiler can use its value.
MINIMUM_SIZE = 2


@dataclass(frozen=True)
class LiftConstants(ModulePass):
    """Give ``main`` one parameter for each constant; :func:`constants` reads the values before."""

    requires = ("multiplier_free",)
    ensures = ("constants_lifted",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        func = mod["main"]
        found = _find(func)
        params = {const: relax.Var(name, const.ty) for name, const in found}
        lift = _Lift(params)
        attrs = {PARAMETERS_ATTR: [name for name, _ in found], "num_input": len(func.params)}
        return lift.run(mod, attrs)


def constants(mod: ir.IRModule) -> dict[str, NDArray[Any]]:
    """What ``LiftConstants`` will take out of a module: arrays by parameter name, in order."""
    return {name: array(const) for name, const in _find(mod["main"])}


def _find(func: relax.Function) -> list[tuple[str, GenericConst]]:
    found: dict[GenericConst, str] = {}
    unique = UniqueNames()
    for param in func.params:
        unique(param.name)
    for binding in bindings(func):
        for role, leaf in _leaves(binding.value):
            values = constant(leaf)
            if values is None or values.size < MINIMUM_SIZE or leaf in found:
                continue
            found[leaf] = unique(f"{binding.var.name}.{role}")
    return [(name, const) for const, name in found.items()]


def _leaves(value: Any) -> list[tuple[str, Any]]:
    """The constants' places in an expression, each with the name of the argument it is."""
    if not isinstance(value, relax.Call):
        return [(f"field{i}", leaf) for i, leaf in enumerate(operands(value))]
    known = specs().get(op_name(value).removeprefix("shiftadd."))
    roles = [name for name, _ in known.arguments] if known else []
    named = roles if len(roles) == len(value.args) else [f"arg{i}" for i in range(len(value.args))]
    return [
        (role, leaf) for role, arg in zip(named, value.args, strict=True) for leaf in operands(arg)
    ]


class _Lift(Rewriter):
    def __init__(self, params: Mapping[GenericConst, relax.Var]) -> None:
        super().__init__()
        self.params = params

    def parameters(self, func: relax.Function) -> list[relax.Var]:
        return [*func.params, *self.params.values()]

    def replace(self, leaf: Any) -> Any:
        return self.params.get(leaf, leaf) if isinstance(leaf, GenericConst) else leaf
