"""Pooling on the ALU: maxima and sums of windows, and averages by shifted copies of the sum."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.layers import PoolTerm
from vta_ext.compiler.place import Place
from vta_ext.compiler.tiles import Pass


def passes(
    term: PoolTerm, place: Place, box: tuple[int, int, int, int], area: int, fresh: bool
) -> list[Pass]:
    """One pass a tap; the first one copies where the sums begin here."""
    window, (top, left, height, width) = term.window, box
    blocks = np.arange(place.outputs)
    origin = (window.stride[0] * place.y - top, window.stride[1] * place.x - left)
    found = []
    for number, (dy, dx, _) in enumerate(window.phases[0].taps):
        src = (blocks * height + origin[0] + dy) * width + origin[1] + dx
        lanes = np.stack([area + blocks * place.positions, src, np.zeros_like(src)], axis=1)
        copying = fresh and number == 0
        found.append(
            Pass(
                "sha" if copying else term.operation,
                lanes,
                grid=(place.rows, place.columns),
                dst_step=(place.columns, 1),
                src_step=(window.stride[0] * width, window.stride[1]),
                immediate={"shift": 0, "replace": 1} if copying else {},
            )
        )
    return found


def reciprocal_passes(term: PoolTerm, place: Place, area: int, replace: bool) -> Iterator[Pass]:
    """The sums at ``area`` times their reciprocals; windows at borders may have their own."""
    assert term.reciprocal is not None
    own = np.arange(place.outputs) * place.positions
    lanes = np.stack([own, own + area, np.zeros_like(own)], axis=1)
    here = term.reciprocal[place.y : place.y + place.rows, place.x : place.x + place.columns]
    for rows in _runs(here):
        for columns in _runs(here[rows.start : rows.start + 1].T):
            offset = rows.start * place.columns + columns.start
            for number, (sign, left) in enumerate(
                term.factors[int(here[rows.start, columns.start])]
            ):
                moved = lanes + np.array([offset, offset, 0])
                immediate = {
                    "shift": left,
                    "subtract": int(sign < 0),
                    "replace": int(replace and number == 0),
                }
                yield Pass(
                    "sha",
                    moved,
                    grid=(len(rows), len(columns)),
                    dst_step=(place.columns, 1),
                    src_step=(place.columns, 1),
                    source="acc",
                    immediate=immediate,
                )


def _runs(rows: NDArray[np.int64]) -> Iterator[range]:
    """Ranges of equal rows."""
    change = (rows[1:] != rows[:-1]).any(axis=1)
    ends = [0, *(np.flatnonzero(change) + 1).tolist(), len(rows)]
    yield from (range(begin, end) for begin, end in pairwise(ends))
