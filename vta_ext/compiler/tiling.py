"""Tile sizes: of all that fit half of each buffer, the one with the least estimated time.

The estimate is the larger of the time to compute and the time to move the bytes, plus a little
for each step; the memory port moves eight bytes a cycle. Only the order of candidates matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vta_ext.compiler.builder import Budget
from vta_ext.compiler.layers import Layer, MatrixTerm, Pair, Term, Window
from vta_ext.compiler.refusal import RefusedError
from vta_ext.config import Config

#: Bytes a cycle of the memory port that the estimate assumes.
PORT_BYTES: Final = 8
#: Cycles that each step costs beyond its passes: latency of loads that nothing hides.
STEP_CYCLES: Final = 150
#: Cycles from the end of a store to the arrival of what reads it.
TURN_CYCLES: Final = 400
#: Cycles that an instruction of the matrix unit costs beyond its micro-ops.
PASS_CYCLES: Final = 8


@dataclass(frozen=True)
class Tiling:
    """Rows, columns and blocks of output channels of a tile; blocks of input channels of a step.

    ``inputs``: one number for each term. ``spatial_first``: whether all positions of one group of
    output channels come before the next group.
    """

    rows: int
    columns: int
    outputs: int
    inputs: tuple[int, ...]
    spatial_first: bool


def span(window: Window, tile: Pair, first: Pair = (0, 0)) -> tuple[Pair, Pair]:
    """First and last input row and column that outputs ``first`` on, ``tile`` many, read."""
    ends: list[Pair] = []
    for axis in (0, 1):
        step, stride = window.step[axis], window.stride[axis]
        low, high = [], []
        for phase in window.phases:
            begin = first[axis] // step
            count = -(-(tile[axis] - phase.start[axis]) // step)
            taps = [tap[axis] for tap in phase.taps]
            if count > 0 and taps:
                low.append(stride * begin + min(taps))
                high.append(stride * (begin + count - 1) + max(taps))
        ends.append((min(low), max(high)) if low else (0, 0))
    return ends[0], ends[1]


def needs_second_area(layer: Layer) -> bool:
    """Whether a term must be summed apart from the others before it is added."""
    apart = [is_apart(term) for term in layer.terms]
    return any(apart[1:]) or any(summed_apart(term) for term in layer.terms)


def is_apart(term: Term) -> bool:
    """Whether the accumulators of a term are changed before they are added to others."""
    multiplied = isinstance(term, MatrixTerm) and term.multiplier is not None
    return bool(term.shift.any()) or multiplied or summed_apart(term)


def summed_apart(term: Term) -> bool:
    """Whether a term is summed in a second area even where it is the first one."""
    if isinstance(term, MatrixTerm):
        return term.factor is not None
    return bool(term.factors)


def choose(layer: Layer, vectors: int, config: Config) -> Tiling:
    """The tiling of a layer with ``vectors`` constants a block of output channels.

    Raises RefusedError where no tile fits this machine.
    """
    best = min(tilings_of(layer, vectors, config), default=None, key=lambda pair: pair[0])
    if best is None:
        raise RefusedError(
            layer.name,
            f"it does not fit the buffers ({config.depths}); choose a configuration with larger "
            "ones",
        )
    return best[1]


def tilings_of(layer: Layer, vectors: int, config: Config) -> Iterator[tuple[float, Tiling]]:
    """All tilings that fit the machine, each behind its estimated cycles; see :func:`choose`."""
    return _Search(layer, vectors, config).candidates()


class _Search:
    def __init__(self, layer: Layer, vectors: int, config: Config) -> None:
        self.layer, self.vectors, self.config = layer, vectors, config
        self.budget = Budget.of(config)
        self.areas = 2 if needs_second_area(layer) else 1
        self.blocks = layer.output.blocks(config.block)

    def candidates(self) -> Iterator[tuple[float, Tiling]]:
        """Tilings that fit, with their costs."""
        output = self.layer.output
        step_y = max(term.window.step[0] for term in self.layer.terms)
        step_x = max(term.window.step[1] for term in self.layer.terms)
        for outputs in _parts(self.blocks, 1):
            for rows in _parts(output.height, step_y):
                for columns in _parts(output.width, step_x):
                    if self.areas * outputs * rows * columns > self.budget.acc:
                        continue
                    if outputs * self.vectors > self.budget.const:
                        continue
                    inputs = self._inputs((rows, columns), outputs)
                    if inputs is not None:
                        for first in (True, False):
                            tiling = Tiling(rows, columns, outputs, inputs, first)
                            yield self._cost(tiling), tiling

    def _inputs(self, tile: Pair, outputs: int) -> tuple[int, ...] | None:
        """The most blocks of input channels of a step, for each term; None where none fits."""
        found = []
        for term in self.layer.terms:
            area = self._area(term, tile)
            if not isinstance(term, MatrixTerm):
                taps = len(term.window.phases[0].taps)
                if area * outputs > self.budget.inp or taps * outputs > self.budget.wgt:
                    return None
                found.append(outputs)
                continue
            weights = term.weights.shape[0] * term.weights.shape[1] * outputs
            most = min(self.budget.inp // area, self.budget.wgt // weights)
            if not most:
                return None
            blocks = term.source.blocks(self.config.block)
            found.append(-(-blocks // -(-blocks // most)))
        return tuple(found)

    def _area(self, term: Term, tile: Pair) -> int:
        rows, columns = span(term.window, tile)
        return (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1)

    def _cost(self, t: Tiling) -> float:
        output = self.layer.output
        down, across = -(-output.height // t.rows), -(-output.width // t.columns)
        places, groups = down * across, -(-self.blocks // t.outputs)
        positions = output.height * output.width * self.blocks
        cycles, moved, steps = float(positions), 0.0, 0
        padded = places * t.rows * t.columns * self.blocks
        moved += padded * self.config.inp_bytes
        first = 0.0
        for term, inputs in zip(self.layer.terms, t.inputs, strict=True):
            area = self._area(term, (t.rows, t.columns)) * self.config.inp_bytes
            if not isinstance(term, MatrixTerm):
                moved += places * self.blocks * area
                cycles += positions * len(term.window.phases[0].taps)
                steps += places * groups
                first += area * t.outputs
                continue
            blocks = term.source.blocks(self.config.block)
            chunks = -(-blocks // inputs)
            taps, planes = term.weights.shape[:2]
            element = self.config.code_bytes if term.mode == "shift" else self.config.wgt_bytes
            weights = taps * planes * blocks * self.blocks * element
            kept_weights = chunks == 1 and (t.spatial_first or groups == 1)
            kept_inputs = chunks == 1 and (not t.spatial_first or places == 1)
            moved += weights * (1 if kept_weights else places)
            moved += places * blocks * area * (1 if kept_inputs else groups)
            first += area * inputs + weights / groups / chunks
            cycles += positions * planes * taps * blocks / len(term.window.phases)
            steps += places * groups * chunks
            cycles += PASS_CYCLES * 2 * places * groups * chunks
        # The first loads and the last store overlap with nothing, in a network too where the
        # first tile of the next layer reads the last one of this: two tiles and a border do.
        ends = (first + t.outputs * t.rows * t.columns * self.config.out_bytes) / PORT_BYTES
        if down < 3 or groups > 1:
            ends += TURN_CYCLES
        return max(cycles, moved / PORT_BYTES) + steps * STEP_CYCLES + ends


def _parts(size: int, multiple: int) -> list[int]:
    """Sizes of parts that divide ``size`` as evenly as possible, in multiples of ``multiple``."""
    units = -(-size // multiple)
    found = {-(-units // count) for count in range(1, units + 1)}
    return sorted(min(part * multiple, size) for part in found)
