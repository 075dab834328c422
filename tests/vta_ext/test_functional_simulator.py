"""The fast simulator against the definition, instruction by instruction, and its safety."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vta_ext.programs import TINY, TINY_BATCH, fill, runs, valid_instructions
from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext import presets
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa import semantics
from vta_ext.isa.machine import Machine
from vta_ext.program import Program, Section
from vta_ext.sim.functional import FunctionalSimulator

MEMORIES = ("dram", "uop", "inp", "wgt", "acc", "out")


def assert_same(one: Machine, other: Machine) -> None:
    for name in MEMORIES:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@settings(max_examples=300)
@given(st.data(), st.sampled_from([TINY, TINY_BATCH]), st.integers(0, 99), st.booleans())
def test_every_instruction_does_what_the_definition_says(
    data: st.DataObject, config: Config, seed: int, small: bool
) -> None:
    defined, fast = Machine(config, 4096), FunctionalSimulator(config, 4096)
    fill(defined, seed)
    fill(fast.machine, seed)
    for _ in range(3):
        instruction = data.draw(valid_instructions(config, small))
        before = {name: getattr(fast.machine, name).copy() for name in MEMORIES}
        done = runs(semantics.execute, defined, instruction)
        assert runs(fast.step, instruction) == done
        assert_same(defined, fast.machine)
        if not done:
            assert all(np.array_equal(before[n], getattr(fast.machine, n)) for n in MEMORIES)


@settings(max_examples=200)
@given(
    st.lists(st.binary(min_size=16, max_size=16), max_size=4),
    st.sampled_from([TINY, *(p.config for p in presets.PRESETS.values())]),
)
def test_no_byte_string_does_harm(words: list[bytes], config: Config) -> None:
    simulator = FunctionalSimulator(config, 1 << 12)
    runs(simulator.run_bytes, b"".join(words))
    # Still usable: a program of one instruction ends as it should.
    simulator.run([isa.finish()])


@given(st.data())
def test_nearly_valid_programs_do_no_harm(data: st.DataObject) -> None:
    """Valid instructions with a few bits changed, so that most of them decode."""
    simulator = FunctionalSimulator(TINY, 1 << 10)
    fill(simulator.machine, 0)
    instructions = data.draw(st.lists(valid_instructions(TINY, True), min_size=1, max_size=5))
    raw = bytearray(simulator._codec.encode_all(instructions))
    for _ in range(data.draw(st.integers(0, 3))):
        bit = data.draw(st.integers(0, 8 * len(raw) - 1))
        raw[bit // 8] ^= 1 << (bit % 8)
    runs(simulator.run_bytes, bytes(raw))
    simulator.run([isa.finish()])


def test_a_cached_plan_follows_changed_micro_ops_and_weights() -> None:
    simulator = FunctionalSimulator(TINY, 256)
    defined = Machine(TINY, 256)
    gemm = isa.gemm("shift", uops=(0, 3), loops=(2, 2), dst=(1, 2), src=(1, 0), wgt=(0, 1))
    for seed in range(4):
        fill(simulator.machine, seed)
        fill(defined, seed)
        # fill() writes behind the simulator's back; a load is what tells it of new weights.
        load = isa.load("code", sram_base=0, dram_base=0, x_size=8)
        for instruction in (load, gemm, gemm):
            simulator.step(instruction)
            semantics.execute(defined, instruction)
        assert_same(defined, simulator.machine)


@pytest.mark.parametrize("mode", ["multiply", "shift", "adder"])
def test_extreme_sums_are_exact(mode: str) -> None:
    """Reductions longer than float32 holds, of the greatest products of one sign."""
    config = TINY
    simulator, defined = FunctionalSimulator(config, 64), Machine(config, 64)
    weight = {"multiply": 0x80, "shift": 0xFF, "adder": 0x7F}[mode]
    for machine in (simulator.machine, defined):
        machine.inp[:] = -128
        machine.wgt[:] = weight
    gemm = isa.gemm(mode, uops=(0, 1), loops=(150, 3), dst=(0, 1))
    simulator.step(gemm)
    semantics.execute(defined, gemm)
    expected = {"multiply": 128 * 128, "shift": 128 * 64, "adder": -255}[mode] * 4 * 150
    assert (simulator.machine.acc[:3] == expected).all()
    assert_same(defined, simulator.machine)


def test_accumulators_wrap() -> None:
    simulator = FunctionalSimulator(TINY, 64)
    simulator.machine.acc[0] = 2**31 - 1
    simulator.step(isa.alu("add", uops=(0, 1), imm=1))
    assert (simulator.machine.acc[0] == -(2**31)).all()
    simulator.step(isa.alu("rshr", uops=(0, 1), imm=1))
    assert (simulator.machine.acc[0] == -(2**30)).all()
    simulator.machine.acc[0] = 2**31 - 1
    simulator.step(isa.alu("rshr", uops=(0, 1), imm=1))
    assert (simulator.machine.acc[0] == 2**30).all()


def test_errors_name_position_and_text() -> None:
    simulator = FunctionalSimulator(TINY, 64)
    program = [
        isa.load("inp", sram_base=0, dram_base=0, x_size=1),
        isa.load("inp", sram_base=15, dram_base=0, x_size=2),
    ]
    with pytest.raises(ProgramError, match=r"instruction 1 \(load.inp sram_base=15 .*has 16"):
        simulator.run(program)
    with pytest.raises(ProgramError, match="bytes 64 to 67 of DRAM are used, but there are 64"):
        simulator.run([isa.load("inp", sram_base=0, dram_base=16, x_size=1)])
    with pytest.raises(ProgramError, match="no FINISH"):
        simulator.run(program[:1])
    with pytest.raises(ProgramError, match=r"dst reaches entry 16 of buffer acc, which has 16"):
        simulator.step(isa.alu("add", uops=(0, 1), loops=(17, 1), dst=(1, 0), imm=0))
    with pytest.raises(ProgramError, match="src reaches entry 16 of buffer acc"):
        simulator.step(isa.alu("req", uops=(0, 1), loops=(16, 1), src=(1, 0), lo=0, hi=1))
    with pytest.raises(ProgramError, match="micro-ops up to 8 are used, but the buffer has 8"):
        simulator.step(isa.gemm("shift", uops=(0, 9)))
    with pytest.raises(ProgramError, match="more than the 1048576 allowed; split it"):
        simulator.step(isa.gemm("shift", uops=(0, 8), loops=(16383, 16383)))


def test_dram_is_reached_within_its_bounds_only() -> None:
    simulator = FunctionalSimulator(TINY, 64)
    simulator.write(60, b"abcd")
    assert simulator.read(59, 5) == b"\0abcd"
    for offset, size in ((61, 4), (-1, 1), (64, 1)):
        with pytest.raises(ProgramError, match="outside the 64 bytes of DRAM"):
            simulator.read(offset, size)
    with pytest.raises(ProgramError, match="outside the 64 bytes"):
        simulator.write(61, b"abcd")
    with pytest.raises(InputError, match="bytes of DRAM, not -1"):
        FunctionalSimulator(TINY, -1)


def test_a_program_is_placed_where_it_fits() -> None:
    data = Section("c", "constant", 8, 3, b"abc")
    program = Program(TINY, (isa.finish(),), (data,))
    simulator = FunctionalSimulator(TINY, 11)
    simulator.place(program)
    assert simulator.read(7, 4) == b"\0abc"
    with pytest.raises(ProgramError, match="needs 11 bytes of DRAM, the machine has 10"):
        FunctionalSimulator(TINY, 10).place(program)
    with pytest.raises(ProgramError, match="compile it for this device"):
        FunctionalSimulator(presets.BASE, 64).place(program)


def test_the_observer_sees_every_instruction() -> None:
    seen = []
    simulator = FunctionalSimulator(TINY, 64)
    program = [isa.alu("add", uops=(0, 1), imm=3), isa.finish(), isa.finish()]
    simulator.run(program, lambda at, what, machine: seen.append((at, what, machine.acc[0, 0, 0])))
    assert seen == [(0, program[0], 3), (1, program[1], 3)]
