"""The operators of a region, without a compiler: what :mod:`vta_ext.compiler.frontend` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Value:
    """A tensor without its batch axis: ``[H, W, C]``, ``[C]`` or another shape, and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator: its kind is the dialect's name, or permute, reshape, slice.

    Constants by kind, all NumPy: conv2d, conv2d_transpose and dense have ``codes`` uint8
    ``[K, R, O]`` and ``bias``; adder layers ``weight`` int8 ``[R, O]`` and ``bias``; scale
    ``codes`` uint8 ``[K, C]``; requantize ``shift``; add ``lhs_shift`` and ``rhs_shift``. ``attrs``
    are the dialect's; those of Relax's operators: axes; shape (batch first); axes, begin, end,
    strides.
    """

    kind: str
    name: str
    inputs: tuple[Value, ...]
    output: Value
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Network:
    """Operators in order; what comes in and what goes out."""

    operators: tuple[Operator, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
