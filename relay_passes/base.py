"""What every pass is, and the one loop in which passes rebuild the main function.

A pass is a frozen dataclass whose fields are its options. It states the properties it needs
(``requires``) and those that hold after it (``ensures``); ``properties.py`` gives each a check and
``pipeline.py`` holds the order to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from tvm_shiftadd._compat import GenericConst, constant_array, ir, is_integer_constant, relax

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


def bindings(func: relax.Function) -> Iterator[relax.VarBinding]:
    """Every binding of a function in order."""
    for block in func.body.blocks:
        yield from block.bindings


def op_name(expr: Any) -> str:
    """The operator an expression calls, or '' where it calls none."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name)
    return ""


def constant(expr: Any) -> NDArray[Any] | None:
    """The array behind a constant expression, else None."""
    return constant_array(expr)


def scalar(expr: Any) -> float | None:
    """The number behind a one-element constant or a prim value, else None."""
    array = constant(expr)
    if array is not None:
        return float(array.reshape(-1)[0]) if array.size == 1 else None
    value = getattr(expr, "value", expr)
    return float(value) if isinstance(value, (int, float)) else None


def static_shape(expr: Any) -> tuple[int, ...]:
    """An expression's shape with -1 for a symbolic dimension; () where it has no tensor shape."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None:
        return ()
    return tuple(int(size) if is_integer_constant(size) else -1 for size in shape)


def ints(values: Any) -> tuple[int, ...]:
    """A tuple of Python integers from an attribute's array."""
    return tuple(int(v) for v in values)


def uses(func: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read; the function's result counts as a reader."""
    count: Counter[relax.Var] = Counter()

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Var):
            count[expr] += 1

    for binding in bindings(func):
        for child in operands(binding.value):
            visit(child)
    for child in operands(func.body.body):
        visit(child)
    return count


def operands(expr: Any) -> list[Any]:
    """The leaves an expression reads: arguments, tuple fields, or the expression itself."""
    if isinstance(expr, relax.Call):
        return [leaf for arg in expr.args for leaf in operands(arg)]
    if isinstance(expr, relax.Tuple):
        return [leaf for field in expr.fields for leaf in operands(field)]
    if isinstance(expr, relax.TupleGetItem):
        return operands(expr.tuple_value)
    return [expr]


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
        self._names: Counter[str] = Counter()

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        """Return the new expression, or variable, for a binding whose operands are already new."""
        return value

    def emit(self, expr: Any, name: str) -> relax.Var:
        """Bind an expression under a name made unique by a suffix."""
        self._names[name] += 1
        unique = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        # BlockBuilder.emit would replace the characters of a name that TVMScript cannot spell.
        expr = self.builder.normalize(expr)
        var = relax.DataflowVar(unique, expr.ty)
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
        reads = uses(func)
        new: dict[relax.Var, Any] = {param: param for param in func.params}
        self._names.update(param.name for param in func.params)
        merged = {**dict(func.attrs or {}), **dict(attrs or {})}
        merged.pop("global_symbol", None)
        with self.builder.function("main", self.parameters(func), attrs=merged):
            with self.builder.dataflow():
                for binding in bindings(func):
                    result = substitute(binding.value, new, self.replace)
                    if not isinstance(result, relax.Var):
                        if self.normalizes and isinstance(result, relax.Call):
                            result = self.builder.normalize(result)
                        self.current = binding.var.name
                        result = self.rewrite(self.current, result, binding)
                    if not isinstance(result, (relax.Var, GenericConst, relax.Tuple)):
                        result = self.emit(result, binding.var.name)
                    if isinstance(result, relax.Var):
                        self.readers[result] += reads[binding.var]
                    new[binding.var] = result
                result = substitute(func.body.body, new, self.replace)
                output = self.builder.emit_output(self.finish(result))
            self.builder.emit_func_output(output)
        rebuilt = self.builder.finalize()["main"]
        if self.folded:
            known = dict(merged.get(FOLDED_ATTR, {}))
            rebuilt = rebuilt.with_attr(FOLDED_ATTR, {**known, **self.folded})
        # The other functions keep their global variables, which calls of the new main still name.
        result_mod = ir.IRModule(dict(mod.functions))
        result_mod.update_func(mod.get_global_var("main"), rebuilt)
        return relax.transform.DeadCodeElimination(["main"])(result_mod)

    def parameters(self, func: relax.Function) -> list[relax.Var]:
        """The parameters of the new function; those of the old one come first."""
        return list(func.params)

    def replace(self, leaf: Any) -> Any:
        """The new form of an operand that is no variable."""
        return leaf

    def finish(self, result: Any) -> Any:
        """A last change to the function's result."""
        return result


def substitute(
    expr: Any, new: Mapping[relax.Var, Any], replace: Callable[[Any], Any] = lambda leaf: leaf
) -> Any:
    """An expression with its variables replaced, and its other leaves passed through a function."""
    if isinstance(expr, relax.Var):
        return new[expr]
    if isinstance(expr, relax.Call):
        args = [
            arg if isinstance(arg, ir.GlobalVar) else substitute(arg, new, replace)
            for arg in expr.args
        ]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, new, replace) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        value = substitute(expr.tuple_value, new, replace)
        if isinstance(value, relax.Tuple):
            return value.fields[expr.index]
        return relax.TupleGetItem(value, expr.index)
    return replace(expr)
