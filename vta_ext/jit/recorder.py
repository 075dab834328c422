"""Records a program call by call, as VTA's runtime does: loads, kernels of micro-ops, stores.

| VTA | here |
|---|---|
| VTABufferAlloc | ``recorder.input``, ``output``, ``scratch``, ``constant`` |
| VTALoadBuffer2D, VTAStoreBuffer2D | ``load``, ``store`` |
| VTAUopLoopBegin, VTAUopLoopEnd | ``with kernel.loop(...)`` |
| VTAUopPush | ``kernel.push`` |
| VTAPushGEMMOp, VTAPushALUOp | ``gemm``, ``alu`` |
| VTADepPush, VTADepPop | nothing: tokens follow from what instructions read and write |
| VTASynchronize | ``build``, then any device |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tvm_shiftadd.errors import ProgramError
from vta_ext.builder import ProgramBuilder
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Instruction, MicroOps
from vta_ext.isa.schema import Source
from vta_ext.isa.table import OPERATION_BY_NAME
from vta_ext.jit.cache import CacheCounters, MicroOpCache
from vta_ext.jit.folding import OPERANDS, Folded, Grid, Maker, fold
from vta_ext.jit.tokens import Entry, assign_tokens
from vta_ext.program import Label, Program, Section, micro_op_section

#: Instructions that run kernels before which the load of a kernel may go.
_AHEAD: Final = 8


@dataclass
class Kernel:
    """Micro-ops in loops, to be run by one call of :meth:`Recorder.gemm` or ``alu``."""

    #: One grid for each push, ``[e0, e1, ..., 3]``.
    grids: list[Grid] = field(default_factory=list)
    _loops: list[tuple[int, tuple[int, int, int]]] = field(default_factory=list)

    @contextmanager
    def loop(self, extent: int, dst: int = 0, src: int = 0, wgt: int = 0) -> Iterator[None]:
        """Repeat what is pushed inside; each iteration adds to its indices."""
        if extent < 1:
            raise ProgramError(f"a loop of a kernel has at least one iteration, not {extent}")
        self._loops.append((extent, (dst, src, wgt)))
        try:
            yield
        finally:
            self._loops.pop()

    def push(self, dst: int, src: int = 0, wgt: int = 0) -> None:
        """One micro-op, in all loops that are open."""
        grid = np.array([dst, src, wgt], np.int64)
        for extent, step in reversed(self._loops):
            grid = grid + np.multiply.outer(np.arange(extent), step).reshape(
                extent, *(1,) * (grid.ndim - 1), 3
            )
        self.grids.append(grid)


class Recorder:
    """One program in the making; :meth:`build` ends it.

    Sections of DRAM are made by ``input``, ``output``, ``scratch`` and ``constant``, as in
    :class:`vta_ext.builder.ProgramBuilder`. Micro-ops of one kernel may run in any order.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._memory = ProgramBuilder(config)
        self.input, self.output = self._memory.input, self._memory.output
        self.scratch, self.constant = self._memory.scratch, self._memory.constant
        # Where micro-ops lie is known at the end; loads count from element 0 until then.
        self._cache = MicroOpCache(config)
        self._entries: list[Entry] = []
        #: Where the instructions are that run kernels.
        self._uses: list[int] = []
        self._label = ""

    @property
    def counters(self) -> CacheCounters:
        """What became of the kernels so far."""
        return self._cache.counters

    def label(self, name: str) -> None:
        """Name what is recorded from here on."""
        self._label = name

    def _add(self, instruction: Instruction, rows: MicroOps | None = None) -> None:
        self._entries.append(Entry(instruction, rows, self._label))

    def load(
        self, memory: str, section: Section, *, sram: int, first: int = 0, **rows: Any
    ) -> None:
        """LOAD from element ``first`` of a section to entry ``sram`` of a buffer.

        ``rows``: what :func:`vta_ext.isa.instruction.load` takes besides.
        """
        base = self._memory.element(section, memory, first)
        self._add(isa.load(memory, sram_base=sram, dram_base=base, **rows))

    def store(
        self, section: Section, *, sram: int, first: int = 0, memory: str = "out", **rows: Any
    ) -> None:
        """STORE from entry ``sram`` of a buffer to element ``first`` of a section."""
        base = self._memory.element(section, memory, first)
        self._add(isa.store(memory, sram_base=sram, dram_base=base, **rows))

    def gemm(self, mode: str, kernel: Kernel | Grid, accumulate: str = "add") -> None:
        """Run a kernel on the matrix unit; ``accumulate`` is add, clear or replace."""
        if accumulate == "replace-first":
            raise ProgramError("a kernel has no first iteration; replace, then add")
        names = ("dst",) if accumulate == "clear" else ("dst", "src", "wgt")

        def make(f: Folded) -> Instruction:
            uops = (0, len(f.rows))
            return isa.gemm(mode, uops=uops, accumulate=accumulate, **f.arguments(*names))

        self._compute(kernel, make, names, ())

    def alu(
        self, operation: str, kernel: Kernel | Grid, *, from_inp: bool = False, **immediate: int
    ) -> None:
        """Run a kernel on the ALU; see :func:`vta_ext.isa.instruction.alu`."""
        entry = OPERATION_BY_NAME.get(operation)
        alone = entry is not None and (
            entry.source is Source.IMMEDIATE or (entry.source is Source.OPERAND and bool(immediate))
        )
        codes = entry is not None and entry.source is Source.CODES
        names = ("dst",) if alone else ("dst", "src", "wgt") if codes else ("dst", "src")

        def make(f: Folded) -> Instruction:
            where = f.arguments(*(name for name in names if name != "wgt"))
            uops = (0, len(f.rows))
            return isa.alu(operation, uops=uops, from_inp=from_inp, **{**where, **immediate})

        # The loops of the ALU move no rows of codes.
        self._compute(kernel, make, names, ("wgt",))

    def _compute(
        self, kernel: Kernel | Grid, make: Maker, names: tuple[str, ...], fixed: tuple[str, ...]
    ) -> None:
        used = np.array([name in names for name in OPERANDS])
        for grid in kernel.grids if isinstance(kernel, Kernel) else [kernel]:
            if not grid.size:
                continue
            for folded, instruction in fold(np.where(used, grid, 0), make, self.config, fixed):
                begin = self._placed(folded.rows)
                end = begin + len(folded.rows)
                self._add(instruction.replace(uop_bgn=begin, uop_end=end), folded.rows)

    def _placed(self, rows: MicroOps) -> int:
        """Where a kernel is, for the instruction that comes next."""
        begin, missing = self._cache.place(rows, self._label, _AHEAD)
        if missing is not None and missing.entry.instruction.prefetch:
            at = self._uses[missing.before - 1]
            missing.entry.label = self._entries[at].label
            self._entries.insert(at, missing.entry)
            later = range(missing.before - 1, len(self._uses))
            self._uses[missing.before - 1 :] = [self._uses[n] + 1 for n in later]
        elif missing is not None:
            self._entries.append(missing.entry)
        self._uses.append(len(self._entries))
        return begin

    def build(self) -> Program:
        """The program, with micro-ops and tokens. Raises ProgramError where it is not valid."""
        sections, end = list(self._memory.sections), self._memory.end
        if len(self._cache.micro_ops):
            sections.append(micro_op_section("micro-ops", self._cache.micro_ops, end, self.config))
        recorded = [_moved(entry, end // self.config.uop_bytes) for entry in self._entries]
        ended = [*recorded, Entry(isa.finish(), label="finish")]
        entries = assign_tokens(ended, self.config, (0, end))
        labels, name = [], ""
        for position, entry in enumerate(entries):
            if entry.label != name:
                labels.append(Label(position, entry.label))
            name = entry.label
        instructions = tuple(entry.instruction for entry in entries)
        return Program(self.config, instructions, tuple(sections), tuple(labels))


def _moved(entry: Entry, base: int) -> Entry:
    """A load of micro-ops from element ``base`` of DRAM on; any other instruction as it is."""
    i = entry.instruction
    if i.kind.name != "LOAD" or i.memory_type.name != "uop":
        return entry
    return Entry(i.replace(dram_base=i.dram_base + base), None, entry.label)
