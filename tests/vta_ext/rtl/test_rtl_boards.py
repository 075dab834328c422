# amaranth: UnusedElaboratable=no
"""Block memory as DRAM, the board's clock, and a small system through the whole tool flow."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
pytest.importorskip("amaranth_boards", reason="no pins: pip install 'tvm-shiftadd[rtl]'")

from amaranth.sim import Simulator

from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import InputError
from vta_ext import boards, presets
from vta_ext.boards import flow
from vta_ext.boards.memory import HOST_CYCLES, BlockMemory, banks
from vta_ext.boards.system import System
from vta_ext.boards.ulx3s import Pll, pll
from vta_ext.rtl.bridge import MEMORY_CYCLES

Burst = tuple[int, int]


class Host:
    """Drives a memory as bridge and machine do, and keeps what must be in it."""

    def __init__(self, ctx: Any, memory: BlockMemory, seed: int) -> None:
        self.ctx, self.memory, self.random = ctx, memory, random.Random(seed)
        self.content = bytearray(memory.size)

    def bursts(self, count: int) -> list[Burst]:
        beat, size = self.memory.beat, self.memory.size
        found = []
        for _ in range(count):
            address = self.random.randrange(size // beat) * beat
            room = min(256 - address % 256, size - address) // beat
            found.append((address, self.random.randint(1, room)))
        return found

    async def fill(self) -> None:
        for word in range(self.memory.size // 4):
            value = self.random.getrandbits(32)
            self.ctx.set(self.memory.host_address, word)
            self.ctx.set(self.memory.host_wdata, value)
            self.ctx.set(self.memory.host_write, 1)
            await self.ctx.tick()
            self.content[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
        self.ctx.set(self.memory.host_write, 0)
        await self.ctx.tick()

    async def check(self) -> None:
        found, last = bytearray(), self.memory.size // 4 - 1
        for cycle in range(1, self.memory.size // 4 + HOST_CYCLES):
            self.ctx.set(self.memory.host_address, min(cycle - 1, last))
            await self.ctx.tick()
            if cycle >= HOST_CYCLES:
                found += self.ctx.get(self.memory.host_rdata).to_bytes(4, "little")
        assert found == self.content

    async def read(self, bursts: list[Burst], chance: float) -> int:
        """All beats in order; cycles that they took."""
        ctx, port, beats = self.ctx, self.memory.read_requests, self.memory.read_beats
        beat, waiting, found, cycles = self.memory.beat, list(bursts), [], 0
        expected = [
            (int.from_bytes(self.content[at : at + beat], "little"), at == first + (n - 1) * beat)
            for first, n in bursts
            for at in range(first, first + n * beat, beat)
        ]
        while len(found) < len(expected):
            ctx.set(port.valid, bool(waiting))
            if waiting:
                ctx.set(port.address, waiting[0][0])
                ctx.set(port.beats, waiting[0][1])
            ctx.set(beats.ready, self.random.random() < chance)
            if waiting and ctx.get(port.ready):
                waiting.pop(0)
            if ctx.get(beats.valid) and ctx.get(beats.ready):
                found.append((ctx.get(beats.data), bool(ctx.get(beats.last))))
            await ctx.tick()
            cycles += 1
        ctx.set(port.valid, 0)
        assert found == expected
        return cycles

    async def write(self, bursts: list[Burst], chance: float) -> None:
        ctx, port, beats = self.ctx, self.memory.write_requests, self.memory.write_beats
        beat, waiting, written = self.memory.beat, list(bursts), 0
        queue = [(at, n, i) for at, n in bursts for i in range(n)]
        words: Any = None
        while written < len(bursts):
            ctx.set(port.valid, bool(waiting))
            if waiting:
                ctx.set(port.address, waiting[0][0])
                ctx.set(port.beats, waiting[0][1])
            if words is None and queue and self.random.random() < chance:
                words = (self.random.getrandbits(8 * beat), self.random.getrandbits(beat))
                ctx.set(beats.data, words[0])
                ctx.set(beats.mask, words[1])
                ctx.set(beats.last, queue[0][2] == queue[0][1] - 1)
            ctx.set(beats.valid, words is not None)
            if waiting and ctx.get(port.ready):
                waiting.pop(0)
            if words is not None and ctx.get(beats.ready):
                at, _, number = queue.pop(0)
                data = words[0].to_bytes(beat, "little")
                for lane in range(beat):
                    if words[1] >> lane & 1:
                        self.content[at + number * beat + lane] = data[lane]
                words = None
            await ctx.tick()
            written += ctx.get(self.memory.written)
        ctx.set(beats.valid, 0)


@pytest.mark.parametrize("beat", [4, 8, 16])
def test_memory_holds_what_host_and_machine_write(beat: int) -> None:
    memory = BlockMemory(2048 + 256, beat)
    seen = []

    async def drive(ctx: Any) -> None:
        host = Host(ctx, memory, beat)
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
    assert HOST_CYCLES <= MEMORY_CYCLES


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
