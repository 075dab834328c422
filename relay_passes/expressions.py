"""Reading Relax expressions: what a call is, its constants and attributes, who reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import constant_array, ir, is_integer_constant, relax
from tvm_shiftadd.errors import VerificationError


def bindings(func: relax.Function) -> Iterator[relax.VarBinding]:
    """Every binding of a function in order."""
    for block in func.body.blocks:
        yield from block.bindings


def is_operator(binding: relax.VarBinding) -> bool:
    """Whether a binding computes something, rather than renaming or regrouping."""
    return not isinstance(binding.value, (relax.Var, relax.Tuple, relax.TupleGetItem))


def op_name(expr: Any) -> str:
    """The operator an expression calls, or '' where it calls none."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name)
    return ""


def dtype(expr: Any) -> str:
    """An expression's element type, or '' where it is no tensor."""
    return str(getattr(expr.ty, "dtype", "")) if hasattr(expr, "ty") else ""


def constant(expr: Any) -> NDArray[Any] | None:
    """The array behind a constant expression, else None."""
    return constant_array(expr)


def array(expr: Any) -> NDArray[Any]:
    """The array behind an expression that must be a constant, else VerificationError."""
    values = constant_array(expr)
    if values is None:
        raise VerificationError(f"expected a constant operand, got {expr}; fold constants first")
    return values


def scalar(expr: Any) -> float | None:
    """The number behind a one-element constant or a prim value, else None."""
    values = constant(expr)
    if values is not None:
        return float(values.reshape(-1)[0]) if values.size == 1 else None
    value = getattr(expr, "value", expr)
    return float(value) if isinstance(value, (int, float)) else None


def static_shape(expr: Any) -> tuple[int, ...]:
    """An expression's shape with -1 for a symbolic dimension; () where it has no known shape."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return ()
    return tuple(int(size) if is_integer_constant(size) else -1 for size in shape)


def ints(values: Any) -> tuple[int, ...]:
    """A tuple of Python integers from an attribute's array."""
    return tuple(int(v) for v in values)


def int_attrs(call: Any, *names: str) -> dict[str, Any]:
    """Those attributes of a call, arrays of integers, as tuples by their names."""
    return {name: ints(call.attrs[name]) for name in names}


def permutation(call: relax.Call) -> tuple[int, ...]:
    """The axes of a permute_dims, which reverses the dimensions where it names none."""
    axes = call.attrs["axes"]
    rank = len(static_shape(call.args[0]))
    return ints(axes) if axes is not None else tuple(reversed(range(rank)))


def slice_window(call: relax.Call) -> tuple[tuple[int, ...], ...] | None:
    """Axes, begin, end and strides of a strided_slice, or None where one is not constant."""
    window: list[tuple[int, ...]] = []
    for arg in call.args[1:5]:
        values = [scalar(field) for field in arg.fields]
        if any(value is None for value in values):
            return None
        window.append(ints(values))
    if len(window) == 3:
        window.append((1,) * len(window[0]))
    return tuple(window)


def clip_bounds(call: relax.Call) -> tuple[float, float]:
    """The bounds of a clip."""
    lo, hi = scalar(call.args[1]), scalar(call.args[2])
    if lo is None or hi is None:
        raise VerificationError(f"expected a clip with constant bounds, got {call}")
    return lo, hi


def clip_after(first: tuple[float, float], then: tuple[float, float]) -> tuple[float, float]:
    """The bounds of one clip that does what ``first`` and ``then`` do one after the other."""
    lo, hi = then
    return min(max(first[0], lo), hi), min(max(first[1], lo), hi)


def per_channel(
    values: NDArray[Any], shape: tuple[int, ...], axis: int = 1
) -> NDArray[np.float32] | None:
    """Values that vary along the channel axis at most, spread to one a channel, else None.

    The result broadcasts over ``shape``; leading axes of length one are left out where the
    channel axis is the last.
    """
    rank = len(shape)
    if rank < 2 or values.ndim > rank or shape[axis] < 1:
        return None
    padded: NDArray[Any] = values.reshape((1,) * (rank - values.ndim) + values.shape)
    if padded.size != padded.shape[axis]:
        return None
    if padded.shape[axis] not in (1, shape[axis]):
        return None
    spread = np.broadcast_to(padded.reshape(-1), (shape[axis],)).astype(np.float32)
    return spread if axis == rank - 1 else spread.reshape(1, -1, *[1] * (rank - 2))


def operands(expr: Any) -> list[Any]:
    """The leaves an expression reads: arguments, tuple fields, or the expression itself."""
    if isinstance(expr, relax.Call):
        return [leaf for arg in expr.args for leaf in operands(arg)]
    if isinstance(expr, relax.Tuple):
        return [leaf for field in expr.fields for leaf in operands(field)]
    if isinstance(expr, relax.TupleGetItem):
        return operands(expr.tuple_value)
    return [expr]


def variables(expr: Any) -> list[relax.Var]:
    """The variables an expression reads, one for each reading."""
    return [leaf for leaf in operands(expr) if isinstance(leaf, relax.Var)]


def uses(func: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read; the function's result counts as a reader."""
    count: Counter[relax.Var] = Counter()
    for binding in bindings(func):
        count.update(variables(binding.value))
    count.update(variables(func.body.body))
    return count


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
