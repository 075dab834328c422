"""Accumulators: no result leaves 32 bits, and no stored one its 8, whatever the inputs are.

Every entry carries the least and greatest value it can have. Constants are exact; inputs range
over their type, or over what the caller knows of their section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from tvm_shiftadd.formats.codes import DECODE_TABLE
from vta_ext.checks.violation import Violation, at
from vta_ext.isa import access, arithmetic
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.machine import Machine
from vta_ext.isa.schema import GemmMode, Source
from vta_ext.program import Program, Section
from vta_ext.sim.functional import FunctionalSimulator
from vta_ext.sim.plans import plan_alu, plan_gemm

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]

INT32: Final = (-(1 << 31), (1 << 31) - 1)
#: What one of the 8-bit types holds.
_BYTES: Final = ((-128, 127), (0, 255))


class RangeCheck:
    """One walk through a program that :mod:`vta_ext.checks.memory` has found sound."""

    def __init__(self, program: Program, ranges: Mapping[str, tuple[int, int]]) -> None:
        self.program, self.config, self.ranges = program, program.config, ranges
        # The simulator holds what is constant: micro-ops and weights.
        self.simulator = FunctionalSimulator(program.config, program.dram_bytes)
        self.simulator.place(program)
        m = self.simulator.machine
        self.inp = _zeros(m.inp)
        self.acc = _zeros(m.acc)
        self.out = _zeros(m.acc)

    @property
    def _machine(self) -> Machine:
        return self.simulator.machine

    def run(self) -> Iterator[Violation]:
        """Everything that is out of range."""
        for position, instruction in enumerate(self.program.instructions):
            for message in self._step(instruction):
                yield at(self.program, "overflow", position, message)

    def _step(self, instruction: Instruction) -> Iterator[str]:
        if instruction.kind.name == "LOAD":
            self._load(instruction)
        elif instruction.kind.name == "STORE":
            yield from self._store(instruction)
        elif instruction.kind.name != "FINISH":
            yield from self._compute(instruction)

    def _load(self, instruction: Instruction) -> None:
        move = access.transfer(instruction, self.config)
        if move is None or not move.entries:
            return
        # Loading for real makes constants and padding exact.
        self.simulator.step(instruction)
        name = move.memory.name
        if name not in ("inp", "acc", "acc8"):
            return
        bounds, values = (
            (self.inp, self._machine.inp) if name == "inp" else (self.acc, self._machine.acc)
        )
        part = slice(move.sram_base, move.sram_base + move.entries)
        for bound in bounds:
            bound[part] = values[part]
        section = self._section_of(move.dram_byte)
        if section is not None and section.data is None and move.rows:
            inside = np.zeros((move.height, move.width), np.bool_)
            inside[move.top : move.top + move.rows, move.left : move.left + move.columns] = True
            least, greatest = self._type_of(instruction, section)
            bounds[0][part][inside.reshape(-1)] = least
            bounds[1][part][inside.reshape(-1)] = greatest

    def _type_of(self, instruction: Instruction, section: Section) -> tuple[int, int]:
        if section.name in self.ranges:
            return self.ranges[section.name]
        if not instruction.memory_type.byte_lanes:
            return INT32
        return _BYTES[instruction.unsigned]

    def _section_of(self, byte: int) -> Section | None:
        holds = (s for s in self.program.sections if s.offset <= byte < s.end)
        return next(holds, None)

    def _store(self, instruction: Instruction) -> Iterator[str]:
        move = access.transfer(instruction, self.config)
        if move is None or move.memory.name != "out" or not move.entries:
            return
        part = slice(move.sram_base, move.sram_base + move.entries)
        least, greatest = int(self.out[0][part].min()), int(self.out[1][part].max())
        if not any(low <= least and greatest <= high for low, high in _BYTES):
            yield (
                f"results of {least} to {greatest} are stored in 8 bits and would lose the rest; "
                "clip or requantise before storing"
            )

    def _compute(self, instruction: Instruction) -> Iterator[str]:
        if not access.micro_op_count(instruction):
            return
        words = self._machine.uop[instruction.uop_bgn : instruction.uop_end]
        rows = codec(self.config).decode_micro_ops(words)
        found = access.operands(instruction, rows, self.config)
        loops = (instruction.iter_out, instruction.iter_in)
        index = {name: operand.indices(loops) for name, operand in found.items()}
        mode = instruction.kind.mode
        if mode is None:
            yield from self._alu(instruction, found, index)
        elif "src" not in index:
            self._put(index["dst"], (np.int64(0), np.int64(0)))
        else:
            yield from self._gemm(instruction, mode, index)

    def _put(self, entries: access.Index, new: Bounds) -> Iterator[str] | tuple[()]:
        """Set accumulators; what cannot be held in 32 bits becomes a message and full range."""
        for bounds in (self.acc, self.out):
            bounds[0][entries] = np.maximum(new[0], INT32[0])
            bounds[1][entries] = np.minimum(new[1], INT32[1])
        return _complaint("a result", new)

    def _gemm(
        self, instruction: Instruction, mode: GemmMode, index: dict[str, access.Index]
    ) -> Iterator[str]:
        keeps = access.keeps_from(instruction)
        replacing = len(index["dst"]) if keeps is None else keeps
        lows, highs = self.inp
        for group in plan_gemm(index["dst"], index["src"], index["wgt"], replacing):
            weights = self._weights(mode, group.wgt)
            shape = (len(group.dst) * self.config.batch, -1)
            low, high = (
                part[group.src].transpose(0, 2, 1, 3).reshape(shape) for part in (lows, highs)
            )
            bound = _distances if mode.name == "adder" else _products
            least, greatest = (
                value.reshape(-1, self.config.batch, self.config.block)
                for value in bound(low, high, weights)
            )
            if group.keeps:
                least = least + self.acc[0][group.dst]
                greatest = greatest + self.acc[1][group.dst]
            yield from self._put(group.dst, (least, greatest))

    def _weights(self, mode: GemmMode, index: access.Index) -> NDArray[np.int64]:
        """Weights ``[R * block (input), block (output)]``."""
        if mode.memory == "code":
            values = DECODE_TABLE[self._machine.term_codes(index)]
        else:
            values = self._machine.integer_weights(index)
        wide: NDArray[np.int64] = values.astype(np.int64).transpose(0, 2, 1)
        return wide.reshape(-1, self.config.block)

    def _alu(
        self,
        instruction: Instruction,
        found: dict[str, access.Operand],
        index: dict[str, access.Index],
    ) -> Iterator[str]:
        reads = None
        if "src" in found and found["src"].memory == "acc":
            reads = index["src"][:, None] + np.arange(found["src"].count)
        for wave in plan_alu(index["dst"], reads):
            part = {name: values[wave.members] for name, values in index.items()}
            choices = [self._take(self.acc, part["dst"])]
            choices += self._operands(instruction, found, part)
            new, complaints = _extremes(instruction, choices)
            yield from complaints
            yield from self._put(part["dst"], new)

    def _operands(
        self,
        instruction: Instruction,
        found: dict[str, access.Operand],
        part: dict[str, access.Index],
    ) -> list[Bounds]:
        source = instruction.operation.source
        if source is Source.IMMEDIATE:
            return []
        if instruction.use_imm:
            exact = np.array(instruction.imm, np.int64)
            return [(exact, exact)]
        bounds = self.inp if found["src"].memory == "inp" else self.acc
        operands = [self._take(bounds, part["src"] + k) for k in range(found["src"].count)]
        if source is Source.CODES:
            slot, row = np.divmod(part["wgt"], self.config.block)
            codes = self._machine.term_codes(slot)[np.arange(len(slot)), row][:, None, :]
            exact = codes.astype(np.int64)
            operands.append((exact, exact))
        return operands

    def _take(self, bounds: Bounds, entries: access.Index) -> Bounds:
        return bounds[0][entries], bounds[1][entries]


def _zeros(values: NDArray[np.signedinteger]) -> Bounds:
    return np.zeros(values.shape, np.int64), np.zeros(values.shape, np.int64)


def _complaint(what: str, new: Bounds) -> Iterator[str] | tuple[()]:
    least, greatest = int(np.min(new[0])), int(np.max(new[1]))
    if INT32[0] <= least and greatest <= INT32[1]:
        return ()
    return iter([f"{what} can reach [{least}, {greatest}], which does not fit 32 bits"])


def _products(
    low: NDArray[np.int64], high: NDArray[np.int64], weights: NDArray[np.int64]
) -> Bounds:
    """Bounds of ``x @ weights``; exact in float64, whose 53 bits hold every such sum."""
    positive = np.maximum(weights, 0).astype(np.float64)
    negative = np.minimum(weights, 0).astype(np.float64)
    least = low @ positive + high @ negative
    greatest = high @ positive + low @ negative
    return least.astype(np.int64), greatest.astype(np.int64)


def _distances(
    low: NDArray[np.int64], high: NDArray[np.int64], weights: NDArray[np.int64]
) -> Bounds:
    """Bounds of minus the sum of ``|x - weights|``."""
    shape = (len(low), weights.shape[1])
    least, greatest = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for place, weight in enumerate(weights):
        below, above = low[:, place, None] - weight, weight - high[:, place, None]
        least -= np.maximum(np.abs(below), np.abs(above))
        # The nearest x: inside the range the distance can be 0.
        greatest -= np.maximum(np.maximum(below, above), 0)
    return least, greatest


def _extremes(instruction: Instruction, choices: list[Bounds]) -> tuple[Bounds, list[str]]:
    """Bounds of an ALU operation's result, over the corners of its operands' bounds.

    Every operation is monotonic in each operand while the others stay, except the absolute
    difference, whose least value is 0 where the operands can be equal.
    """
    operation, parameters = instruction.operation, access.parameters(instruction)
    complaints: list[str] = []
    if operation.source is Source.ROWS:
        # The parts of the fused operation keep 32 bits each.
        total = (choices[0][0] + choices[1][0], choices[0][1] + choices[1][1])
        complaints += _complaint("the sum with the bias", total)
        shifted = _corners(arithmetic.rounding_shift, [total, choices[2]], {})
        complaints += _complaint("the shifted sum", shifted)
        limits = {name: parameters[name] for name in ("lo", "hi")}
        return _corners(arithmetic.clip, [shifted], limits), complaints
    least, greatest = _corners(operation.compute, choices, parameters)
    if operation.name == "absd":
        (low, high), (other_low, other_high) = choices
        meet = (low <= other_high) & (other_low <= high)
        least = np.where(meet, 0, least)
    return (least, greatest), complaints


def _corners(
    compute: Callable[..., NDArray[np.int64]], choices: list[Bounds], parameters: dict[str, int]
) -> Bounds:
    results = [compute(*corner, **parameters) for corner in product(*choices)]
    return np.minimum.reduce(results), np.maximum.reduce(results)


def check_ranges(program: Program, ranges: Mapping[str, tuple[int, int]]) -> Iterator[Violation]:
    """Violations of ranges, in program order.

    ``ranges``: what is known of the values in a section without contents, by name. Raises
    ProgramError for a name that is no such section.
    """
    for name in ranges:
        if program.section(name).data is not None:
            raise ProgramError(f"section {name} is constant; ranges are for inputs")
    return RangeCheck(program, ranges).run()
