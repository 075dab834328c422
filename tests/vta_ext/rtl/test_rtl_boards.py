# amaranth: UnusedElaboratable=no
"""Block memory as DRAM, the board's clock, and a small system through the whole tool flow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
pytest.importorskip("amaranth_boards", reason="no pins: pip install 'tvm-shiftadd[rtl]'")

from amaranth.sim import Simulator

from tests.vta_ext.programs import TINY
from tests.vta_ext.rtl.memory_host import Host
from tvm_shiftadd.errors import InputError
from vta_ext import boards, presets
from vta_ext.boards import flow
from vta_ext.boards.memory import HOST_CYCLES, BlockMemory, banks
from vta_ext.boards.system import SYSTEM_CYCLES, System
from vta_ext.boards.ulx3s import Pll, pll
from vta_ext.rtl.bridge import MEMORY_CYCLES


@pytest.mark.parametrize("beat", [4, 8, 16])
def test_memory_holds_what_host_and_machine_write(beat: int) -> None:
    memory = BlockMemory(2048 + 256, beat)
    seen = []

    async def drive(ctx: Any) -> None:
        host = Host(ctx, memory, memory.size, beat)
        await host.fill()
        await host.check()
        bursts = host.bursts(20)
        seen.append((await host.read(bursts, 1.0), sum(count for _, count in bursts)))
        await host.read(host.bursts(20), 0.5)
        await host.write(host.bursts(20), 1.0)
        await host.write(host.bursts(20), 0.5)
        await host.check()

    simulator = Simulator(memory)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()
    ((cycles, beats),) = seen
    # Eight cycles to the first beat, and no gap between requests.
    assert cycles <= beats + 9


def test_the_bridge_waits_for_the_memory() -> None:
    assert HOST_CYCLES + SYSTEM_CYCLES <= MEMORY_CYCLES


def test_memory_is_made_of_banks() -> None:
    assert banks(36864) == [16384, 16384, 4096]
    assert banks(1) == [1]
    with pytest.raises(InputError, match="multiples of 256 bytes, not 1000"):
        BlockMemory(1000, 4)


@pytest.mark.parametrize("clock", [20, 75, 80, 85, 100])
def test_the_clock_is_made_exactly(clock: int) -> None:
    found = pll(clock)
    assert 25 * found.feedback == clock * found.reference
    assert 400 <= clock * found.output <= 800
    assert 25 / found.reference >= 3.125


def test_a_clock_that_cannot_be_made() -> None:
    assert pll(80) == Pll(reference=5, feedback=16, output=7)
    with pytest.raises(InputError, match="cannot make 81 MHz"):
        pll(81)


def small() -> boards.Board:
    """A board whose machine is as small as machines are."""
    config = replace(TINY, gemm_modes=("shift",), alu_ops=presets.SHIFT.alu_ops)
    whole = boards.board("ulx3s-85f-small")
    return replace(whole, config=config, block_memory=16384, clock_mhz=25, baud=1_000_000)


def test_only_boards_without_memory_get_a_system() -> None:
    with pytest.raises(InputError, match="pynq has memory and a host of its own"):
        System(boards.board("pynq"))


@pytest.mark.rtl
def test_a_small_machine_is_counted_for_xilinx(tmp_path: Path) -> None:
    board = replace(small(), family=boards.XC7, part="xc7z020clg400-1", block_memory=0)
    report = flow.build(board, tmp_path, False, lambda *_: None)
    used = {name: resource.used for name, resource in report.resources.items()}
    assert used["LUT"] > 1000
    assert used["FF"] > 1000
    assert used["DSP"] == 0
    assert json.loads((tmp_path / "report.json").read_text())["resources"]["LUT"]["used"] > 1000


@pytest.mark.rtl
@pytest.mark.slow
def test_a_small_system_becomes_a_bitstream(tmp_path: Path) -> None:
    """And a second call does nothing again. Nothing is optimised away: the memory is all there."""
    report = flow.build(small(), tmp_path, True, lambda *_: None)
    assert report.met
    used = {name: resource.used for name, resource in report.resources.items()}
    assert used["BRAM"] >= 8
    assert used["PLL"] == 1
    assert used["DSP"] == 0
    assert (tmp_path / "top.bit").stat().st_size > 100_000
    assert {path.name for path in tmp_path.glob("*.log")} == {
        "synthesis.log",
        "route.log",
        "pack.log",
    }
    again = flow.build(small(), tmp_path, True, lambda *_: None)
    assert all(stage.reused for stage in again.stages)
    assert again.resources == report.resources
