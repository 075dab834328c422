"""What the importers share: errors, constants, arithmetic on dimensions, closing a builder."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tvm_shiftadd._compat import Analyzer, relax, tirx
from tvm_shiftadd.errors import ModelError, ShiftAddError, UnsupportedOperatorError


def unsupported(op_type: str, name: str, reason: str) -> UnsupportedOperatorError:
    """An error naming the operator, its node and why it cannot be imported."""
    return UnsupportedOperatorError(
        f"Operator {op_type} (node '{name}') cannot be imported: {reason}."
    )


def product(dims: Sequence[Any]) -> Any:
    """The product of dimensions, an int where all of them are."""
    static = math.prod(dim for dim in dims if isinstance(dim, int))
    result: Any = static
    for dim in dims:
        if not isinstance(dim, int):
            result = dim if isinstance(result, int) and result == 1 else dim * result
    return result


def quotient(total: Any, divisor: Any) -> Any:
    """``total // divisor`` simplified: exact for shapes such as ``(N * 64) // 64``."""
    if isinstance(total, int) and isinstance(divisor, int):
        return total // divisor
    value = Analyzer().simplify(tirx.floordiv(total, divisor))
    return int(value) if isinstance(value, tirx.IntImm) else value


def float_constant(value: ArrayLike) -> relax.Expr:
    """A float32 constant."""
    return relax.const(np.ascontiguousarray(value, dtype=np.float32), "float32")


def tvm_reason(error: Exception) -> str:
    """What an exception of TVM's importer says, in half a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return f"TVM's importer says '{textwrap.shorten(text, 200).rstrip('.')}'"


@contextlib.contextmanager
def closed_on_error(builder: Callable[[], relax.BlockBuilder]) -> Iterator[None]:
    """Close the block an exception leaves open, which TVM would complain about on stderr."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            builder()._end_block()
        raise


@contextlib.contextmanager
def one_line_errors(subject: str) -> Iterator[None]:
    """Make every failure a project error whose message is one printable line.

    A damaged file can hold anything, line breaks in names included, and the libraries that read
    it raise whatever they meet.
    """
    try:
        yield
    except ShiftAddError as error:
        error.args = (_printable(str(error)),)
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = textwrap.shorten(lines[0], 200) if lines else type(error).__name__
        raise ModelError(
            f"{subject} is damaged and cannot be imported: {_printable(reason).rstrip('.')}."
        ) from error


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
