"""Steps to instructions: places in buffers, micro-op kernels, order of loads and passes.

Each buffer has two halves. What a step needs stays in one while the loads of the next step fill
the other; a fetch that is there already is not repeated. Micro-ops of a step are one kernel,
which all steps that run it share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vta_ext.compiler.kernels import Kernels
from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.tiles import Fetch, Move, Out, Pass, Step
from vta_ext.compiler.tokens import Entry
from vta_ext.config import Config
from vta_ext.isa.instruction import MicroOps, alu, gemm, load, store

#: Micro-ops of a step besides those of its weights.
_OTHER_MICRO_OPS = 64


@dataclass(frozen=True)
class Budget:
    """Entries that one step may use of each buffer: half of it, so that the next step has room.

    The end of the accumulator buffer holds vectors of constants.
    """

    inp: int
    wgt: int
    acc: int
    const: int

    @classmethod
    def of(cls, config: Config) -> Budget:
        """The budget of a machine."""
        const = config.acc_depth // 32
        return cls(
            inp=config.inp_depth // 2,
            # Each weight has a micro-op, and half the micro-op buffer must hold all of a step.
            wgt=min(config.wgt_depth // 2, config.uop_depth // 2 - _OTHER_MICRO_OPS),
            acc=config.acc_depth // 2 - const,
            const=const,
        )


class _Halves:
    """Which fetch is in which half of a buffer."""

    def __init__(self, base: int, size: int) -> None:
        self._bases = (base, base + size)
        self._size = size
        self._keys: list[Hashable] = [None, None]
        self._last = 1

    def place(self, key: Hashable, size: int, what: str) -> tuple[int, bool]:
        """Where ``key`` goes, and whether it has to be put there."""
        if size > self._size:
            raise RefusedError(
                what,
                f"it needs {size} entries of a buffer in which a step has {self._size}; choose a "
                "configuration with larger buffers",
            )
        if key in self._keys:
            self._last = self._keys.index(key)
            return self._bases[self._last], False
        self._last = 1 - self._last
        self._keys[self._last] = key
        return self._bases[self._last], True

    def forget(self) -> None:
        """Nothing is in the buffer any more."""
        self._keys = [None, None]


@dataclass(frozen=True)
class Counters:
    """Micro-op kernels, the loads that bring them and their further uses; likewise fetches."""

    kernels: int
    kernel_loads: int
    kernel_hits: int
    fetches: int
    fetch_hits: int


@dataclass
class _Placed:
    """Where the parts of a step are."""

    inp: int | None = None
    wgt: int | None = None


@dataclass
class Builder:
    """Makes instructions of steps; ``kernels_at`` is the element of DRAM of the first micro-op."""

    config: Config
    kernels_at: int = 0
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.budget = b = Budget.of(self.config)
        self._inp, self._wgt = _Halves(0, b.inp), _Halves(0, b.wgt)
        self._acc, self._const = _Halves(0, b.acc), _Halves(2 * b.acc, b.const)
        self.kernels = Kernels(self.config.uop_depth, self.kernels_at)
        self._label = ""
        self._fetches = self._fetch_hits = 0

    @property
    def counters(self) -> Counters:
        """What became of kernels and fetches."""
        kernels = self.kernels
        return Counters(
            kernels.count, len(kernels.segments), kernels.hits, self._fetches, self._fetch_hits
        )

    def run(self, steps: Sequence[Step]) -> None:
        """Add the instructions of ``steps``; the loads of one go before the passes of the last."""
        placed = [_Placed() for _ in steps]
        #: Stores of each tensor that have not been issued.
        waiting: dict[str, deque[Out]] = {}
        for step in steps:
            waiting.setdefault(step.writes, deque()).extend(step.stores)
        for number, step in enumerate(steps):
            self._label = step.label
            self._fetch(step, placed[number], waiting)
            if number + 1 < len(steps):
                self._fetch(steps[number + 1], placed[number + 1], waiting)
            self._compute(step, placed[number])
            for _ in step.stores:
                waiting[step.writes].popleft()

    def _fetch(self, step: Step, placed: _Placed, waiting: Mapping[str, Iterable[Out]]) -> None:
        """Load what ``step`` needs, but not what an earlier step still has to make."""
        if step.weights is not None and placed.wgt is None:
            placed.wgt = self._load(self._wgt, step.weights, step.label)
        if step.inputs is not None and placed.inp is None:
            missing = (out for name in step.inputs.reads for out in waiting.get(name, ()))
            if not any(_overlap(out, move) for out in missing for move in step.inputs.moves):
                placed.inp = self._load(self._inp, step.inputs, step.label)

    def _load(self, halves: _Halves, fetch: Fetch, what: str) -> int:
        base, missing = halves.place(fetch.key, fetch.size, what)
        self._fetches += missing
        self._fetch_hits += not missing
        for move in fetch.moves if missing else ():
            self._add(
                load(
                    move.memory,
                    sram_base=base + move.place,
                    dram_base=move.dram,
                    x_size=move.columns,
                    y_size=move.rows,
                    x_stride=move.stride,
                    y_pad=move.y_pad,
                    x_pad=move.x_pad,
                    unsigned=move.unsigned,
                    pad_least=move.pad_least,
                )
            )
        return base

    def _add(self, instruction: object, rows: MicroOps | None = None) -> None:
        self.entries.append(Entry(instruction, rows, self._label))  # type: ignore[arg-type]

    def _compute(self, step: Step, placed: _Placed) -> None:
        bases = {"inp": placed.inp or 0, "wgt": placed.wgt or 0}
        bases["acc"], _ = self._acc.place(step.tile, step.accumulators, step.label)
        if step.constants is not None:
            bases["const"] = self._load(self._const, step.constants, step.label)
        kernel = [self._lower(one, bases) for one in step.passes]
        begin = 0
        if kernel:
            begin, segment = self.kernels.place(np.concatenate(kernel), step.label)
            self.entries += [segment] if segment else []
        for one, rows in zip(step.passes, kernel, strict=True):
            self._issue(one, rows, begin, bases["wgt"])
            begin += len(rows)
        for out in step.stores:
            self._store(out, bases["acc"])

    def _lower(self, one: Pass, bases: dict[str, int]) -> MicroOps:
        """The micro-ops of a pass, in their places."""
        # Rows of codes are reached by the immediate; other operations of the ALU have no weight.
        weight = bases["wgt"] if one.operation == "gemm" else 0
        lanes = one.lanes + np.array([bases["acc"], bases[one.source], weight])
        return lanes.astype(np.int32)

    def _issue(self, one: Pass, rows: MicroOps, begin: int, weights: int) -> None:
        uops = (begin, begin + len(rows))
        if one.operation == "gemm":
            instruction = gemm(
                one.mode,
                uops=uops,
                loops=one.grid,
                dst=one.dst_step,
                src=one.src_step,
                accumulate=one.accumulate,
            )
        else:
            immediate: dict[str, Any] = dict(one.immediate)
            if one.operation == "lsa":
                immediate["row"] += weights * self.config.block
            instruction = alu(
                one.operation,
                uops=uops,
                loops=one.grid,
                dst=one.dst_step,
                src=one.src_step,
                from_inp=one.source == "inp" and not _immediate_only(one),
                **immediate,
            )
        self._add(instruction, rows)

    def _store(self, out: Out, base: int) -> None:
        self._add(
            store(
                out.memory,
                sram_base=base + out.place,
                dram_base=out.dram,
                x_size=out.columns,
                y_size=out.rows,
                x_stride=out.stride,
            )
        )


def _overlap(out: Out, move: Move) -> bool:
    """Whether a store and a load of 8-bit elements touch the same memory."""
    stored, loaded = (
        np.arange(part.rows) * (part.stride or part.columns) + part.dram for part in (out, move)
    )
    begin = np.maximum(stored[:, None], loaded)
    end = np.minimum(stored[:, None] + out.columns, loaded + move.columns)
    return bool((begin < end).any())


def _immediate_only(one: Pass) -> bool:
    return one.operation in ("clip", "clipu")
