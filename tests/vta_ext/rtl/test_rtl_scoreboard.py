"""Every instruction, and random programs, on the RTL and on the functional simulator."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from tests.vta_ext.programs import TINY, TINY_BATCH
from tests.vta_ext.rtl.scoreboard import (
    Generator,
    Scoreboard,
    alone,
    open_simulation,
    program,
    random_memory,
)
from vta_ext import presets
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa import table
from vta_ext.rtl.simulation import Memory

#: Cycles of random programs in the long test.
MANY = int(os.environ.get("TVM_SHIFTADD_RTL_CYCLES", "1000000"))
KINDS = [kind.name for kind in table.INSTRUCTIONS if kind.name != "FINISH"]


@pytest.fixture(scope="module")
def board() -> Scoreboard:
    return Scoreboard(open_simulation(TINY))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_instruction(board: Scoreboard, kind: str) -> None:
    """All memories and operations of it, with random memory stalls."""
    rng = np.random.default_rng(KINDS.index(kind))
    generator = Generator(TINY, rng)
    seen = set()
    for number in range(150):
        if number % 30 == 0:
            board.fill(number)
        instruction = generator.draw(board.simulator, kind)
        seen.add(getattr(instruction.kind, "suffix", None) and name_of(instruction))
        board.run(alone(instruction), random_memory(rng))
    wanted = {"LOAD": 6, "STORE": 2, "ALU": len(table.ALU_OPERATIONS)}
    assert len(seen) == wanted.get(kind, 1)


def name_of(instruction: isa.Instruction) -> str:
    is_alu = instruction.kind.name == "ALU"
    return instruction.operation.name if is_alu else instruction.memory_type.name


def run_programs(board: Scoreboard, cycles: int, seed: int) -> None:
    """Random programs until they have taken so many cycles."""
    rng = np.random.default_rng(seed)
    generator = Generator(board.config, rng)
    stop, number = board.cycles + cycles, 0
    while board.cycles < stop:
        if number % 5 == 0:
            board.fill(seed + number)
        number += 1
        board.run(program(generator, board.simulator, int(rng.integers(1, 30))), random_memory(rng))


def test_random_programs(board: Scoreboard) -> None:
    run_programs(board, 20_000, 1)


@pytest.mark.rtl
def test_very_many_random_programs(board: Scoreboard) -> None:
    run_programs(board, MANY, 2)


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("config", "bits"),
    [
        pytest.param(TINY, 16, id="16 bits"),
        pytest.param(TINY, 32, id="32 bits"),
        pytest.param(TINY, 128, id="128 bits"),
        pytest.param(TINY_BATCH, 64, id="batch"),
        pytest.param(presets.SMALL, 32, id="ecp5-small"),
        pytest.param(presets.BASE, 64, id="vta"),
        pytest.param(presets.ULX3S, 16, id="ulx3s"),
    ],
)
def test_other_machines(config: Config, bits: int) -> None:
    board = Scoreboard(open_simulation(config, bits))
    rng = np.random.default_rng(bits)
    generator = Generator(config, rng)
    for number in range(600):
        if number % 30 == 0:
            board.fill(number)
        board.run(alone(generator.draw(board.simulator)), random_memory(rng))
    run_programs(board, 50_000, bits)


def test_a_difference_is_found(board: Scoreboard) -> None:
    """The scoreboard itself: one bit of any memory that differs is reported."""
    for name in ("uop", "inp", "wgt", "acc", "out"):
        board.fill(1)
        assert board.difference() == ""
        entries = board.simulation.buffer(name)
        entries[3, 0] ^= 1
        board.simulation.set_buffer(name, entries)
        assert board.difference().startswith(f"entry 3 of {name} ")
    board.fill(1)
    board.dram[77] ^= 128
    assert board.difference() == "DRAM byte 77 differs"
    board.fill(1)


def test_state_survives_a_reset_and_the_next_program_runs(board: Scoreboard) -> None:
    board.fill(5)
    board.simulation.reset()
    assert board.difference() == ""
    board.run([isa.alu("add", uops=(0, 1), imm=5), isa.finish()], Memory())
