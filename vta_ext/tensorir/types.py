"""Types of TensorIR's values on a machine that computes in 32 bits and stores 32 or 8 of them."""

from __future__ import annotations

from typing import Any, Final

from tvm_shiftadd.errors import CompileError

#: Integers, of which the machine can hold all values.
_RANGES: Final = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "uint8": (0, (1 << 8) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint16": (0, (1 << 16) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
}
#: Operators whose results are operands, so that they cannot leave the type's range.
_SELECTIONS: Final = ("Max", "Min")


def without_casts(expr: Any) -> Any:
    """What is under casts that keep every value. Raises CompileError for one that may change it."""
    while type(expr).__name__ == "Cast":
        outer, inner = (_RANGES.get(str(part.ty)) for part in (expr, expr.value))
        if outer is None or inner is None or inner[0] < outer[0] or outer[1] < inner[1]:
            raise CompileError(
                f"`{expr}` casts {expr.value.ty} and may change a value, which only a store does; "
                "clip there and narrow in the last step"
            )
        expr = expr.value
    return expr


def low_bits(expr: Any) -> Any:
    """What is under casts, of which the low 8 bits remain; CompileError for other types."""
    while type(expr).__name__ == "Cast":
        _require(str(expr.ty) in _RANGES, expr)
        expr = expr.value
    return expr


def require_computable(expr: Any) -> None:
    """Raises CompileError where an operator's results are not those of 32 signed bits."""
    dtype = str(expr.ty)
    _require(dtype == "int32" or (type(expr).__name__ in _SELECTIONS and dtype in _RANGES), expr)


def _require(true: bool, expr: Any) -> None:
    if not true:
        raise CompileError(
            f"the machine computes in int32, but `{expr}` is {expr.ty}; cast its operands"
        )
