"""Steps to instructions: places in buffers, micro-op kernels, order of loads and passes.

Loads of the next steps go before the passes of a step, as far as there is room besides what it
needs itself; a fetch that is there already is not repeated. Micro-ops of a step are one kernel,
which all steps that run it share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from vta_ext.compiler.residence import Residence
from vta_ext.compiler.tiles import Fetch, Move, Out, Pass, Step
from vta_ext.config import Config
from vta_ext.isa.instruction import Instruction, MicroOps, alu, gemm, load, store
from vta_ext.jit.cache import CacheCounters, MicroOpCache, Missing
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
        #: Where the instructions of each step that runs a kernel are, after its own loads.
        self._starts: list[int] = []
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
                fits = self._fetch(kept, placed[ahead], waiting)
                if ahead == number and step.passes:
                    self._starts.append(len(self.entries))
                if not fits:
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
        weights: list[Instruction] = []
        inputs: list[Instruction] = []
        if step.weights is not None and placed.wgt is None:
            keys = {one.weights.key for one in steps if one.weights}
            placed.wgt, weights = self._loads(self._wgt, step.weights, keys, step.label)
        if step.inputs is not None and placed.inp is None:
            missing = (out for name in step.inputs.reads for out in waiting.get(name, ()))
            if not any(_overlap(out, move) for out in missing for move in step.inputs.moves):
                keys = {one.inputs.key for one in steps if one.inputs}
                placed.inp, inputs = self._loads(self._inp, step.inputs, keys, step.label)
        # In turns, so that the first passes can begin before everything is there.
        for pair in zip_longest(weights, inputs):
            self._add_all(filter(None, pair))
        return (step.weights is None or placed.wgt is not None) and (
            step.inputs is None or placed.inp is not None
        )

    def _loads(
        self, buffer: Residence, fetch: Fetch, kept: Collection[Hashable], what: str, base: int = 0
    ) -> tuple[int | None, list[Instruction]]:
        """Where ``fetch`` is, and its loads if it is not there; None where there is no room."""
        found = buffer.place(fetch.key, fetch.size, kept, what)
        if found is None:
            return None, []
        begin, missing = found[0] + base, found[1]
        self._fetches += missing
        self._fetch_hits += not missing
        return begin, [_load(move, begin) for move in (fetch.moves if missing else ())]

    def _add(self, instruction: Instruction, rows: MicroOps | None = None) -> None:
        self.entries.append(Entry(instruction, rows, self._label))

    def _add_all(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            self._add(instruction)

    def _compute(self, step: Step, placed: _Placed) -> None:
        bases = {"inp": placed.inp or 0, "wgt": placed.wgt or 0}
        tile = self._acc.place(step.tile, step.accumulators, (), step.label)
        assert tile is not None, "nothing is kept, so there is room"
        bases["acc"] = tile[0]
        constants: list[Instruction] = []
        if step.constants is not None:
            base = 2 * self.budget.acc
            place, constants = self._loads(self._const, step.constants, (), step.label, base)
            bases["const"] = place or 0
        kernel = [self._lower(one, bases) for one in step.passes]
        begin = 0
        if kernel:
            begin, missing = self.kernels.place(np.concatenate(kernel), step.label, _AHEAD)
            if missing is not None:
                self._insert(missing)
        for number, (one, rows) in enumerate(zip(step.passes, kernel, strict=True)):
            if one.source == "const":
                # Not before the products: loads of their data would make it wait longer.
                self._add_all(constants)
                constants = []
            self._issue(one, rows, begin, bases["wgt"])
            begin += len(rows)
            self._store(step, bases["acc"], number)
        self._store(step, bases["acc"], None)

    def _insert(self, missing: Missing) -> None:
        """Add a load of kernels before the loads of the step that it may come before."""
        at = self._starts[missing.before - 1] if missing.before <= len(self._starts) else None
        if not missing.entry.instruction.prefetch or at is None:
            self.entries.append(missing.entry)
            return
        missing.entry.label = self.entries[at - 1].label if at else missing.entry.label
        self.entries.insert(at, missing.entry)
        after = range(missing.before - 1, len(self._starts))
        self._starts[missing.before - 1 :] = [self._starts[n] + 1 for n in after]

    def _lower(self, one: Pass, bases: dict[str, int]) -> MicroOps:
        """The micro-ops of a pass, in their places."""
        # Rows of codes are reached by the immediate; other operations of the ALU have no weight.
        weight = bases["wgt"] if one.operation == "gemm" else 0
        lanes = one.lanes + np.array([bases["acc"], bases[one.source], weight])
        return lanes.astype(np.int32)

    def _issue(self, one: Pass, rows: MicroOps, begin: int, weights: int) -> None:
        loops: dict[str, Any] = {
            "uops": (begin, begin + len(rows)),
            "loops": one.grid,
            "dst": one.dst_step,
            "src": one.src_step,
        }
        if one.operation == "gemm":
            instruction = gemm(one.mode, **loops, accumulate=one.accumulate)
        else:
            immediate: dict[str, Any] = dict(one.immediate)
            if one.operation == "lsa":
                immediate["row"] += weights * self.config.block
            from_inp = one.source == "inp" and not _immediate_only(one)
            instruction = alu(one.operation, **loops, from_inp=from_inp, **immediate)
        self._add(instruction, rows)

    def _store(self, step: Step, base: int, after: int | None) -> None:
        """The stores that go after a pass."""
        self._add_all(
            store(out.memory, **out.transfer(base)) for out in step.stores if out.after == after
        )


def _load(move: Move, begin: int) -> Instruction:
    """A move to the place of its fetch."""
    return load(
        move.memory,
        **move.transfer(begin),
        y_pad=move.y_pad,
        x_pad=move.x_pad,
        unsigned=move.unsigned,
        pad_least=move.pad_least,
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
    return one.operation in ("clip", "clipu") or "imm" in one.immediate
