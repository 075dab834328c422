"""Passes of the matrix unit: tiles of weights that are not all zero, packed in the order of use.

A layer of K terms is K passes of the one-term unit; where a plane of a tile is all zero, neither
its bytes are moved nor its micro-op issued.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.constants import Constants
from vta_ext.compiler.layers import MatrixTerm, Phase
from vta_ext.compiler.layout import tile_bytes, weight_tiles
from vta_ext.compiler.place import Place
from vta_ext.compiler.tiles import Fetch, Move, Pass
from vta_ext.config import Config
from vta_ext.isa.machine import pack_codes

#: Entry of the weight fetch of each tile (tap, term, input block, output block).
Slots = dict[tuple[int, int, int, int], int]
#: dst, src, wgt of one micro-op.
Lane = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A term's weights as tiles ``[T, K, I blocks, O blocks, block, block]``.

    ``used``: which are not all zero; a distance to a weight of 0 counts, so all of adder layers'.
    """

    layer: str
    number: int
    term: MatrixTerm
    tiles: NDArray[Any]
    used: NDArray[np.bool_]
    config: Config

    def reads(self, place: Place) -> tuple[int, int]:
        """The input blocks [first, last) that a place's output channels depend on, at least one.

        Copies and grouped layers read few of them.
        """
        mine = self.used[:, :, :, place.output : place.output + place.outputs]
        blocks = np.flatnonzero(mine.any(axis=(0, 1, 3)))
        return (int(blocks[0]), int(blocks[-1]) + 1) if len(blocks) else (0, 1)

    def fetch(
        self, place: Place, blocks: tuple[int, int], constants: Constants, fine: bool
    ) -> tuple[Fetch, Slots]:
        """The weights of a place's output channels and of input blocks (first, count).

        ``fine``: a load for each input block.
        """
        config, (first, count) = self.config, blocks
        taps, planes = self.tiles.shape[:2]
        order = [
            (tap, plane, i, o)
            for i in range(first, first + count)
            for tap in range(taps)
            for plane in range(planes)
            for o in range(place.output, place.output + place.outputs)
            if self.used[tap, plane, i, o]
        ]
        slots = {key: slot for slot, key in enumerate(order)}
        shift = self.term.mode == "shift"
        memory, element = ("code", config.code_bytes) if shift else ("wgt", config.wgt_bytes)
        moves = []
        if order:
            chosen = self.tiles[tuple(np.array(order).T)]
            at = constants.add(tile_bytes(chosen, self.term.mode)) // element
            ends = [n for n in range(1, len(order)) if fine and order[n][2] != order[n - 1][2]]
            for begin, end in pairwise([0, *ends, len(order)]):
                moves.append(Move(memory, begin, at + begin, end - begin))
        rows = self._factor_rows(place)
        if len(rows):
            at = constants.add(pack_codes(rows).tobytes())
            moves.append(Move("code", len(order), at // config.code_bytes, len(rows)))
        key = (self.layer, self.number, place.output, place.outputs, first, count, len(order))
        return Fetch(key, len(order) + len(rows), tuple(moves)), slots

    def _factor_rows(self, place: Place) -> NDArray[np.uint8]:
        """Codes of the factor, a row for each term and output block: ``[n, block, block]``."""
        factor, block = self.term.factor, self.config.block
        if factor is None:
            return np.zeros((0, block, block), np.uint8)
        padded = np.zeros((factor.shape[0], self.tiles.shape[3] * block), np.uint8)
        padded[:, : factor.shape[1]] = factor
        split = padded.reshape(factor.shape[0], -1, block)
        rows = split[:, place.output : place.output + place.outputs].reshape(-1, block)
        missing = -len(rows) % block
        return np.pad(rows, ((0, missing), (0, 0))).reshape(-1, block, block)

    def factor_passes(self, place: Place, replace: bool, area: int, slot: int) -> Iterator[Pass]:
        """Shifted copies of the sums at ``area``, added to the layer's; codes from ``slot`` on."""
        assert self.term.factor is not None
        blocks = np.arange(place.outputs)
        own = blocks * place.positions
        lanes = np.stack([own, own + area, blocks], axis=1)
        for plane in range(len(self.term.factor)):
            row = slot * self.config.block + plane * place.outputs
            yield Pass(
                "lsa",
                lanes,
                grid=(1, place.positions),
                dst_step=(0, 1),
                src_step=(0, 1),
                source="acc",
                immediate={"row": row, "replace": int(replace and plane == 0)},
            )


def prepare(layer: str, number: int, term: MatrixTerm, config: Config) -> Prepared:
    """A term's weights, split into tiles once for all steps."""
    tiles = weight_tiles(term, config.block)
    used = np.logical_or(tiles.any(axis=(4, 5)), term.mode == "adder")
    return Prepared(layer, number, term, tiles, used, config)


def passes(
    prepared: Prepared,
    place: Place,
    blocks: tuple[int, int],
    box: tuple[int, int, int, int],
    slots: Slots,
    area: int,
    fresh: bool,
    fine: bool,
) -> list[Pass]:
    """All products of one step.

    box: first row and column, height and width of the inputs; area: first accumulator; fresh:
    whether the sums begin here; fine: whether no instruction needs more than one input block.
    """
    found: list[Pass] = []
    first, count = blocks
    parts = [range(i, i + 1) for i in range(first, first + count)]
    for part in parts if fine else [range(first, first + count)]:
        begins = fresh and part.start == first
        for phase in prepared.term.window.phases:
            found += _phase(prepared, phase, place, part, first, box, slots, area, begins)
    return found


def _phase(
    prepared: Prepared,
    phase: Phase,
    place: Place,
    blocks: range,
    fetched: int,
    box: tuple[int, int, int, int],
    slots: Slots,
    area: int,
    fresh: bool,
) -> Iterator[Pass]:
    """The products of input blocks ``blocks``; ``fetched`` is the first one in the buffer."""
    window = prepared.term.window
    grid = (
        -(-(place.rows - phase.start[0]) // window.step[0]),
        -(-(place.columns - phase.start[1]) // window.step[1]),
    )
    if min(grid) < 1:
        return
    top, left, height, width = box
    origin = (
        window.stride[0] * (place.y // window.step[0]) - top,
        window.stride[1] * (place.x // window.step[1]) - left,
    )
    start = area + phase.start[0] * place.columns + phase.start[1]
    common: dict[str, Any] = {
        "grid": grid,
        "dst_step": (window.step[0] * place.columns, window.step[1]),
        "mode": prepared.term.mode,
    }

    def lane(o: int, i: int, dy: int, dx: int, slot: int) -> Lane:
        src = ((i - fetched) * height + origin[0] + dy) * width + origin[1] + dx
        return start + o * place.positions, src, slot

    lists = [
        [
            lane(o, i, dy, dx, slot)
            for i in blocks
            for dy, dx, tap in phase.taps
            for plane in range(prepared.tiles.shape[1])
            if (slot := slots.get((tap, plane, i, place.output + o))) is not None
        ]
        for o in range(place.outputs)
    ]
    if fresh:
        replaces = prepared.config.has("fresh")
        own = [(start + o * place.positions, 0, 0) for o in range(place.outputs)]
        empty = [lane for lane, items in zip(own, lists, strict=True) if not (items and replaces)]
        if empty:
            yield Pass("gemm", np.array(empty, np.int64), accumulate="clear", **common)
        fresh = replaces
    common["src_step"] = (window.stride[0] * width, window.stride[1])
    latency, most = prepared.config.acc_latency, prepared.config.uop_depth // 4
    spread = _spread(lists, grid[1], latency, most)
    for turns, accumulate in _merged(lists, fresh, spread, latency):
        yield _instruction(turns, spread if len(turns) > 1 else 1, accumulate, common)


def _spread(lists: list[list[Lane]], columns: int, latency: int, most: int) -> int:
    """Neighbouring positions that take turns in one iteration, so that the pipeline is full.

    It divides the columns and is 1 where more would make more than ``most`` micro-ops.
    """
    blocks, total = sum(map(bool, lists)), sum(map(len, lists))
    for spread in range(1, min(columns, latency) + 1):
        if columns % spread == 0 and spread * blocks >= latency and spread * total <= most:
            return spread
    return 1


def _merged(
    lists: list[list[Lane]], fresh: bool, spread: int, latency: int
) -> Iterator[tuple[list[list[Lane]], str]]:
    """Turns that make one instruction, and what becomes of the old accumulators.

    A turn is one weight tile of each output block. Turns share an instruction where they are as
    long as the pipeline is deep, since an accumulator comes again only after all the others.
    """
    group: list[list[Lane]] = []
    for turn in range(max(map(len, lists), default=0)):
        lanes = [items[turn] for items in lists if turn < len(items)]
        if fresh and turn == 0:
            yield [lanes], "replace"
            continue
        same = group and [lane[0] for lane in group[-1]] == [lane[0] for lane in lanes]
        if group and not (same and len(lanes) * spread >= latency):
            yield group, "add"
            group = []
        group.append(lanes)
    if group:
        yield group, "add"


def _instruction(
    turns: list[list[Lane]], spread: int, accumulate: str, common: dict[str, Any]
) -> Pass:
    """One instruction; each turn covers ``spread`` columns before the next turn begins."""
    (rows, columns), dst, src = common["grid"], common["dst_step"], common["src_step"]
    moves = np.arange(spread)[:, None] * np.array([dst[1], src[1], 0])
    lanes = np.array(turns, np.int64)[:, None] + moves[:, None]
    return Pass(
        "gemm",
        lanes.reshape(-1, 3),
        grid=(rows, columns // spread),
        dst_step=(dst[0], dst[1] * spread),
        src_step=(src[0], src[1] * spread),
        mode=common["mode"],
        accumulate=accumulate,
    )
