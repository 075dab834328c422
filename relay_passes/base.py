"""What every pass is, and the one loop in which passes rebuild the main function.

A pass is a frozen dataclass whose fields are its options. It states the properties it needs
(``requires``) and those that hold after it (``ensures``); ``properties.py`` gives each a check and
``pipeline.py`` holds the order to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from relay_passes.expressions import bindings, substitute, uses, variables
from tvm_shiftadd._compat import GenericConst, ir, relax
from tvm_shiftadd.importers.naming import UniqueNames, rename_variables

#: Function attribute: operators that were merged into another, {source name: what became of it}.
FOLDED_ATTR = "shiftadd.folded"


@dataclass(frozen=True)
class ModulePass(ABC):
    """A module in, a module out; the input is never changed."""

    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The class's name, as printed in dumps and errors."""
        return type(self).__name__

    @abstractmethod
    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""


class Rewriter:
    """Rebuilds ``main`` binding by binding, keeping the names of the user's operators.

    A subclass overrides :meth:`rewrite`. Within it, ``self.emit`` adds a further binding,
    ``self.defined`` looks through a new variable to the expression bound to it, and
    ``self.read_once`` tells whether a new variable has a single reader.
    """

    #: Whether a call's type is inferred anew before it is rewritten.
    normalizes: ClassVar[bool] = True

    def __init__(self) -> None:
        self.builder = relax.BlockBuilder()
        self.current = ""
        self.readers: Counter[relax.Var] = Counter()
        self.folded: dict[str, str] = {}
        self._definitions: dict[relax.Var, Any] = {}

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        """Return the new expression, or variable, for a binding whose operands are already new."""
        return value

    def emit(self, expr: Any, name: str) -> relax.Var:
        """Bind an expression under a name; names become unique when the function is complete."""
        # BlockBuilder.emit would replace the characters of a name that TVMScript cannot spell.
        expr = self.builder.normalize(expr)
        var = relax.DataflowVar(name, expr.ty)
        self.builder.emit_normalized(relax.VarBinding(var, expr))
        self._definitions[var] = expr
        return var

    def read_once(self, var: Any) -> bool:
        """Whether a new variable stands for an old one that has just one reader.

        A variable emitted besides the binding's own result is read by that binding only.
        """
        return isinstance(var, relax.Var) and self.readers.get(var, 1) == 1

    def defined(self, expr: Any) -> Any:
        """The expression bound to a variable of the new function; anything else as it is."""
        return self._definitions.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def run(self, mod: ir.IRModule, attrs: Mapping[str, Any] | None = None) -> ir.IRModule:
        """Rebuild ``main`` of a module and drop what is no longer read."""
        func = mod["main"]
        merged = {**dict(func.attrs or {}), **dict(attrs or {})}
        merged.pop("global_symbol", None)
        with self.builder.function("main", self.parameters(func), attrs=merged):
            with self.builder.dataflow():
                result = self._rebuild(func)
                output = self.builder.emit_output(self.finish(result))
            self.builder.emit_func_output(output)
        rebuilt = self.builder.finalize()["main"]
        if self.folded:
            known = dict(merged.get(FOLDED_ATTR, {}))
            rebuilt = rebuilt.with_attr(FOLDED_ATTR, {**known, **self.folded})
        # The other functions keep their global variables, which calls of the new main still name.
        main = mod.get_global_var("main")
        result_mod = ir.IRModule(dict(mod.functions))
        result_mod.update_func(main, rebuilt)
        result_mod = relax.transform.DeadCodeElimination(["main"])(result_mod)
        # Only now: a layer that was emitted a second time shall have the name of the dead first.
        result_mod.update_func(main, rename_variables(result_mod[main], UniqueNames()))
        return result_mod

    def _rebuild(self, func: relax.Function) -> Any:
        """Emit every binding of the old function anew and return its new result."""
        reads = uses(func)
        new: dict[relax.Var, Any] = {param: param for param in func.params}
        for binding in bindings(func):
            value = substitute(binding.value, new, self.replace)
            result = value
            if not isinstance(value, relax.Var):
                if self.normalizes and isinstance(value, relax.Call):
                    value = self.builder.normalize(value)
                self.current = binding.var.name
                result = self.rewrite(self.current, value, binding)
            if not isinstance(result, (relax.Var, GenericConst, relax.Tuple)):
                result = self.emit(result, binding.var.name)
            if isinstance(result, relax.Var):
                # A binding that was dropped no longer reads the variable that now stands for it.
                dropped = sum(result.same_as(new[old]) for old in variables(binding.value))
                self.readers[result] += reads[binding.var] - dropped
            new[binding.var] = result
        return substitute(func.body.body, new, self.replace)

    def parameters(self, func: relax.Function) -> list[relax.Var]:
        """The parameters of the new function; those of the old one come first."""
        return list(func.params)

    def replace(self, leaf: Any) -> Any:
        """The new form of an operand that is no variable."""
        return leaf

    def finish(self, result: Any) -> Any:
        """A last change to the function's result."""
        return result
