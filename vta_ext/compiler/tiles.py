"""The tile program: loads, passes and stores of one tile, with places relative to its buffers.

Whatever schedules a layer makes a list of steps; :mod:`vta_ext.compiler.builder` turns any such
list into instructions. Places in buffers are relative, so that a step runs in either half.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
#: int64 ``[n, 3]``: dst, src, wgt of one micro-op each.
Lanes = NDArray[np.int64]


def one_lane(dst: int = 0, src: int = 0, wgt: int = 0) -> Lanes:
    """One micro-op, which the loops repeat."""
    return np.array([[dst, src, wgt]], np.int64)


@dataclass(frozen=True)
class Rows:
    """Rows of ``columns`` elements, from element ``dram`` and entry ``place`` of a buffer on."""

    memory: str
    place: int
    dram: int
    columns: int
    rows: int = 1
    stride: int | None = None

    def transfer(self, base: int) -> dict[str, Any]:
        """What LOAD and STORE take alike; ``base``: the entry that places count from."""
        return {
            "sram_base": base + self.place,
            "dram_base": self.dram,
            "x_size": self.columns,
            "y_size": self.rows,
            "x_stride": self.stride,
        }


@dataclass(frozen=True)
class Move(Rows):
    """One LOAD: rows from element ``dram`` on to entry ``place`` of its fetch."""

    y_pad: Pair = (0, 0)
    x_pad: Pair = (0, 0)
    unsigned: bool = False
    pad_least: bool = False


@dataclass(frozen=True)
class Fetch:
    """What a step needs in a buffer. Fetches of one ``key`` hold the same: loaded once."""

    key: Hashable
    size: int
    moves: tuple[Move, ...]
    #: Names of the tensors it reads that the program itself makes.
    reads: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Pass:
    """One instruction of the compute module: ``lanes`` repeated over a grid of positions.

    operation: gemm, or an operation of the ALU. dst counts from the tile's accumulators; src from
    ``source``: the inputs (inp), the tile's accumulators (acc) or its constants (const). Steps are
    what one row and one column of the grid add.
    """

    operation: str
    lanes: Lanes
    grid: Pair = (1, 1)
    dst_step: Pair = (0, 0)
    src_step: Pair = (0, 0)
    source: str = "inp"
    mode: str = ""
    accumulate: str = "add"
    immediate: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Out(Rows):
    """One STORE of ``memory`` (out or acc) from accumulator ``place`` of the tile.

    It goes after pass number ``after`` of the step, or after all of them.
    """

    after: int | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One unit of the pipeline. Steps of one ``tile`` add to the same accumulators.

    Weights fill the weight buffer, ``inputs`` the input buffer, ``constants`` vectors of 32 bits
    in the accumulator buffer. ``writes`` is the tensor that the stores fill.
    """

    label: str
    tile: Hashable
    accumulators: int
    passes: tuple[Pass, ...]
    inputs: Fetch | None = None
    weights: Fetch | None = None
    constants: Fetch | None = None
    stores: tuple[Out, ...] = ()
    writes: str = ""
