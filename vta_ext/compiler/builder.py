"""Steps to instructions: places in buffers, micro-op kernels, order of loads and passes.

Loads of the next steps go before the passes of a step, as far as there is room besides what it
needs itself; a fetch that is there already is not repeated. Micro-ops of a step are one kernel,
which all steps that run it share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vta_ext.compiler.residence import Residence
from vta_ext.compiler.tiles import Fetch, Move, Out, Pass, Step
from vta_ext.config import Config
from vta_ext.isa.instruction import MicroOps, alu, gemm, load, store
from vta_ext.jit.cache import CacheCounters, MicroOpCache
from vta_ext.jit.tokens import Entry

#: Steps whose loads may go before the passes of a step.
_AHEAD = 2
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


@dataclass(frozen=True)
class Counters:
    """The cache of micro-op kernels; fetches, and those that were in their buffer already."""

    kernels: CacheCounters
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
        self._inp, self._wgt = Residence(2 * b.inp), Residence(2 * b.wgt)
        self._acc, self._const = Residence(2 * b.acc), Residence(2 * b.const)
        self.kernels = MicroOpCache(self.config, self.kernels_at)
        self._label = ""
        self._fetches = self._fetch_hits = 0

    @property
    def counters(self) -> Counters:
        """What became of kernels and fetches."""
        return Counters(self.kernels.counters, self._fetches, self._fetch_hits)

    def run(self, steps: Sequence[Step]) -> None:
        """Add the instructions of ``steps``; the loads of one go before the passes of the last."""
        placed = [_Placed() for _ in steps]
        #: Stores of each tensor that have not been issued.
        waiting: dict[str, deque[Out]] = {}
        for step in steps:
            waiting.setdefault(step.writes, deque()).extend(step.stores)
        for number, step in enumerate(steps):
            self._label = step.label
            window = range(number, min(number + 1 + _AHEAD, len(steps)))
            kept: list[Step] = []
            for ahead in window:
                kept.append(steps[ahead])
                if not self._fetch(kept, placed[ahead], waiting):
                    break
            self._compute(step, placed[number])
            for _ in step.stores:
                waiting[step.writes].popleft()

    def _fetch(
        self, steps: Sequence[Step], placed: _Placed, waiting: Mapping[str, Iterable[Out]]
    ) -> bool:
        """Load what the last of ``steps`` needs, and leave what the others need; whether it fits.

        What an earlier step still has to make is left for later.
        """
        step = steps[-1]
        if step.weights is not None and placed.wgt is None:
            keys = {one.weights.key for one in steps if one.weights}
            placed.wgt = self._load(self._wgt, step.weights, keys, step.label)
        if step.inputs is not None and placed.inp is None:
            missing = (out for name in step.inputs.reads for out in waiting.get(name, ()))
            if not any(_overlap(out, move) for out in missing for move in step.inputs.moves):
                keys = {one.inputs.key for one in steps if one.inputs}
                placed.inp = self._load(self._inp, step.inputs, keys, step.label)
        return (step.weights is None or placed.wgt is not None) and (
            step.inputs is None or placed.inp is not None
        )

    def _load(
        self, buffer: Residence, fetch: Fetch, kept: Collection[Hashable], what: str, base: int = 0
    ) -> int | None:
        """Where ``fetch`` is, loaded if it is not there; None where there is no room for it."""
        found = buffer.place(fetch.key, fetch.size, kept, what)
        if found is None:
            return None
        begin, missing = found[0] + base, found[1]
        self._fetches += missing
        self._fetch_hits += not missing
        for move in fetch.moves if missing else ():
            self._add(
                load(
                    move.memory,
                    sram_base=begin + move.place,
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
        return begin

    def _add(self, instruction: object, rows: MicroOps | None = None) -> None:
        self.entries.append(Entry(instruction, rows, self._label))  # type: ignore[arg-type]

    def _compute(self, step: Step, placed: _Placed) -> None:
        bases = {"inp": placed.inp or 0, "wgt": placed.wgt or 0}
        tile = self._acc.place(step.tile, step.accumulators, (), step.label)
        assert tile is not None, "nothing is kept, so there is room"
        bases["acc"] = tile[0]
        if step.constants is not None:
            base = 2 * self.budget.acc
            bases["const"] = self._load(self._const, step.constants, (), step.label, base) or 0
        kernel = [self._lower(one, bases) for one in step.passes]
        begin = 0
        if kernel:
            begin, missing = self.kernels.place(np.concatenate(kernel), step.label)
            self.entries += [missing] if missing else []
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
