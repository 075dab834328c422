"""Random bytes as programs, many of them: the simulators touch nothing outside their arrays.

Words are made from the layout, not by Hypothesis, so that hundreds of thousands can be tried.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.vta_ext.programs import TINY, fill
from tvm_shiftadd.errors import ProgramError
from vta_ext import checker
from vta_ext.isa import instruction as isa
from vta_ext.isa import table
from vta_ext.isa.codec import codec
from vta_ext.isa.layout import instruction_layout
from vta_ext.program import Program, Section
from vta_ext.sim.functional import FunctionalSimulator
from vta_ext.sim.timing import simulate

#: How many programs the long test runs.
MANY = int(os.environ.get("TVM_SHIFTADD_FUZZ_PROGRAMS", "200000"))


class Guarded:
    """A simulator whose arrays lie between guards, in one block of memory each."""

    GUARD = 256

    def __init__(self) -> None:
        self.simulator = FunctionalSimulator(TINY, 512)
        self.guards = []
        for name in ("dram", "uop", "inp", "wgt", "acc", "out"):
            array = getattr(self.simulator.machine, name)
            block = np.full(array.nbytes + 2 * self.GUARD, 0xA5, np.uint8)
            inside = block[self.GUARD : self.GUARD + array.nbytes]
            setattr(self.simulator.machine, name, inside.view(array.dtype).reshape(array.shape))
            self.guards += [block[: self.GUARD], block[-self.GUARD :]]
        fill(self.simulator.machine, 0)

    def intact(self) -> bool:
        return all((guard == 0xA5).all() for guard in self.guards)


def random_word(rng: np.random.Generator) -> int:
    """128 bits: noise, or fields of which most are small, with the reserved bits 0."""
    if rng.random() < 0.1:
        return int.from_bytes(rng.bytes(16), "little")
    kind = table.INSTRUCTIONS[rng.integers(len(table.INSTRUCTIONS))]
    word = 0
    for bits in instruction_layout(kind, TINY).fields:
        small = rng.random() < 0.8
        limit = min(1 << bits.width, 6) if small else 1 << bits.width
        word |= bits.put(int(rng.integers(limit)))
    opcode = instruction_layout(kind, TINY).by_name["opcode"]
    return (word & ~opcode.mask) | opcode.put(kind.opcode)


def run_programs(count: int, seed: int) -> int:
    """Run random programs; how many instructions did something."""
    rng = np.random.default_rng(seed)
    guarded, done = Guarded(), 0
    for number in range(count):
        words = [random_word(rng) for _ in range(rng.integers(1, 4))]
        for word in words:
            try:
                guarded.simulator.step(codec(TINY).decode(word))
                done += 1
            except ProgramError:
                pass
        if number % 500 == 0:
            assert guarded.intact(), [hex(word) for word in words]
    assert guarded.intact()
    return done


def test_random_programs_stay_inside() -> None:
    assert run_programs(1500, 1) > 300


@pytest.mark.slow
def test_very_many_random_programs_stay_inside() -> None:
    assert run_programs(MANY, 2) > MANY // 5


def random_program(rng: np.random.Generator) -> Program | None:
    """A program of valid instructions, or None."""
    instructions = []
    for _ in range(rng.integers(1, 6)):
        try:
            instruction = codec(TINY).decode(random_word(rng))
        except ProgramError:
            continue
        if instruction.kind.name != "FINISH":
            instructions.append(instruction)
    sections = (
        Section("in", "input", 0, 256),
        Section("micro-ops", "micro-ops", 256, 32, bytes(32)),
        Section("out", "output", 288, 224),
    )
    return Program(TINY, (*instructions, isa.finish()), sections) if instructions else None


def test_checker_and_timing_take_any_program() -> None:
    """Violations or none, cycles or a program error, and nothing else; safe programs run."""
    rng = np.random.default_rng(3)
    safe = 0
    for _ in range(400):
        program = random_program(rng)
        if program is None:
            continue
        found = checker.check(program, {})
        try:
            cycles = simulate(program).cycles
        except ProgramError:
            assert found
            continue
        assert cycles > 100
        if not checker.check(program):
            safe += 1
            simulator = FunctionalSimulator(TINY, program.dram_bytes)
            simulator.run(program.instructions)
    assert safe > 3
