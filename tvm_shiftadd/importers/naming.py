"""Names of Relax variables: unique, and those of the source model's nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_shiftadd._compat import ir, relax


class UniqueNames:
    """Hands out each name once; the second taker of ``conv`` gets ``conv#2``."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name itself if it is free, else the name with the first free number from 2 on."""
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}#{number}", number + 1
        self._taken.add(candidate)
        return candidate


def name_variables(module: ir.IRModule, names: Mapping[str, str]) -> ir.IRModule:
    """Give every variable of ``main`` its name, and drop the copies that only return a value.

    Args:
        module: as a block builder made it.
        names: the names wanted, by the names the builder gave; what is not there is numbered
            after the node that it belongs to.
    """
    wanted = dict(names)
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Var) and binding.value.name in wanted:
                wanted[binding.var.name] = wanted[binding.value.name]
    module = relax.transform.CanonicalizeBindings()(module)
    function = module["main"]
    bound = {binding.var.name for block in function.body.blocks for binding in block.bindings}
    present = {name: new for name, new in wanted.items() if name in bound}
    final = number_intermediates(function, present)
    module["main"] = rename_variables(function, lambda name: final.get(name, name))
    return module


def rename_variables(function: relax.Function, rename: Callable[[str], str]) -> relax.Function:
    """Give every variable the name that ``rename`` makes of its own, asked in their order.

    ``BlockBuilder.emit`` turns dots in a name hint into underscores, and module paths are full
    of dots. A variable made directly keeps its name as it is.
    """
    renamed: relax.Function = _Renamer(rename).visit_expr(function)
    return renamed


@mutator
class _Renamer(PyExprMutator):
    def __init__(self, rename: Callable[[str], str]) -> None:
        super().__init__()
        self._name = rename

    def _rename(self, var: Any) -> Any:
        new = type(var)(self._name(var.name), var.ty)
        self.set_var_remap(var, new)
        return new

    def visit_var_def_(self, var: Any) -> Any:
        return self._rename(var)

    def visit_dataflow_var_def_(self, var: Any) -> Any:
        return self._rename(var)


def number_intermediates(function: relax.Function, named: Mapping[str, str]) -> dict[str, str]:
    """Names for every variable bound in ``function``, by its present name.

    ``named`` holds the variables that carry a node's name already. The ones between belong to
    the node that ends them, because a node's operators are emitted in order and its result last:
    they become ``<node>.1``, ``<node>.2`` and so on.
    """
    unique = UniqueNames()
    result = {param.name: unique(param.name) for param in function.params}
    for name, new in named.items():
        result[name] = unique(new)
    pending: list[str] = []
    owner = "constant"
    for block in function.body.blocks:
        for binding in block.bindings:
            name = binding.var.name
            if name not in named:
                pending.append(name)
                continue
            owner = named[name]
            _number(pending, owner, unique, result)
            pending = []
    _number(pending, owner, unique, result)
    return result


def _number(pending: list[str], owner: str, unique: UniqueNames, result: dict[str, str]) -> None:
    for index, name in enumerate(pending, start=1):
        result[name] = unique(f"{owner}.{index}")
