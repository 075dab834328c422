"""Buffers and DRAM: bounds, reads of what nobody wrote, and accesses that tokens do not order.

Instructions are walked in program order. Two modules may touch the same entry, one of them
writing, only if tokens make the earlier instruction end before the later one starts; so the
program computes what the functional simulator computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from tvm_shiftadd.formats.codes import MINUS_ZERO
from vta_ext.checks.order import CHAIN, Order
from vta_ext.checks.pipeline import hazard
from vta_ext.checks.violation import Violation, at
from vta_ext.isa import access
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.machine import unpack_codes
from vta_ext.isa.schema import Source
from vta_ext.micro_op_buffer import MicroOpBuffer
from vta_ext.program import WITH_DATA, Program, Section

Entries = NDArray[np.intp]

#: Contents of the weight buffer.
_KINDS: Final = {0: "nothing", 1: "integer weights", 2: "term codes"}
_WRITABLE: Final = ("output", "scratch")


class _Tracked:
    """Entries of one memory: written or not, and by which instruction of which module last."""

    def __init__(self, size: int) -> None:
        self.known = np.zeros(size, np.bool_)
        # Ranks of the last instruction of each module that wrote and that read, from 1.
        self.writes = np.zeros((3, size), np.int32)
        self.reads = np.zeros((3, size), np.int32)
        # Modules that have written or read at all, since most never touch most memories.
        self.writers: set[int] = set()
        self.readers: set[int] = set()


class MemoryCheck:
    """One walk through a program. Violations are yielded in program order."""

    def __init__(self, program: Program, order: Order) -> None:
        self.program, self.order, self.config = program, order, program.config
        c = program.config
        self.buffers = {
            "uop": _Tracked(c.uop_depth),
            "inp": _Tracked(c.inp_depth),
            "wgt": _Tracked(c.wgt_depth),
            "acc": _Tracked(c.acc_depth),
            "out": _Tracked(c.acc_depth),
        }
        self.weights = np.zeros(c.wgt_depth, np.int8)
        self.kernels = MicroOpBuffer(program)
        # DRAM is tracked in pieces as large as an output element.
        self.piece = c.out_bytes
        pieces = -(-program.dram_bytes // self.piece)
        self.dram = _Tracked(pieces)
        for section in program.sections:
            if section.role not in _WRITABLE:
                self.dram.known[section.offset // self.piece : -(-section.end // self.piece)] = True
        self.starts = np.array(sorted(s.offset for s in program.sections), np.int64)
        self.sections = sorted(program.sections, key=lambda section: section.offset)

    def run(self) -> Iterator[Violation]:
        """Everything that is wrong."""
        for position, instruction in enumerate(self.program.instructions):
            name = instruction.kind.name
            if name == "FINISH":
                continue
            walk = self._transfer if name in ("LOAD", "STORE") else self._compute
            try:
                for rule, message in walk(position, instruction):
                    yield at(self.program, rule, position, message)
            except ProgramError as error:
                yield at(self.program, "bounds", position, str(error))

    # One entry of one memory, read or written.

    def _read(
        self, position: int, name: str, memory: _Tracked, entries: Entries
    ) -> Iterator[tuple[str, str]]:
        unknown = ~memory.known[entries]
        if unknown.any():
            first = int(entries[np.argmax(unknown)])
            yield (
                "uninitialised read",
                f"{self._entry(name, first)} is read, but nothing has written it",
            )
        yield from self._ordered(
            position, name, memory.writes, memory.writers, entries, "is still writing"
        )
        mine = int(self.order.module[position])
        memory.reads[mine, entries] = self.order.rank[position]
        memory.readers.add(mine)

    def _write(
        self, position: int, name: str, memory: _Tracked, entries: Entries
    ) -> Iterator[tuple[str, str]]:
        yield from self._ordered(
            position, name, memory.reads, memory.readers, entries, "may still read"
        )
        yield from self._ordered(
            position, name, memory.writes, memory.writers, entries, "may still write"
        )
        mine = int(self.order.module[position])
        memory.writes[mine, entries] = self.order.rank[position]
        memory.writers.add(mine)
        memory.known[entries] = True

    def _ordered(
        self,
        position: int,
        name: str,
        ranks: NDArray[np.int32],
        modules: set[int],
        entries: Entries,
        verb: str,
    ) -> Iterator[tuple[str, str]]:
        """Accesses of other modules must be over before this instruction starts."""
        mine, before = int(self.order.module[position]), self.order.before[position]
        for other in sorted(modules - {mine}):
            late = ranks[other, entries] > before[other]
            if late.any():
                place = int(np.argmax(late))
                rank = int(ranks[other, entries[place]])
                at_fault = self._position_of(other, rank)
                yield (
                    "race",
                    f"{self._entry(name, int(entries[place]))} is used while {CHAIN[other].value} "
                    f"{verb} it (instruction {at_fault}); order them by a token",
                )

    def _position_of(self, module: int, rank: int) -> int:
        return int(np.flatnonzero((self.order.module == module) & (self.order.rank == rank))[0])

    def _entry(self, name: str, entry: int) -> str:
        if name == "DRAM":
            section = self._section_at(entry * self.piece)
            return f"DRAM byte {entry * self.piece}" + (f" of {section.name}" if section else "")
        return f"entry {entry} of {name}"

    # Transfers.

    def _transfer(self, position: int, instruction: Instruction) -> Iterator[tuple[str, str]]:
        move = access.transfer(instruction, self.config)
        if move is None:
            return
        access.check_transfer(move, self.config, self.program.dram_bytes)
        storing = instruction.kind.name == "STORE"
        buffer = {"acc8": "acc", "code": "wgt"}.get(move.memory.name, move.memory.name)
        entries = np.arange(move.sram_base, move.sram_base + move.entries)
        if storing:
            yield from self._read(position, buffer, self.buffers[buffer], entries)
        if move.rows and move.columns:
            yield from self._dram(position, move, storing)
        if not storing:
            yield from self._write(position, buffer, self.buffers[buffer], entries)
            self._note_contents(move, entries)

    def _dram(
        self, position: int, move: access.Transfer, storing: bool
    ) -> Iterator[tuple[str, str]]:
        yield from self._within_section(move, storing)
        first = move.dram_byte + move.stride_bytes * np.arange(move.rows)
        last = first + move.columns * move.element - 1
        spans = [
            np.arange(low, high + 1)
            for low, high in zip(first // self.piece, last // self.piece, strict=True)
        ]
        pieces = np.concatenate(spans)
        if storing:
            yield from self._write(position, "DRAM", self.dram, pieces)
            return
        yield from self._read(position, "DRAM", self.dram, pieces)
        if move.memory.name == "code":
            yield from self._minus_zero(move)

    def _within_section(self, move: access.Transfer, storing: bool) -> Iterator[tuple[str, str]]:
        section = self._section_at(move.dram_byte)
        if section is None or section.end < move.dram_end:
            holder = "no section" if section is None else f"section {section.name} in part"
            yield (
                "bounds",
                f"DRAM bytes {move.dram_byte} to {move.dram_end - 1} lie in {holder}",
            )
        elif storing and section.role not in _WRITABLE:
            yield "bounds", f"section {section.name} is {section.role} and may not be written"
        elif move.memory.name == "uop" and section.role not in WITH_DATA:
            yield "bounds", f"micro-ops may not come from {section.role} section {section.name}"

    def _section_at(self, byte: int) -> Section | None:
        number = int(np.searchsorted(self.starts, byte, side="right")) - 1
        return self.sections[number] if number >= 0 and byte < self.sections[number].end else None

    def _minus_zero(self, move: access.Transfer) -> Iterator[tuple[str, str]]:
        codes = unpack_codes(self.kernels.constants(move))
        if (codes == MINUS_ZERO).any():
            yield "data", "a term code is 8 (minus zero); the weights are damaged, so pack again"

    def _note_contents(self, move: access.Transfer, entries: Entries) -> None:
        """Remember what kind of weights, and which micro-ops, a LOAD has put into its buffer."""
        if move.memory.name in ("wgt", "code"):
            self.weights[entries] = 1 if move.memory.name == "wgt" else 2
        elif move.memory.name == "uop":
            self.kernels.load(move)

    # Micro-ops.

    def _compute(self, position: int, instruction: Instruction) -> Iterator[tuple[str, str]]:
        access.check_micro_op_range(instruction, self.config)
        if not access.micro_op_count(instruction):
            return
        own = np.arange(instruction.uop_bgn, instruction.uop_end)
        yield from self._read(position, "uop", self.buffers["uop"], own)
        found = self.kernels.operands(instruction)
        loops = (instruction.iter_out, instruction.iter_in)
        index = {name: operand.indices(loops) for name, operand in found.items()}
        problem = hazard(instruction, index, found, self.config)
        if problem:
            yield "pipeline hazard", problem
        yield from self._operands(position, instruction, found, index)

    def _operands(
        self,
        position: int,
        instruction: Instruction,
        found: dict[str, access.Operand],
        index: dict[str, access.Index],
    ) -> Iterator[tuple[str, str]]:
        written = np.unique(index["dst"])
        if "src" in found:
            memory = found["src"].memory
            for step in range(found["src"].count):
                entries = np.unique(index["src"] + step)
                if memory == "acc":
                    # What this instruction itself writes, it may read afterwards.
                    entries = np.setdiff1d(entries, written)
                yield from self._read(position, memory, self.buffers[memory], entries)
        if "wgt" in found:
            yield from self._weights(position, instruction, index["wgt"])
        keeps = access.keeps_from(instruction)
        if keeps is not None:
            kept = np.setdiff1d(index["dst"][keeps:], index["dst"][:keeps]) if keeps else written
            yield from self._read(position, "acc", self.buffers["acc"], kept)
        for name in ("acc", "out"):
            yield from self._write(position, name, self.buffers[name], written)

    def _weights(
        self, position: int, instruction: Instruction, index: access.Index
    ) -> Iterator[tuple[str, str]]:
        mode = instruction.kind.mode
        rows_of_codes = mode is None and instruction.operation.source is Source.CODES
        entries = np.unique(index // self.config.block if rows_of_codes else index)
        yield from self._read(position, "wgt", self.buffers["wgt"], entries)
        wanted = 2 if rows_of_codes or (mode is not None and mode.memory == "code") else 1
        wrong = self.weights[entries] != wanted
        known = self.buffers["wgt"].known[entries]
        if (wrong & known).any():
            first = int(entries[np.argmax(wrong & known)])
            yield (
                "data",
                f"entry {first} of wgt holds {_KINDS[int(self.weights[first])]}, but "
                f"{instruction.kind.mnemonic} reads {_KINDS[wanted]}",
            )


def check_memory(program: Program, order: Order) -> Iterator[Violation]:
    """Violations of bounds, initialisation, order of accesses and pipeline, in program order."""
    return MemoryCheck(program, order).run()
