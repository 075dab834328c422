"""Loops over micro-ops, folded into what one instruction can say: two loops around a kernel.

An instruction adds a constant to each index in each of its two loops. Of all loops around a
micro-op, the two that leave the shortest kernel become the instruction's; the others are unrolled
into it. Where the accumulator pipeline forbids every order, there are several instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.checks.pipeline import hazard
from vta_ext.config import Config
from vta_ext.isa import access
from vta_ext.isa.instruction import Instruction, MicroOps
from vta_ext.isa.layout import instruction_layout

#: dst, src, wgt of every micro-op of a nest of loops: int64 ``[e0, e1, ..., 3]``.
Grid = NDArray[np.int64]
#: Makes the instruction of loops (outer, inner) with their steps of dst, src and wgt.
Maker = Callable[["Folded"], Instruction]

#: The columns of a grid.
OPERANDS: Final = ("dst", "src", "wgt")


@dataclass(frozen=True, eq=False)
class Folded:
    """One instruction: a kernel ``[n, 3]``, iterations of both loops and what each of them adds.

    steps: int64 ``[2, 3]``: outer and inner, of dst, src and wgt.
    """

    rows: MicroOps
    loops: tuple[int, int]
    steps: NDArray[np.int64]

    def arguments(self, *names: str) -> dict[str, Any]:
        """``loops`` and the steps of the operands as arguments of an instruction's constructor."""
        found = {name: self.steps[:, OPERANDS.index(name)].tolist() for name in names}
        return {"loops": self.loops, **{name: tuple(step) for name, step in found.items()}}


@dataclass(frozen=True, eq=False)
class _Axis:
    """A loop: its extent, and what an iteration adds to dst, src, wgt; None: not always as much."""

    position: int
    extent: int
    step: tuple[int, ...] | None


def fold(
    grid: Grid, make: Maker, config: Config, fixed: tuple[str, ...] = ()
) -> Iterator[tuple[Folded, Instruction]]:
    """The instructions of a nest, with their kernels.

    Micro-ops may run in any order: the grid must write each accumulator once, or add to it.
    ``fixed`` names operands that loops of the instruction do not move.
    Raises ProgramError for an index outside its buffer.
    """
    grid = _merged(np.asarray(grid, np.int64))
    for candidate in _candidates(grid, config, fixed):
        instruction = make(candidate)
        if _runs(candidate, instruction, config):
            found = access.operands(instruction, candidate.rows, config)
            access.check_operands(found, candidate.loops)
            yield candidate, instruction
            return
    axis = _split_axis(grid)
    if axis is None:
        raise ProgramError(f"micro-op {grid.tolist()} (dst, src, wgt) cannot run on this machine")
    half = grid.shape[axis] // 2
    for part in np.split(grid, [half], axis=axis):
        yield from fold(part, make, config, fixed)


def _step(grid: Grid, axis: int) -> tuple[int, ...] | None:
    """What one iteration of a loop adds, where it is the same everywhere."""
    moved = np.diff(grid, axis=axis).reshape(-1, 3)
    return tuple(moved[0].tolist()) if (moved == moved[0]).all() else None


def _merged(grid: Grid) -> Grid:
    """The grid without loops of one iteration; neighbours that go on as one loop are one."""
    grid = grid.reshape(*(extent for extent in grid.shape[:-1] if extent > 1), 3)
    axis = 0
    while axis + 1 < grid.ndim - 1:
        outer, inner = _step(grid, axis), _step(grid, axis + 1)
        extent = grid.shape[axis + 1]
        if outer and inner and outer == tuple(extent * one for one in inner):
            shape = (*grid.shape[:axis], -1, *grid.shape[axis + 2 :])
            grid = grid.reshape(shape)
        else:
            axis += 1
    return grid


def _ascending(grid: Grid) -> Grid:
    """Loops that count down run upwards instead, since steps have no sign."""
    for axis in range(grid.ndim - 1):
        step = _step(grid, axis)
        if step is not None and max(step) <= 0 > min(step):
            grid = np.flip(grid, axis)
    return grid


def _candidates(grid: Grid, config: Config, fixed: tuple[str, ...]) -> Iterator[Folded]:
    """Ways to fold, the shortest kernel first; loops that leave src alone are the inner ones."""
    grid = _ascending(grid)
    axes = [_Axis(n, grid.shape[n], _step(grid, n)) for n in range(grid.ndim - 1)]
    still = [OPERANDS.index(name) for name in fixed]
    usable = [
        axis
        for axis in axes
        if axis.step is not None
        and min(axis.step) >= 0
        and not any(axis.step[column] for column in still)
    ]
    pairs: list[tuple[_Axis, ...]] = [*permutations(usable, 2), *((a,) for a in usable), ()]
    total = prod(axis.extent for axis in axes)
    ways = []
    for chosen in pairs:
        size = total // prod(axis.extent for axis in chosen)
        # A kernel and the one before it are both in the buffer.
        if size <= max(config.uop_depth // 2, 1):
            moves = chosen[-1].step[1] if chosen and chosen[-1].step else 0
            ways.append((size, moves != 0, chosen))
    for _, _, chosen in sorted(ways, key=lambda way: way[:2]):
        yield _fold(grid, axes, chosen)


def _fold(grid: Grid, axes: list[_Axis], chosen: tuple[_Axis, ...]) -> Folded:
    # The kernel's own loops: those that add to one accumulator are the outer ones.
    rest = [axis for axis in axes if axis not in chosen]
    rest.sort(key=lambda axis: axis.step is None or axis.step[0] != 0)
    order = [axis.position for axis in (*chosen, *rest)]
    kernel = grid.transpose(*order, -1)[(0,) * len(chosen)].reshape(-1, 3)
    loops, steps = [1, 1], np.zeros((2, 3), np.int64)
    for place, axis in zip((1,) if len(chosen) == 1 else (0, 1), chosen, strict=False):
        assert axis.step is not None
        loops[place], steps[place] = axis.extent, axis.step
    return Folded(kernel.astype(np.int32), (loops[0], loops[1]), steps)


def _runs(folded: Folded, instruction: Instruction, config: Config) -> bool:
    """Whether the machine can encode the instruction and its pipeline stays in order."""
    values = instruction.to_dict()
    fields = instruction_layout(instruction.kind, config).by_name
    if any(values.get(name, 0) > bits.greatest for name, bits in fields.items()):
        return False
    if access.micro_op_count(instruction) > access.MAX_MICRO_OPS:
        return False
    found = access.operands(instruction, folded.rows, config)
    index = {name: operand.indices(folded.loops) for name, operand in found.items()}
    return not hazard(instruction, index, found, config)


def _split_axis(grid: Grid) -> int | None:
    """The loop to cut in two: one that adds to the same accumulators, or else the longest."""
    axes = range(grid.ndim - 1)
    sums = [n for n in axes if not np.diff(grid[..., 0], axis=n).any()]
    return max(sums or axes, key=lambda n: grid.shape[n], default=None)
