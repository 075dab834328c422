"""Copies between DRAM and a buffer as loads and stores: rows, strides, padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vta_ext.isa.access import MAX_PAD
from vta_ext.tensorir.nest import Index, NotElementsError

Pair = tuple[int, int]
Mask = NDArray[np.bool_]

#: The most elements of a row, and rows, of one instruction.
MAX_SIZE: Final = (1 << 16) - 1


@dataclass(frozen=True)
class Rectangle:
    """``rows`` x ``columns`` elements from ``dram`` on, ``stride`` apart, to entry ``sram`` on."""

    sram: int
    dram: int
    columns: int
    rows: int
    stride: int
    y_pad: Pair = (0, 0)
    x_pad: Pair = (0, 0)

    def arguments(self) -> dict[str, Any]:
        """Sizes as arguments of an instruction's constructor."""
        return {"x_size": self.columns, "y_size": self.rows, "x_stride": self.stride}


def rectangles(sram: Index, dram: Index, copied: Mask, written: Mask) -> Iterator[Rectangle]:
    """The instructions of a copy over loops: entries of the buffer, elements of DRAM.

    Where ``written`` is False an entry is left alone; where only ``copied`` is, it becomes padding.
    Raises NotElementsError for what no instruction can do.
    """
    sram, dram, copied, written = _merged(sram, dram, copied, written)
    for index in np.ndindex(sram.shape[:-2]):
        yield from _plane(sram[index], dram[index], copied[index], written[index])


def _steps(array: NDArray[Any], axis: int) -> int | None:
    """What a loop adds, where that is always the same."""
    if array.shape[axis] == 1:
        return 0
    moved = np.diff(array, axis=axis)
    return int(moved.flat[0]) if (moved == moved.flat[0]).all() else None


def _merged(
    sram: Index, dram: Index, copied: Mask, written: Mask
) -> tuple[Index, Index, Mask, Mask]:
    """The same with neighbouring loops joined where they go on, and with at least two of them.

    The last one steps through both memories by one.
    """
    shape = tuple(extent for extent in sram.shape if extent > 1)
    arrays: list[NDArray[Any]] = [part.reshape(shape) for part in (sram, dram, copied, written)]
    axis = arrays[0].ndim - 2
    while axis >= 0:
        extent = arrays[0].shape[axis + 1]
        steps = [(_steps(part, axis), _steps(part, axis + 1)) for part in arrays[:2]]
        goes_on = all(
            outer is not None and inner is not None and outer == inner * extent
            for outer, inner in steps
        )
        varies = any(
            _steps(mask.astype(np.int8), n) != 0 for mask in arrays[2:] for n in (axis, axis + 1)
        )
        if goes_on and not varies:
            joined = (*arrays[0].shape[:axis], -1, *arrays[0].shape[axis + 2 :])
            arrays = [part.reshape(joined) for part in arrays]
        axis -= 1
    by_one = all(_steps(part, -1) == 1 for part in arrays[:2]) if arrays[0].ndim else True
    missing = max(2 - arrays[0].ndim - (not by_one), 0)
    shape = (*(1,) * missing, *arrays[0].shape, *((1,) if not by_one else ()))
    a, b, c, d = (part.reshape(shape) for part in arrays)
    return a, b, c, d


def _plane(sram: Index, dram: Index, copied: Mask, written: Mask) -> Iterator[Rectangle]:
    """The instructions of two loops."""
    if not written.all():
        for part in _parts(written):
            yield from _plane(sram[part], dram[part], copied[part], written[part])
        return
    width, step = sram.shape[1], _steps(sram, 0)
    stride = _steps(dram, 0)
    if len(sram) > 1 and (step != width or stride is None or not 0 <= stride <= MAX_SIZE):
        # Rows that do not follow each other in the buffer.
        for row in range(len(sram)):
            one = slice(row, row + 1)
            yield from _plane(sram[one], dram[one], copied[one], written[one])
        return
    rows: Mask = np.asarray(copied.any(axis=1))
    columns: Mask = np.asarray(copied.any(axis=0))
    if not rows.any():
        yield from _nothing_but_padding(int(sram[0, 0]), len(sram), width)
        return
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    inside = copied[top : len(rows) - bottom, left : width - right]
    if not inside.all():
        raise NotElementsError("its padding is not around a rectangle; pad in one step of its own")
    if max(top, bottom, left, right) > MAX_PAD:
        raise NotElementsError(
            f"it pads with {max(top, bottom, left, right)} elements, but a load pads {MAX_PAD} at "
            "most; use smaller tiles, or pad on the host"
        )
    height, width = inside.shape
    yield Rectangle(
        int(sram[0, 0]),
        int(dram[top, left]),
        width,
        height,
        (stride or 0) if height > 1 else width,
        (top, bottom),
        (left, right),
    )


def _ends(used: Mask) -> Pair:
    """How many at either end are not used."""
    places = np.flatnonzero(used)
    return int(places[0]), len(used) - 1 - int(places[-1])


def _nothing_but_padding(sram: int, rows: int, width: int) -> Iterator[Rectangle]:
    for row in range(0, rows, 2 * MAX_PAD):
        count = min(rows - row, 2 * MAX_PAD)
        pad = (min(count, MAX_PAD), max(count - MAX_PAD, 0))
        yield Rectangle(sram + row * width, 0, width, 0, width, pad)


def _parts(written: Mask) -> Iterator[tuple[slice, slice]]:
    """The rectangle that is written, or each row in pieces without gaps."""
    rows, columns = np.flatnonzero(written.any(axis=1)), np.flatnonzero(written.any(axis=0))
    if not rows.size:
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    if written[box].all():
        yield box
        return
    for row in rows:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], written[row].astype(np.int8), [0]])))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            yield slice(row, row + 1), slice(begin, end)
