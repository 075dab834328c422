"""The inputs of a tile: what to load of a map, with padding, as few LOADs as can say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vta_ext.compiler.layers import MatrixTerm, Tensor, Term
from vta_ext.compiler.place import Place
from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.tiles import Fetch, Move
from vta_ext.compiler.tiling import span
from vta_ext.config import Config
from vta_ext.isa.access import MAX_PAD


@dataclass(frozen=True)
class Memory:
    """Where things are in DRAM: ``tensors`` maps names to bytes; ``made`` names those that the
    program itself makes.
    """

    tensors: Mapping[str, int]
    made: frozenset[str]


@dataclass(frozen=True)
class Inputs:
    """Fetches of the inputs of the layer of that name."""

    layer: str
    memory: Memory
    config: Config

    def fetch(
        self, term: Term, place: Place, blocks: tuple[int, int], fine: bool
    ) -> tuple[Fetch, tuple[int, int, int, int]]:
        """The fetch of input blocks (first, count) of a tile, and its rows and columns.

        ``fine``: a load for each block.
        """
        rows, columns = span(term.window, (place.rows, place.columns), (place.y, place.x))
        source, (first, count) = term.source, blocks
        height, width = rows[1] - rows[0] + 1, columns[1] - columns[0] + 1
        least = not isinstance(term, MatrixTerm) and term.operation == "max"
        moves = self._moves(source, rows, columns, blocks, least and not source.unsigned, fine)
        reads = frozenset({source.name}) & self.memory.made
        key = (source.name, source.rows, rows, columns, first, count, least)
        fetch = Fetch(key, count * height * width, tuple(moves), reads)
        return fetch, (rows[0], columns[0], height, width)

    def _moves(
        self,
        source: Tensor,
        rows: tuple[int, int],
        columns: tuple[int, int],
        blocks: tuple[int, int],
        least: bool,
        fine: bool,
    ) -> Iterator[Move]:
        top, bottom = max(-rows[0], 0), max(rows[1] - source.height + 1, 0)
        left, right = max(-columns[0], 0), max(columns[1] - source.width + 1, 0)
        height, width = rows[1] - rows[0] + 1, columns[1] - columns[0] + 1
        inside = (height - top - bottom, width - left - right)
        first, count = blocks
        if min(inside) < 1 and height <= 2 * MAX_PAD:
            # Nothing but padding: no rows, padded above and below.
            around = (min(height, MAX_PAD), max(height - MAX_PAD, 0))
            for block in range(count):
                place = block * height * width
                yield Move("inp", place, 0, width, 0, None, around, pad_least=least)
            return
        if max(top, bottom, left, right) > MAX_PAD or min(inside) < 1:
            raise RefusedError(
                self.layer,
                f"it needs a padding of {max(top, bottom, left, right)} around a tile, but a load "
                f"can pad {MAX_PAD} around what it reads",
            )
        skipped, step, all_rows = source.rows
        plane, pitch = all_rows * source.width, step * source.width
        base = self.memory.tensors[source.name] // self.config.inp_bytes
        start = base + skipped * source.width + (rows[0] + top) * pitch + columns[0] + left
        unsigned, full = source.unsigned, inside == (height, source.width) and not (left or right)
        if full and step == 1 and plane < 1 << 16 and not fine:
            at = start + first * plane
            yield Move("inp", 0, at, height * width, count, plane, unsigned=unsigned)
            return
        for block in range(count):
            yield Move(
                "inp",
                block * height * width,
                start + (first + block) * plane,
                inside[1],
                inside[0],
                pitch,
                (top, bottom),
                (left, right),
                unsigned,
                least,
            )
