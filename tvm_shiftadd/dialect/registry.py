"""Registration of the dialect's operators with TVM, safe to repeat.

TVM keeps one process-wide registry and refuses a second registration, but this code may run
twice: the ``tvm.backends`` entry point loads it on ``import tvm``, and a module may be reloaded.
Registering again therefore replaces the operator's functions and never adds a second operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_shiftadd._compat import Op, op_exists, register_error, register_op, register_op_attr, relax
from tvm_shiftadd.errors import InputError, RangeError, VerificationError

if TYPE_CHECKING:
    from tvm_shiftadd.dialect.attrs import OpAttrs

#: Prefix of every operator's name, and of those that are float on both sides: passes carry these
#: until the converter's integers replace them, or the host runs them.
NAMESPACE = "shiftadd."
FLOAT_NAMESPACE = "shiftadd.float_"

InferType = Callable[[Any], Any]
Legalize = Callable[[Any, Any], Any]

# Type inference runs under TVM's C++ passes, which would turn these into RuntimeError.
for _error in (VerificationError, InputError, RangeError):
    register_error(_error)


@dataclass(frozen=True)
class OpSpec:
    """One operator.

    ``name`` is without the namespace. ``arguments`` are the operands' names and descriptions, in
    order. ``infer_type`` maps a call to its type or raises VerificationError; ``legalize`` maps
    (block builder, call) to the call of a TensorIR function.
    """

    name: str
    description: str
    arguments: tuple[tuple[str, str], ...]
    infer_type: InferType
    legalize: Legalize

    @property
    def full_name(self) -> str:
        """The name in TVM's registry."""
        return NAMESPACE + self.name


_SPECS: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> None:
    """Register ``spec`` with TVM, or replace the functions of an operator already there."""
    name = spec.full_name
    known = op_exists(name)
    if not known:
        register_op(name, spec.description)
    op = Op.get(name)
    if not known:
        op.set_num_inputs(len(spec.arguments))
        for argument, description in spec.arguments:
            op.add_argument(argument, "Tensor", description)
    attributes: dict[str, Any] = {
        "FInferType": lambda call, _builder: spec.infer_type(call),
        "FPurity": True,
        "FLegalize": spec.legalize,
        "TScriptPrinterName": name,
    }
    for key, value in attributes.items():
        if op.has_attr(key):
            op.reset_attr(key)
        register_op_attr(name, key, value)
    _SPECS[spec.name] = spec


def call_te(
    builder: Any, call: Any, compute: Callable[..., Any], attrs: type[OpAttrs] | None = None
) -> Any:
    """Legalise a call: ``compute`` of its operands and attributes, under the operator's name."""
    given = {} if attrs is None else vars(attrs.of(call))
    hint = str(call.op.name).replace(".", "_")
    return builder.call_te(compute, *call.args, **given, primfunc_name_hint=hint)


def specs() -> dict[str, OpSpec]:
    """All registered operators by name without the namespace."""
    return dict(_SPECS)


def op(name: str) -> Any:
    """TVM's operator for a name without the namespace."""
    return Op.get(NAMESPACE + name)


def is_dialect_call(expr: Any) -> bool:
    """Whether an expression is a call of one of the dialect's operators."""
    return (
        isinstance(expr, relax.Call)
        and isinstance(expr.op, Op)
        and str(expr.op.name).startswith(NAMESPACE)
    )


def is_integer_call(expr: Any) -> bool:
    """Whether an expression is a call of one of the dialect's operators that a region may hold."""
    return is_dialect_call(expr) and not str(expr.op.name).startswith(FLOAT_NAMESPACE)


def op_name(call: Any) -> str:
    """The operator's name without the namespace, of a call for which is_dialect_call holds."""
    return str(call.op.name)[len(NAMESPACE) :]
