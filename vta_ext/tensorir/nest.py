"""A statement in its loops: what its indices are in all iterations, in elements of buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import handle

Index = NDArray[np.int64]

_BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Min": np.minimum,
    "Max": np.maximum,
    "LShift": np.left_shift,
    "RShift": np.right_shift,
    "BitwiseAnd": np.bitwise_and,
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}


class NotElementsError(Exception):
    """What does not cover whole elements of a buffer; the message says what to do."""


def evaluate(expr: Any, values: Mapping[int, Any]) -> Any:
    """The value of an index or a condition; ``values``: of variables, by handle, numbers or arrays.

    Raises KeyError, with its name, for a variable that has no value or another kind of expression.
    """
    if isinstance(expr, int):
        return expr
    kind = type(expr).__name__
    if kind == "IntImm":
        return int(expr.value)
    if kind == "Var":
        if handle(expr) not in values:
            raise KeyError(str(expr))
        return values[handle(expr)]
    if kind == "Cast" and str(expr.ty) in ("int32", "int64"):
        return evaluate(expr.value, values)
    if kind == "Not":
        return np.logical_not(evaluate(expr.a, values))
    if kind not in _BINARY:
        raise KeyError(str(expr))
    return _BINARY[kind](evaluate(expr.a, values), evaluate(expr.b, values))


@dataclass(frozen=True)
class Loop:
    """A loop whose iterations one or few instructions run: handle of its variable and its range."""

    variable: int
    extent: int
    minimum: int


class Nest:
    """The loops around one statement; ``outer``: values of the variables of all others."""

    def __init__(self, loops: tuple[Loop, ...], outer: Mapping[int, int]) -> None:
        self.shape = tuple(loop.extent for loop in loops)
        ranges = [np.arange(loop.minimum, loop.minimum + loop.extent) for loop in loops]
        meshes = np.meshgrid(*ranges, indexing="ij", sparse=True)
        self._values: dict[int, Any] = dict(outer)
        self._values |= {loop.variable: mesh for loop, mesh in zip(loops, meshes, strict=True)}

    def array(self, expr: Any) -> NDArray[Any]:
        """An index or a condition in every iteration."""
        return np.broadcast_to(evaluate(expr, self._values), self.shape)

    def offsets(self, buffer: Any, indices: Any) -> Index:
        """The lane of a buffer that its indices mean, in every iteration."""
        total = np.zeros(self.shape, np.int64)
        for size, index in zip(buffer.shape, indices, strict=True):
            total = total * int(size) + self.array(index)
        return total


def carried(written: Index, read: Index) -> bool:
    """Whether an iteration reads what an earlier one has written; offsets in the loops' order."""
    written, read = written.ravel(), read.ravel()
    places, first = np.unique(written, return_index=True)
    at = np.minimum(np.searchsorted(places, read), len(places) - 1)
    return bool(((places[at] == read) & (first[at] < np.arange(read.size))).any())


@dataclass(frozen=True, eq=False)
class Order:
    """Loops in the order of a buffer: those over elements, then ``inner`` ones over lanes.

    The inner ones may go on over several elements.
    """

    axes: tuple[int, ...]
    inner: int
    lanes: int

    @classmethod
    def of(cls, offsets: Index, lanes: int, what: str) -> Order:
        """The order of the loops by their steps through a buffer of elements of ``lanes``.

        Raises NotElementsError where no inner loops make one element.
        """
        steps = [_step(offsets, axis) for axis in range(offsets.ndim)]
        # Loops that stay at one place repeat it; they are the outermost.
        axes = sorted(range(offsets.ndim), key=lambda axis: -abs(steps[axis]) or -(1 << 62))
        for inner in range(offsets.ndim + 1):
            sizes = [offsets.shape[axis] for axis in axes[len(axes) - inner :]]
            if prod(sizes) % lanes == 0:
                return cls(tuple(axes), inner, lanes)
        extents = [offsets.shape[axis] for axis in axes]
        raise NotElementsError(
            f"its loops, of {extents} iterations, do not cover whole elements of {what}, of "
            f"{lanes} lanes; let the last axes be [BATCH, BLOCK] (of weights [BLOCK, BLOCK]), and "
            "split none of them"
        )

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array over the loops as ``[outer loops..., lanes]``."""
        moved = array.transpose(self.axes)
        return moved.reshape(*moved.shape[: moved.ndim - self.inner], -1, self.lanes)

    def by_element(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which elements a condition holds for; NotElementsError where it divides one."""
        rows = self.arranged(mask)
        if (rows != rows[..., :1]).any():
            raise NotElementsError("its condition divides an element; compare with whole elements")
        whole: NDArray[np.bool_] = rows[..., 0]
        return whole

    def elements(self, offsets: Index, lanes: int, what: str) -> Index:
        """The elements that offsets in lanes mean; NotElementsError where they are not whole."""
        rows = self.arranged(offsets)
        first = rows[..., 0]
        same = rows.shape[-1] == lanes and not (first % lanes).any()
        if not same or (rows != first[..., None] + np.arange(lanes)).any():
            raise NotElementsError(
                f"it does not read or write whole elements of {what}, of {lanes} lanes in their "
                "order; let the last axes be the lanes of one element, begin at a multiple of it, "
                "and pack data in that layout"
            )
        return first // lanes


def _step(offsets: Index, axis: int) -> int:
    if offsets.shape[axis] < 2:
        return 0
    return int(np.take(offsets, 1, axis).flat[0] - np.take(offsets, 0, axis).flat[0])
