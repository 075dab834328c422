"""Reads modules of the dialect, operators and host: the one part of the compiler with TVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import constant_array, ir, relax
from tvm_shiftadd.dialect.attrs import OPERATOR_ATTRS
from tvm_shiftadd.dialect.registry import is_dialect_call, op_name
from tvm_shiftadd.dialect.types import dimensions
from tvm_shiftadd.errors import CompileError
from tvm_shiftadd.formats.packing import unpack
from vta_ext.compiler.operators import Network, Operator, Value
from vta_ext.host import HostPart, HostStep, HostTensor

#: Names of the constants of each operator, in the order of its arguments after the data.
CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("codes", "bias"),
    "conv2d_transpose": ("codes", "bias"),
    "dense": ("codes", "bias"),
    "adder_conv2d": ("weight", "bias"),
    "adder_dense": ("weight", "bias"),
    "scale": ("codes",),
    "requantize": ("shift",),
    "add": ("lhs_shift", "rhs_shift"),
}
#: Operators that go between floats and integers: the host's part of a region's borders.
BORDERS = ("quantize", "dequantize")
MOVES = {
    "relax.permute_dims": "permute",
    "relax.reshape": "reshape",
    "relax.strided_slice": "slice",
}
_INTEGER = ("int8", "uint8", "int32")


@dataclass(frozen=True, eq=False)
class Step:
    """One binding of a module's function: an operator of the accelerator, or the host's.

    ``operator`` is None for the host's; ``binding`` is the Relax binding itself.
    """

    binding: Any
    operator: Operator | None


def read(function: Any) -> list[Step]:
    """The bindings of a Relax function of the dialect, in order."""
    return [
        Step(binding, _operator(binding))
        for block in function.body.blocks
        for binding in block.bindings
    ]


def _operator(binding: Any) -> Operator | None:
    call = binding.value
    if not isinstance(call, relax.Call):
        return None
    dialect = is_dialect_call(call)
    name = op_name(call) if dialect else MOVES.get(str(getattr(call.op, "name", "")))
    if name is None or name in BORDERS or str(binding.var.ty.dtype) not in _INTEGER:
        return None
    arguments = list(call.args)
    tuples = isinstance(arguments[0], relax.Tuple)
    data = list(arguments[0].fields) if tuples else arguments[:1]
    if name == "add":
        data = arguments[:2]
    if any(not isinstance(one, relax.Var) for one in data):
        return None
    inputs = tuple(value(one) for one in data)
    constants: dict[str, NDArray[Any]] = {}
    for key, argument in zip(CONSTANTS.get(name, ()), arguments[len(data) :], strict=False):
        array = constant_array(argument)
        if array is None:
            raise CompileError(f"layer {binding.var.name} has weights that are no constants")
        constants[key] = array
    if "codes" in constants and name != "scale":
        constants["codes"] = unpack(constants["codes"], _reduction(call, name, inputs[0]))
    attrs = vars(OPERATOR_ATTRS[name].of(call)) if name in OPERATOR_ATTRS else {}
    if not dialect:
        attrs = _move_attrs(call, name)
    return Operator(name, str(binding.var.name), inputs, value(binding.var), attrs, constants)


def value(var: Any) -> Value:
    """A variable's name, shape without the batch axis, and type."""
    dims = [d if isinstance(d, int) else -1 for d in dimensions(var.ty)]
    return Value(str(var.name), tuple(dims[1:]), str(var.ty.dtype))


def _reduction(call: Any, name: str, data: Value) -> int:
    """Rows of unpacked codes."""
    if name == "dense":
        return data.shape[-1]
    attrs = OPERATOR_ATTRS[name].of(call)
    kernel = int(np.prod(attrs.kernel_size))  # type: ignore[attr-defined]
    return kernel * data.shape[-1] // int(getattr(attrs, "groups", 1))


def _move_attrs(call: Any, name: str) -> dict[str, Any]:
    if name == "permute":
        axes = call.attrs.axes
        rank = len(call.args[0].ty.shape)
        return {"axes": list(range(rank))[::-1] if axes is None else [int(a) for a in axes]}
    if name == "reshape":
        return {}
    lists = [[int(v) for v in argument.fields] for argument in call.args[1:]]
    axes, begin, end = lists[:3]
    strides = lists[3] if len(lists) > 3 else [1] * len(axes)
    return {"axes": axes, "begin": begin, "end": end, "strides": strides}


def network(steps: Iterable[Operator], outputs: Iterable[str]) -> Network:
    """A network of operators; inputs are what no operator makes."""
    operators = tuple(steps)
    made = {operator.output.name: operator.output for operator in operators}
    inputs = {
        given.name: given
        for operator in operators
        for given in operator.inputs
        if given.name not in made
    }
    return Network(operators, tuple(inputs.values()), tuple(made[name] for name in outputs))


def host(function: Any) -> HostPart:
    """What a function whose regions are calls leaves to the host, calls left out."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    result = function.body.body
    last = bindings[-1] if bindings else None
    if last is not None and last.var.same_as(result) and isinstance(last.value, relax.Tuple):
        # Several results have a name of their own, which says nothing.
        bindings, result = bindings[:-1], last.value
    outputs = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    return HostPart(
        tuple(_host_tensor(var) for var in function.params),
        tuple(_host_step(one) for one in bindings if not _of_region(one.value)),
        tuple(str(var.name) for var in outputs),
    )


def _of_region(expression: Any) -> bool:
    """Whether it is a call of a region, or one of several results of such a call."""
    if isinstance(expression, relax.Call):
        return isinstance(expression.op, ir.GlobalVar)
    return isinstance(expression, relax.TupleGetItem)


def _host_tensor(var: Any) -> HostTensor:
    found = value(var)
    return HostTensor(found.name, found.shape, found.dtype)


def _host_step(binding: Any) -> HostStep:
    expression = binding.value
    if isinstance(expression, relax.Var):
        return HostStep("alias", str(expression.name), _host_tensor(binding.var))
    kind, numbers = _host_kind(expression)
    source = expression.args[0] if kind in (*BORDERS, "permute", "reshape") else None
    if not isinstance(source, relax.Var):
        # Its type may be no tensor's, and nobody can run it who does not know the operator.
        return HostStep(kind, "", HostTensor(str(binding.var.name), (), ""))
    return HostStep(kind, str(source.name), _host_tensor(binding.var), numbers)


def _host_kind(expression: Any) -> tuple[str, tuple[int, ...]]:
    """The kind of a step, and its numbers; the operator's own name where it is another one."""
    if not isinstance(expression, relax.Call):
        return type(expression).__name__.lower(), ()
    if is_dialect_call(expression):
        name = op_name(expression)
        if name == "quantize":
            return name, (int(OPERATOR_ATTRS[name].of(expression).exponent),)  # type: ignore[attr-defined]
        exponents = constant_array(expression.args[1]) if name == "dequantize" else None
        return str(name), () if exponents is None else tuple(int(e) for e in exponents.ravel())
    own = str(getattr(expression.op, "name", "a function of the host"))
    name = MOVES.get(own, own)
    axes = _move_attrs(expression, name)["axes"] if name == "permute" else ()
    return name, tuple(axes)
