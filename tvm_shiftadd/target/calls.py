"""Which layers each kernel call of a compiled module computes, under the user's own names.

Passes fuse operators, rename variables and drop them, each in its own way. A ``CallRecord`` looks
at the main function where a build begins, before and after TVM fuses, and at its end, and finds
for each kernel call the operators between what it reads and what it writes. It relies on one
thing: a pass that replaces operators keeps the name of the result, to which it may add ``.suffix``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import tvm

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect.registry import is_dialect_call, op_name
from tvm_shiftadd.topi.schedules.fusion.function import COMPUTED_BY

#: What identifies a value while TVM's fusion is followed; None for one that was lost.
_Token = Any


class CallRecord:
    """The calls of one build; its passes belong into the pipeline in the order of the methods.

    ``calls`` is filled in by the last: for each kernel call of ``main``, in the order in which
    they run, "kernel" (the function's name), "layers" (names of the network's variables that are
    computed on the way, none where data is only brought into another form), "result" (the
    variable it belongs to), "operators" (theirs: "shiftadd.conv2d", "relax.nn.softmax") and
    "computed_by" (the instruction that stands for shifts, "" for real shifts and for the host).
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        #: The network: variable -> operator and the variables it reads.
        self._network: dict[str, tuple[str, list[str]]] = {}
        #: Variables that TVM's fusion has named anew: new name -> old name.
        self._renamed: dict[str, str] = {}

    def begin(self) -> Any:
        """A pass that takes down the network as it is before anything is fused."""

        def look(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
            self._network |= {param.name: ("", []) for param in _parameters(mod)}
            for binding in _bindings(mod):
                reads = [var.name for var in _variables(binding.value)]
                self._network[binding.var.name] = (_operator(binding.value), reads)
            return mod

        return tvm.transform.module_pass(look, opt_level=0, name="RecordNetwork")

    def follow(self, fuse: Any) -> Any:
        """The pass ``fuse`` (FuseOps), of which the new names are taken down."""

        def run(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
            fused = fuse(mod)
            self._renamed |= _renamed(mod, fused)
            return fused

        return tvm.transform.module_pass(run, opt_level=0, name="RecordFusion")

    def end(self) -> Any:
        """A pass that takes down the calls, while they still are ``call_tir``."""

        def look(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
            self.calls.extend(self._calls(mod))
            return mod

        return tvm.transform.module_pass(look, opt_level=0, name="RecordCalls")

    def _calls(self, mod: tvm.IRModule) -> Iterator[dict[str, Any]]:
        bindings = list(_bindings(mod))
        results: dict[Any, str] = {}
        for binding in reversed(bindings):
            # Until its own binding is reached, a variable belongs to the first that reads it.
            mine = self._origin(binding.var) or results.get(binding.var, binding.var.name)
            results |= dict.fromkeys(_variables(binding.value), mine)
            results[binding.var] = mine
        #: What a variable holds of the network. Parameters are not in it: one may bear the name of
        #: the layer whose weights it is.
        held: dict[Any, set[str]] = {}
        for binding in bindings:
            inputs = {name for var in _variables(binding.value) for name in held.get(var, ())}
            known = self._origin(binding.var)
            held[binding.var] = {known} if known else inputs
            if _is_kernel(binding.value):
                yield self._call(binding.value.args[0], results[binding.var], inputs, mod)

    def _call(
        self, kernel: Any, result: str, inputs: set[str], mod: tvm.IRModule
    ) -> dict[str, Any]:
        layers = self._between(result, inputs)
        return {
            "kernel": str(kernel.name_hint),
            "result": result,
            "layers": layers,
            "operators": [self._network[name][0] for name in layers],
            "computed_by": str((mod[kernel].attrs or {}).get(COMPUTED_BY, "")),
        }

    def _origin(self, var: Any) -> str:
        """The network's variable that a variable stands for, its name less any suffixes, or ""."""
        name = self._renamed.get(var.name, var.name)
        while name not in self._network and "." in name:
            name = name.rpartition(".")[0]
        return name if name in self._network else ""

    def _between(self, result: str, inputs: set[str]) -> list[str]:
        """Variables computed from ``inputs`` for ``result``, it included, in the network's order.

        Names alone, such as the one of a function's result, are left out.
        """
        found: set[str] = set()
        wanted = [result]
        while wanted:
            name = wanted.pop()
            if name in found or name in inputs or name not in self._network:
                continue
            found.add(name)
            wanted.extend(self._network[name][1])
        return [name for name, (operator, _) in self._network.items() if operator and name in found]


def _main(mod: tvm.IRModule) -> Any:
    return next((mod[var] for var in mod.functions if var.name_hint == "main"), None)


def _parameters(mod: tvm.IRModule) -> Sequence[Any]:
    return getattr(_main(mod), "params", ())


def _bindings(mod: tvm.IRModule) -> Iterator[Any]:
    for block in getattr(getattr(_main(mod), "body", None), "blocks", ()):
        yield from block.bindings


def _variables(expr: Any) -> Iterator[Any]:
    """The Relax variables that an expression reads."""
    if isinstance(expr, relax.Var):
        yield expr
    parts: Any = ()
    if isinstance(expr, relax.Call):
        parts = expr.args
    elif isinstance(expr, relax.Tuple):
        parts = expr.fields
    elif isinstance(expr, relax.TupleGetItem):
        parts = (expr.tuple_value,)
    for part in parts:
        yield from _variables(part)


def _operator(value: Any) -> str:
    """The name of a call's operator; "" for anything else."""
    if is_dialect_call(value):
        return "shiftadd." + op_name(value)
    return str(getattr(value.op, "name", "")) if isinstance(value, relax.Call) else ""


def _is_kernel(value: Any) -> bool:
    return _operator(value) == "relax.call_tir"


def _renamed(before: tvm.IRModule, after: tvm.IRModule) -> dict[str, str]:
    """The old names of the results of fused functions.

    TVM gives them fresh ones, and equal functions become one, whatever their variables were
    called. So the fused calls are walked through as they would run, and each call in them is found
    among those before by its kernel and by what it reads.
    """
    names: dict[_Token, str] = {}
    unfused: dict[Any, list[_Token]] = defaultdict(list)
    known: dict[Any, _Token] = _numbered(_parameters(before))
    for number, binding in enumerate(_bindings(before)):
        known[binding.var] = token = _moved(binding.value, known, number)
        names.setdefault(token, binding.var.name)
        unfused[_key(binding.value, known)].append(token)

    def found(value: Any, scope: dict[Any, _Token]) -> _Token:
        candidates = unfused.get(_key(value, scope))
        return _moved(value, scope, candidates.pop(0) if candidates else None)

    result: dict[str, str] = {}
    outer: dict[Any, _Token] = _numbered(_parameters(after))
    for binding in _bindings(after):
        value = binding.value
        inner = _function(value, after)
        if inner is None:
            outer[binding.var] = token = found(value, outer)
        else:
            scope = {
                param: _moved(argument, outer, None)
                for param, argument in zip(inner.params, value.args, strict=False)
            }
            for block in inner.body.blocks:
                for step in block.bindings:
                    scope[step.var] = found(step.value, scope)
            outer[binding.var] = token = _moved(inner.body.body, scope, None)
            if isinstance(token, tuple):
                token = next((part for part in token if part in names), None)
        if token in names:
            result[binding.var.name] = names[token]
    return result


def _numbered(parameters: Sequence[Any]) -> dict[Any, _Token]:
    return {param: f"parameter {index}" for index, param in enumerate(parameters)}


def _function(value: Any, mod: tvm.IRModule) -> Any:
    """The fused function that a value calls; None if it is something else."""
    called = value.op if isinstance(value, relax.Call) else None
    if not isinstance(called, tvm.ir.GlobalVar) or not isinstance(mod[called], relax.Function):
        return None
    return mod[called]


def _moved(value: Any, known: dict[Any, _Token], otherwise: _Token) -> _Token:
    """The token of an expression that only names, packs or takes apart; else ``otherwise``."""
    if isinstance(value, relax.Var):
        return known.get(value)
    if isinstance(value, relax.Tuple):
        return tuple(_moved(field, known, None) for field in value.fields)
    if isinstance(value, relax.TupleGetItem):
        whole = _moved(value.tuple_value, known, None)
        return whole[value.index] if isinstance(whole, tuple) else (whole, int(value.index))
    return otherwise


def _key(value: Any, known: dict[Any, _Token]) -> Any:
    """What a call is found by: its kernel and its variables' tokens.

    Constants are left out: a fused function has them as parameters.
    """
    kernel = value.args[0].name_hint if _is_kernel(value) else _operator(value)
    tokens = (known.get(var) for var in _variables(value))
    return kernel, tuple(token for token in tokens if token is not None)
