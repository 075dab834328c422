"""Layers to steps: loops over tiles, the passes of each term, bias and requantisation, stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from vta_ext.compiler import matrix, pool
from vta_ext.compiler.builder import Budget
from vta_ext.compiler.constants import Constants, term_vectors
from vta_ext.compiler.layers import Layer, MatrixTerm, Term, without_skipped_rows
from vta_ext.compiler.loads import Inputs, Memory
from vta_ext.compiler.place import Place
from vta_ext.compiler.tiles import Fetch, Move, Out, Pass, Step, one_lane
from vta_ext.compiler.tiling import Tiling, choose, is_apart, needs_second_area, summed_apart
from vta_ext.config import Config

#: Arguments of passes that share them.
Grid = dict[str, Any]

#: Results of the last tile of all: nothing hides the time to store them.
LAST_RESULTS = 256


def schedule(
    layer: Layer,
    constants: Constants,
    memory: Memory,
    config: Config,
    tiling: Tiling | None = None,
    last: bool = False,
) -> list[Step]:
    """The steps of one layer, with a tiling that fits; None takes the one of the least estimate.

    Nothing comes after the ``last`` one that could hide its end. Raises RefusedError, naming the
    layer, where it does not fit.
    """
    return list(_Schedule(layer, constants, memory, config, tiling).steps(last))


def ordered(layer: Layer) -> Layer:
    """The layer as it is scheduled, and tilings are chosen for.

    Terms whose sums are shifted come first: the first one needs no area of its own. Then come
    those that need one in any case.
    """
    terms = tuple(
        without_skipped_rows(term, layer.output.height) if isinstance(term, MatrixTerm) else term
        for term in sorted(layer.terms, key=lambda term: (not is_apart(term), summed_apart(term)))
    )
    return Layer(layer.name, layer.output, terms, layer.finish, layer.clip)


def vectors_of(layer: Layer, config: Config) -> int:
    """Vectors of constants of a block of output channels, at least one."""
    return max(len(term_vectors(ordered(layer), config)[1]), 1)


class _Schedule:
    def __init__(
        self,
        layer: Layer,
        constants: Constants,
        memory: Memory,
        config: Config,
        tiling: Tiling | None,
    ) -> None:
        self.layer = ordered(layer)
        self.constants, self.memory, self.config = constants, memory, config
        self.inputs = Inputs(layer.name, memory, config)
        self.fused = "req" in config.alu_ops
        self.vectors, self.rows = term_vectors(self.layer, config)
        self.second = needs_second_area(self.layer)
        self.tiling = tiling or choose(self.layer, max(len(self.rows), 1), config)
        self.matrices = {
            number: matrix.prepare(layer.name, number, term, config)
            for number, term in enumerate(self.layer.terms)
            if isinstance(term, MatrixTerm)
        }
        #: Whether the vectors of all output channels are loaded at once.
        blocks = layer.output.blocks(config.block)
        self.together = len(self.rows) * blocks <= Budget.of(config).const
        self.vectors_at = constants.vectors(self.rows, config) if len(self.rows) else 0

    def steps(self, last: bool) -> Iterator[Step]:
        """All steps of the layer, tile by tile."""
        places = list(self._places())
        if last:
            places = [*places[:-1], *_ending(places[-1])]
        for number, place in enumerate(places):
            yield from self._tile(place, number == 0, number == len(places) - 1)

    def _places(self) -> Iterator[Place]:
        t, output = self.tiling, self.layer.output
        blocks = output.blocks(self.config.block)
        groups = [(o, min(t.outputs, blocks - o)) for o in range(0, blocks, t.outputs)]
        spots = [
            (y, x, min(t.rows, output.height - y), min(t.columns, output.width - x))
            for y in range(0, output.height, t.rows)
            for x in range(0, output.width, t.columns)
        ]
        if t.spatial_first:
            yield from (Place(*spot, *group) for group in groups for spot in spots)
        else:
            yield from (Place(*spot, *group) for spot in spots for group in groups)

    def _tile(self, place: Place, fine: bool, last: bool) -> Iterator[Step]:
        """The steps of a tile.

        ``fine``: its passes begin as soon as one input block is there; ``last``: what one output
        block has is stored while the next one is finished.
        """
        parts: list[tuple[Fetch | None, Fetch | None, list[Pass]]] = []
        for number, term in enumerate(self.layer.terms):
            parts += self._term(number, term, place, fine and number == 0)
        blocks = range(place.output, place.output + place.outputs)
        ends = [replace(place, output=o, outputs=1) for o in blocks] if last else [place]
        finish = [[*self._finish(end, place)] for end in ends]
        before = len(parts[-1][2]) - 1
        stores: list[Out] = []
        for end, own in zip(ends, finish, strict=True):
            before += len(own)
            at = (end.output - place.output) * place.positions
            stores += (
                replace(out, place=out.place + at, after=before if last else None)
                for out in self._stores(end)
            )
        size = place.positions * place.outputs * (2 if self.second else 1)
        for position, (inputs, weights, passes) in enumerate(parts):
            final = position == len(parts) - 1
            chosen = tuple(chain(passes, *finish)) if final else tuple(passes)
            yield Step(
                label=self.layer.name,
                tile=(self.layer.name, place),
                accumulators=size,
                passes=chosen,
                inputs=inputs,
                weights=weights,
                constants=self._vectors(place) if _reads_constants(chosen) else None,
                stores=tuple(stores) if final else (),
                writes=self.layer.output.name,
            )

    def _vectors(self, place: Place) -> Fetch | None:
        """The constants of all output channels, or of a tile's."""
        if not len(self.rows):
            return None
        first = place.output - self._first_vectors(place)
        blocks = self.layer.output.blocks(self.config.block) if self.together else place.outputs
        count = len(self.rows) * blocks
        start = self.vectors_at // self.config.acc_bytes + first * len(self.rows)
        return Fetch((self.layer.name, "vectors", first), count, (Move("acc", 0, start, count),))

    def _first_vectors(self, place: Place) -> int:
        """Output blocks whose vectors come before those of ``place`` in the buffer."""
        return place.output if self.together else 0

    def _term(
        self, number: int, term: Term, place: Place, fine: bool
    ) -> list[tuple[Fetch | None, Fetch | None, list[Pass]]]:
        """(inputs, weights, passes) of the steps of one term."""
        apart = summed_apart(term) or (number > 0 and is_apart(term))
        area = place.positions * place.outputs if apart else 0
        fresh = apart or number == 0
        found: list[tuple[Fetch | None, Fetch | None, list[Pass]]] = []
        if isinstance(term, MatrixTerm):
            prepared = self.matrices[number]
            begin, end = prepared.reads(place)
            for first in range(begin, end, self.tiling.inputs[number]):
                count = min(self.tiling.inputs[number], end - first)
                inputs, box = self.inputs.fetch(term, place, (first, count), fine)
                weights, slots = prepared.fetch(place, (first, count), self.constants, fine)
                passes = matrix.passes(
                    prepared,
                    place,
                    (first, count),
                    box,
                    slots,
                    area,
                    fresh and first == begin,
                    fine,
                )
                found.append((inputs, weights, passes))
        else:
            inputs, box = self.inputs.fetch(term, place, (place.output, place.outputs), fine)
            found.append((inputs, None, pool.passes(term, place, box, area, fresh)))
        slot = len(slots) if isinstance(term, MatrixTerm) else 0
        found[-1][2].extend(self._settle(number, term, place, area, slot))
        return found

    def _settle(
        self, number: int, term: Term, place: Place, area: int, slot: int
    ) -> Iterator[Pass]:
        """Shift and factor of a term whose sum is at ``area``, and the addition to the others.

        slot: entry of the weights where the factor's codes begin.
        """
        grid: Grid = {"grid": (place.outputs, place.positions), "dst_step": (place.positions, 1)}
        for operation in ("mul", "shr"):
            if (number, operation) in self.vectors:
                vector = {**grid, "src_step": (len(self.rows), 0), "source": "const"}
                row = self._first_vectors(place) * len(self.rows)
                row += self.vectors[number, operation]
                yield Pass(operation, one_lane(area, row), **vector)
        if not area:
            return
        lane = one_lane(0, area)
        moving = {**grid, "src_step": (place.positions, 1), "source": "acc"}
        if isinstance(term, MatrixTerm) and term.factor is not None:
            prepared = self.matrices[number]
            yield from prepared.factor_passes(place, number == 0, area, slot)
        elif not isinstance(term, MatrixTerm) and term.factors:
            yield from pool.reciprocal_passes(term, place, area, number == 0)
        else:
            if "sha" in self.config.alu_ops:
                moving["immediate"] = {"shift": 0, "replace": int(number == 0)}
            yield Pass("sha" if "sha" in self.config.alu_ops else "add", lane, **moving)

    def _finish(self, place: Place, tile: Place) -> Iterator[Pass]:
        """Bias, shift and limits of the output blocks of ``place`` in a tile.

        Output blocks are the outer loop: their vectors are read once.
        """
        at = (place.output - tile.output) * place.positions
        grid: Grid = {"grid": (place.outputs, place.positions), "dst_step": (place.positions, 1)}
        finish, unsigned = self.layer.finish, self.layer.output.unsigned
        if finish is not None:
            vector = {**grid, "src_step": (len(self.rows), 0), "source": "const"}
            first = self._first_vectors(tile) + place.output - tile.output
            lane = one_lane(at, first * len(self.rows))
            if finish.limits is None or not self.fused:
                yield Pass("add", lane, **vector)
            if finish.limits is not None and not self.fused:
                yield Pass("shr", lane + np.array([0, 1, 0]), **vector)
                yield from self._limited(at, finish.limits, grid)
            elif finish.limits is not None:
                immediate = dict(zip(("lo", "hi"), finish.limits, strict=True))
                yield Pass("requ" if unsigned else "req", lane, immediate=immediate, **vector)
        if self.layer.clip is not None:
            yield from self._limited(at, self.layer.clip, grid)

    def _limited(self, at: int, limits: tuple[int, int], grid: Grid) -> Iterator[Pass]:
        """Limits in one operation, or in VTA's two."""
        name = "clipu" if self.layer.output.unsigned else "clip"
        if name in self.config.alu_ops:
            immediate = dict(zip(("lo", "hi"), limits, strict=True))
            yield Pass(name, one_lane(at), source="acc", immediate=immediate, **grid)
            return
        for operation, limit in zip(("max", "min"), limits, strict=True):
            yield Pass(operation, one_lane(at), source="acc", immediate={"imm": limit}, **grid)

    def _stores(self, place: Place) -> Iterator[Out]:
        output = self.layer.output
        wide = output.dtype == "int32"
        memory, element = ("acc", self.config.acc_bytes) if wide else ("out", self.config.out_bytes)
        base = self.memory.tensors[output.name] // element
        plane = output.height * output.width
        start = base + place.output * plane + place.y * output.width + place.x
        if place.columns == output.width and plane < 1 << 16:
            yield Out(memory, 0, start, place.positions, place.outputs, plane)
            return
        for block in range(place.outputs):
            at, dram = block * place.positions, start + block * plane
            yield Out(memory, at, dram, place.columns, place.rows, output.width)


def _reads_constants(passes: Sequence[Pass]) -> bool:
    return any(one.source == "const" for one in passes)


def _ending(place: Place) -> list[Place]:
    """The last tile in parts, the last one small: what it stores, nothing can hide."""
    found = []
    while place.outputs > 1 and place.outputs * place.positions > LAST_RESULTS:
        first = place.outputs - place.outputs // 2
        found.append(replace(place, outputs=first))
        place = replace(place, output=place.output + first, outputs=place.outputs - first)
    return [*found, place]
