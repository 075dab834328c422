"""Steps to instructions: places in buffers, micro-op kernels, order of loads and passes.

Each buffer has two halves. What a step needs stays in one while the loads of the next step fill
the other; a fetch that is there already is not repeated. Micro-ops of a step are one kernel, kept
in the micro-op buffer as long as there is room: kernels are shared by all steps that run them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.tiles import Fetch, Out, Pass, Step
from vta_ext.compiler.tokens import Entry
from vta_ext.config import Config
from vta_ext.isa.instruction import MicroOps, alu, gemm, load, store


@dataclass(frozen=True)
class Budget:
    """Entries that one step may use of each buffer: half of it, so that the next step has room.

    The end of the accumulator buffer holds vectors of constants.
    """

    inp: int
    wgt: int
    acc: int
    const: int
    uop: int

    @classmethod
    def of(cls, config: Config) -> Budget:
        """The budget of a machine."""
        const = config.acc_depth // 32
        return cls(
            inp=config.inp_depth // 2,
            wgt=config.wgt_depth // 2,
            acc=config.acc_depth // 2 - const,
            const=const,
            uop=config.uop_depth,
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


@dataclass
class Counters:
    """What became of the micro-op kernels and fetches."""

    kernels: int = 0
    kernel_loads: int = 0
    kernel_hits: int = 0
    fetches: int = 0
    fetch_hits: int = 0


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
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.budget = b = Budget.of(self.config)
        self._inp, self._wgt = _Halves(0, b.inp), _Halves(0, b.wgt)
        self._acc, self._const = _Halves(0, b.acc), _Halves(2 * b.acc, b.const)
        self._kernels: dict[bytes, int] = {}
        self._rows: list[MicroOps] = []
        self._resident: dict[bytes, tuple[int, int]] = {}
        self._uop_next = 0
        self._label = ""

    @property
    def micro_ops(self) -> MicroOps:
        """All kernels, as they are to lie in DRAM: ``[n, 3]``."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 3), np.int32)

    def run(self, steps: Sequence[Step]) -> None:
        """Add the instructions of ``steps``; the loads of one go before the passes of the last."""
        placed: dict[int, _Placed] = {}
        pending = {step.writes: 0 for step in steps if step.stores}
        for step in steps:
            pending[step.writes] = pending.get(step.writes, 0) + bool(step.stores)
        for number, step in enumerate(steps):
            self._label = step.label
            self._fetch(step, placed.setdefault(number, _Placed()), pending)
            if number + 1 < len(steps):
                following = steps[number + 1]
                self._fetch(following, placed.setdefault(number + 1, _Placed()), pending, True)
            self._compute(step, placed.pop(number))
            if step.stores:
                pending[step.writes] -= 1

    def _fetch(
        self, step: Step, placed: _Placed, pending: dict[str, int], ahead: bool = False
    ) -> None:
        """Load what ``step`` needs; ``ahead`` leaves out what an earlier step still has to make."""
        if step.weights is not None and placed.wgt is None:
            placed.wgt = self._load(self._wgt, step.weights, step.label)
        if step.inputs is not None and placed.inp is None:
            if ahead and any(pending.get(name, 0) for name in step.inputs.reads):
                return
            placed.inp = self._load(self._inp, step.inputs, step.label)

    def _load(self, halves: _Halves, fetch: Fetch, what: str) -> int:
        base, missing = halves.place(fetch.key, fetch.size, what)
        self.counters.fetches += missing
        self.counters.fetch_hits += not missing
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
        begin = self._kernel(kernel, step.label) if kernel else 0
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

    def _kernel(self, parts: list[MicroOps], what: str) -> int:
        """Where in the micro-op buffer the micro-ops of ``parts`` begin; loads them if absent."""
        rows = np.concatenate(parts)
        key = rows.tobytes()
        if key in self._resident:
            self.counters.kernel_hits += 1
            return self._resident[key][0]
        if len(rows) > self.budget.uop:
            raise RefusedError(
                what,
                f"it needs {len(rows)} micro-ops, but the buffer holds {self.budget.uop}; choose a "
                "configuration with larger buffers",
            )
        if key not in self._kernels:
            self._kernels[key] = sum(map(len, self._rows))
            self._rows.append(rows)
            self.counters.kernels += 1
        begin = self._uop_next if self._uop_next + len(rows) <= self.budget.uop else 0
        end = begin + len(rows)
        self._resident = {
            other: (first, last)
            for other, (first, last) in self._resident.items()
            if last <= begin or first >= end
        }
        self._resident[key], self._uop_next = (begin, end), end
        self.counters.kernel_loads += 1
        self._add(
            load(
                "uop",
                sram_base=begin,
                dram_base=self.kernels_at + self._kernels[key],
                x_size=len(rows),
            )
        )
        return begin

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


def _immediate_only(one: Pass) -> bool:
    return one.operation in ("clip", "clipu")
