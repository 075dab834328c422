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
from tvm_shiftadd.errors import DependencyError, ModelError, ShiftAddError, UnsupportedOperatorError


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


def import_torch(purpose: str) -> Any:
    """The module ``torch``. Raises DependencyError, which says what it is needed for."""
    try:
        import torch
    except ImportError:
        raise DependencyError(
            f"PyTorch is needed to {purpose}: pip install 'tvm-shiftadd[torch]'."
        ) from None
    return torch


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def tvm_reason(error: Exception) -> str:
    """What an exception of TVM's importer says, in half a sentence."""
    text = textwrap.shorten(first_line(error), 200)
    return f"TVM's importer says '{text.rstrip('.')}'"


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
        reason = textwrap.shorten(first_line(error), 200)
        raise ModelError(
            f"{subject} is damaged and cannot be imported: {_printable(reason).rstrip('.')}."
        ) from error


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
