"""Checks of operand types that type inference is made of.

Shapes may hold symbolic dimensions (the batch, as a rule). Maps are ``[N, H, W, C]`` with H, W
and C known; what a computation depends on must be a plain int, everything else is passed through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm_shiftadd._compat import (
    Analyzer,
    TensorType,
    TupleType,
    constant_array,
    is_integer_constant,
    relax,
)
from tvm_shiftadd.errors import InputError, VerificationError
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES

#: Types of stored activations, and of everything an integer operator may read.
ACTIVATIONS = tuple(ACTIVATION_RANGES)
INTEGERS = (*ACTIVATIONS, "int32")

#: A dimension: a plain int where it is known, else TVM's expression.
Dim = Any


def tensor_type(shape: Sequence[Dim], dtype: str) -> Any:
    """The type of a tensor."""
    return TensorType(tuple(shape), dtype)


def describe(expr: Any) -> str:
    """An operand's type in a message: ``int8[n, 32, 32, 16]``."""
    return describe_type(expr.ty)


def describe_type(ty: Any) -> str:
    """``int8[n, 32, 16]``; ``int8[?, ?]`` where dimensions are unknown; ``(...)`` a tuple."""
    if isinstance(ty, TupleType):
        return "(" + ", ".join(describe_type(field) for field in ty.fields) + ")"
    if not isinstance(ty, TensorType):
        return str(ty)
    dtype = str(ty.dtype) if ty.dtype is not None else "?"
    if ty.shape is not None and isinstance(ty.shape, relax.ShapeExpr):
        return f"{dtype}[{', '.join(str(d) for d in dimensions(ty))}]"
    return f"{dtype}[{', '.join('?' * ty.ndim)}]" if ty.ndim >= 0 else f"{dtype}[...]"


def dimensions(ty: Any) -> list[Dim]:
    """The dimensions of a tensor type with a known shape, ints where they are known."""
    return [int(d) if is_integer_constant(d) else d for d in ty.shape]


class Operands:
    """The operands of one call, and the error for one that does not fit."""

    def __init__(self, call: Any, names: Sequence[str]) -> None:
        """``names`` are the operands' names in order; raises VerificationError on another count."""
        self.call = call
        self.op = str(call.op.name)
        self.names = tuple(names)
        if len(call.args) != len(names):
            raise VerificationError(
                f"{self.op} expects the {len(names)} operands {', '.join(names)}, "
                f"got {len(call.args)}"
            )

    def error(self, expected: str) -> VerificationError:
        """The error that says what was expected and lists the types that came."""
        got = ", ".join(
            f"{name} {describe(arg)}" for name, arg in zip(self.names, self.call.args, strict=True)
        )
        return VerificationError(f"{self.op} expects {expected}, got {got}")

    @contextmanager
    def expecting(self, expected: str) -> Iterator[None]:
        """Raise the error, with its reason, where the block finds that numbers do not fit."""
        try:
            yield
        except InputError as error:
            raise self.error(f"{expected} ({error})") from None

    def require(self, ok: bool, expected: str) -> None:
        """Raise the error unless ``ok``."""
        if not ok:
            raise self.error(expected)

    def tensor(self, index: int, dtypes: str | Sequence[str], form: str) -> list[Dim]:
        """The dimensions of operand ``index``.

        ``form`` is its expected shape in words such as ``[N, H, W, C]``; its commas give the rank
        unless it holds ``...``. Raises VerificationError if dtype, rank or shape do not fit.
        """
        allowed = (dtypes,) if isinstance(dtypes, str) else tuple(dtypes)
        expected = f"{self.names[index]} to be {' or '.join(allowed)} {form}"
        ty = self.call.args[index].ty
        self.require(isinstance(ty, TensorType), expected)
        self.require(ty.dtype is not None and str(ty.dtype) in allowed, expected)
        self.require(ty.shape is not None and isinstance(ty.shape, relax.ShapeExpr), expected)
        dims = dimensions(ty)
        if "..." not in form:
            self.require(len(dims) == form.count(",") + 1, expected)
        return dims

    def dtype(self, index: int) -> str:
        """The type of the elements of operand ``index``, a tensor."""
        return str(self.call.args[index].ty.dtype)

    def image(self, index: int, dtypes: str | Sequence[str]) -> tuple[Dim, int, int, int]:
        """N, H, W, C of a feature map; H, W and C must be known."""
        n, h, w, c = self.tensor(index, dtypes, "[N, H, W, C]")
        known = all(isinstance(d, int) for d in (h, w, c))
        self.require(known, f"{self.names[index]} with known height, width and channels")
        return n, h, w, c

    def channel_vector(self, index: int, dims: Sequence[Dim], low: int, high: int) -> None:
        """Check that operand ``index`` is int32 ``[C]`` or ``[1]`` for the last of ``dims``.

        Where it is a constant, its values must lie in low..high too.
        """
        name = self.names[index]
        length = self.tensor(index, "int32", "[C]")[0]
        self.require(
            length == 1 or (isinstance(length, int) and len(dims) > 0 and same(length, dims[-1])),
            f"{name} to have one element or one a channel of {self.names[0]}",
        )
        values = constant_array(self.call.args[index])
        if values is not None and values.size:
            least, most = int(values.min()), int(values.max())
            if least < low or most > high:
                raise VerificationError(
                    f"{self.op} expects {name} within {low}..{high}, got values from {least} "
                    f"to {most}"
                )


def same(left: Dim, right: Dim) -> bool:
    """Whether two dimensions are certainly equal."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if isinstance(left, int) or isinstance(right, int):
        return False
    return bool(Analyzer().can_prove_equal(left, right))


def same_shape(left: Sequence[Dim], right: Sequence[Dim]) -> bool:
    """Whether two shapes are certainly equal."""
    return len(left) == len(right) and all(map(same, left, right))
