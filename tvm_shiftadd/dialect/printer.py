"""The legible text of a module: one line a binding, under the names of the user's layers.

``%conv1 : i32[n, 32, 32, 16] = shiftadd.conv2d(%x, codes<2x72x16>, bias<16>) {strides=[1, 1]}``
stands for an operator with constant codes and bias. The text is for people; it cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tvm_shiftadd._compat import (
    DictAttrs,
    TensorType,
    TupleType,
    constant_array,
    fields,
    handle,
    ir,
    is_integer_constant,
    relax,
)
from tvm_shiftadd.dialect.attrs import OPERATOR_ATTRS
from tvm_shiftadd.dialect.registry import is_dialect_call, op_name, specs
from tvm_shiftadd.dialect.types import describe_type

_INDENT = "  "


def script(mod: Any) -> str:
    """The text of every function of a module, Relax functions first."""
    graphs, kernels = [], []
    for variable, function in mod.functions_items():
        if isinstance(function, relax.Function):
            graphs.append(_Printer().function(str(variable.name_hint), function))
        else:
            kernels.append(f"kernel @{variable.name_hint}")
    return "\n\n".join([*graphs, "\n".join(kernels)] if kernels else graphs) + "\n"


def short_type(ty: Any) -> str:
    """``i8[n, 32, 16]`` for an int8 tensor; a tuple in parentheses."""
    if isinstance(ty, TupleType):
        return "(" + ", ".join(short_type(field) for field in ty.fields) + ")"
    if not isinstance(ty, TensorType):
        return str(ty)
    dtype, bracket, rest = describe_type(ty).partition("[")
    return short_dtype(dtype) + bracket + rest


def short_dtype(dtype: str) -> str:
    """``i8`` for int8, ``u8`` for uint8, ``f32`` for float32; others as they are."""
    for word, letter in (("uint", "u"), ("int", "i"), ("float", "f")):
        if dtype.startswith(word):
            return letter + dtype[len(word) :]
    return dtype


class _Printer:
    """Prints one function; gives every variable one name, the user's where it is free."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()

    def function(self, name: str, function: Any) -> str:
        """The header, one line a binding, and the result."""
        parameters = ", ".join(f"{self._name(p)} : {short_type(p.ty)}" for p in function.params)
        lines = [f"func @{name}({parameters}) -> {short_type(function.ret_ty)} {{"]
        lines += [_INDENT + line for line in self._body(function.body)]
        return "\n".join([*lines, "}"])

    def _body(self, body: Any) -> Iterator[str]:
        for block in body.blocks:
            for binding in block.bindings:
                # The value first: in a name that is used twice the later variable is renamed.
                value = self._value(binding.value)
                if isinstance(binding, relax.MatchCast):
                    value = f"match_cast({value})"
                yield f"{self._name(binding.var)} : {short_type(binding.var.ty)} = {value}"
        yield f"return {self._value(body.body)}"

    def _name(self, variable: Any) -> str:
        key = handle(variable)
        if key not in self._names:
            base = name = str(variable.name)
            number = 1
            while name in self._taken:
                name, number = f"{base}.{number}", number + 1
            self._taken.add(name)
            self._names[key] = "%" + name
        return self._names[key]

    def _value(self, expr: Any, role: str = "const") -> str:
        array = constant_array(expr)
        if array is not None:
            return _constant(array, role)
        if isinstance(expr, relax.Var):
            return self._name(expr)
        if isinstance(expr, relax.Tuple):
            return "(" + ", ".join(self._value(field) for field in expr.fields) + ")"
        if isinstance(expr, relax.TupleGetItem):
            return f"{self._value(expr.tuple_value)}.{expr.index}"
        if isinstance(expr, relax.Call):
            return self._call(expr)
        if isinstance(expr, relax.ShapeExpr):
            return "[" + ", ".join(str(getattr(v, "value", v)) for v in expr.values) + "]"
        if isinstance(expr, ir.GlobalVar):
            return f"@{expr.name_hint}"
        return str(int(expr)) if is_integer_constant(expr) else str(expr)

    def _call(self, call: Any) -> str:
        if is_dialect_call(call):
            roles = [name for name, _ in specs()[op_name(call)].arguments]
        else:
            roles = ["const"] * len(call.args)
        target = self._value(call.op) if isinstance(call.op, ir.GlobalVar) else _operator(call.op)
        operands = [self._value(a, r) for a, r in zip(call.args, roles, strict=True)]
        text = f"{target}({', '.join(operands)})"
        values = _attributes(call)
        if values:
            text += " {" + ", ".join(f"{k}={_plain(v)}" for k, v in values.items()) + "}"
        return text


def _operator(op: Any) -> str:
    return str(getattr(op, "name", getattr(op, "global_symbol", op)))


def _constant(array: Any, role: str) -> str:
    """``shift=7`` for one element, else the role and the extents, ``codes<2x72x16>``."""
    if array.size == 1 and np.issubdtype(array.dtype, np.number):
        return f"{role}={array.reshape(-1)[0]}"
    kind = f" {short_dtype(str(array.dtype))}" if role == "const" else ""
    return f"{role}<{'x'.join(str(n) for n in array.shape)}{kind}>"


def _attributes(call: Any) -> Mapping[str, Any]:
    """Names and values of a call's attributes, in the order of their declaration.

    Without the type of the result, which stands in front.
    """
    attrs = call.attrs
    if attrs is None:
        return {}
    if isinstance(attrs, DictAttrs):
        declared = list(OPERATOR_ATTRS[op_name(call)].names()) if is_dialect_call(call) else []
        names = [*declared, *sorted(set(attrs.keys()) - {*declared})]
        return {name: attrs[name] for name in names if name != "dtype"}
    return {name: value for name, value in fields(attrs) if name != "span" and value is not None}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(value, "__len__") and not isinstance(value, str):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(int(value)) if is_integer_constant(value) else str(value)
