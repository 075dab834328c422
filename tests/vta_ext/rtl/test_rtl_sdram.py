# amaranth: UnusedElaboratable=no
"""The SDRAM controller in Amaranth's simulator, before a chip that watches its rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.sim import Simulator

from tests.vta_ext.rtl.memory_host import Host
from tests.vta_ext.rtl.sdram_chip import SdramChip
from tvm_shiftadd.errors import InputError
from vta_ext.boards.sdram import HOST_CYCLES, Chip, Sdram
from vta_ext.boards.system import SYSTEM_CYCLES
from vta_ext.link.frames import MAX_WORDS
from vta_ext.rtl.bridge import MEMORY_CYCLES

#: 8 MiB, and soon awake.
SMALL = Chip(row_bits=11, column_bits=9, power_up=2_000)
PINS = ("ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe")
#: Bytes that are written: rows of all banks.
SIZE = 8192
#: Cycles between the last word of a frame and the next command.
PAUSE = 1100


class SdramHost(Host):
    """The bridge, which writes a frame's words and reads each word some time after its number."""

    async def tick(self, cycles: int = 1) -> None:
        for _ in range(cycles):
            await self.ctx.tick()

    async def put(self, word: int, values: list[int]) -> None:
        """One frame's words, one in two cycles."""
        for number, value in enumerate(values, word):
            self.ctx.set(self.memory.host_address, number)
            self.ctx.set(self.memory.host_wdata, value)
            self.ctx.set(self.memory.host_write, 1)
            await self.tick()
            self.ctx.set(self.memory.host_write, 0)
            await self.tick()
            self.content[4 * number : 4 * number + 4] = value.to_bytes(4, "little")
        await self.tick(PAUSE)

    async def fill(self) -> None:
        for word in range(0, self.size // 4, MAX_WORDS):
            await self.put(word, [self.random.getrandbits(32) for _ in range(MAX_WORDS)])

    async def get(self, word: int) -> int:
        self.ctx.set(self.memory.host_address, word)
        await self.tick(HOST_CYCLES)
        return int(self.ctx.get(self.memory.host_rdata))

    async def check(self, count: int = 100) -> None:
        """Some words, in order and anywhere."""
        words = [self.random.randrange(self.size // 4) for _ in range(count)]
        for word in (*range(count), *words):
            wanted = int.from_bytes(self.content[4 * word : 4 * word + 4], "little")
            assert await self.get(word) == wanted


def simulated(
    drive: Callable[[SdramHost], Awaitable[None]],
    *others: Callable[[SdramHost], Awaitable[None]],
    mhz: int = 80,
    geometry: Chip = SMALL,
) -> SdramChip:
    """Run a controller with its chip until every driver has ended; the chip."""
    memory = Sdram(mhz * 1_000_000, geometry)
    chip = SdramChip(geometry, mhz)
    hosts: list[SdramHost] = []

    async def watch(ctx: Any) -> None:
        while True:
            found = chip.step({name: ctx.get(getattr(memory.pins, name)) for name in PINS})
            ctx.set(memory.pins.dq_i, found)
            await ctx.tick()

    async def first(ctx: Any) -> None:
        hosts.append(SdramHost(ctx, memory, SIZE, mhz))
        await hosts[0].tick(geometry.power_up * mhz // 1000 + 200)
        await drive(hosts[0])

    def also(other: Callable[[SdramHost], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def run(ctx: Any) -> None:
            while not hosts:
                await ctx.tick()
            mine = SdramHost(ctx, memory, SIZE, mhz)
            mine.content = hosts[0].content
            await other(mine)

        return run

    simulator = Simulator(memory)
    simulator.add_clock(1e-6 / mhz)
    simulator.add_testbench(watch, background=True)
    for bench in (first, *map(also, others)):
        simulator.add_testbench(bench)
    simulator.run()
    return chip


@pytest.mark.parametrize(
    "mhz",
    [80, *(pytest.param(mhz, marks=pytest.mark.rtl) for mhz in (25, 60, 100))],
)
def test_memory_holds_what_host_and_machine_write(mhz: int) -> None:
    seen = []

    async def drive(host: SdramHost) -> None:
        await host.fill()
        await host.check()
        bursts = host.bursts(40)
        seen.append((await host.read(bursts, 1.0), sum(count for _, count in bursts)))
        await host.read(host.bursts(40), 0.3)
        await host.write(host.bursts(40), 1.0)
        await host.write(host.bursts(40), 0.3)
        await host.check()

    chip = simulated(drive, mhz=mhz)
    assert set(chip.commands) == {
        *("activate", "mode", "nop", "precharge", "read", "refresh", "write"),
    }
    ((cycles, beats),) = seen
    # At 80 MHz: a row in every fourth burst or so, and refreshes.
    assert cycles < 1.3 * beats


def test_a_stream_takes_a_word_a_cycle() -> None:
    """Long requests that follow each other lose what refreshes and new rows take, and no more."""
    seen = []

    async def drive(host: SdramHost) -> None:
        await host.fill()
        bursts = [(address, 128) for address in range(0, host.size, 256)]
        seen.append((await host.read(bursts, 1.0), host.size // 2))

    simulated(drive)
    ((cycles, words),) = seen
    assert words <= cycles < 1.06 * words


def test_reads_and_writes_take_turns() -> None:
    """Neither waits for the end of the other's requests."""
    ends = {}
    half = SIZE // 2

    async def drive(host: SdramHost) -> None:
        await host.fill()
        ready.append(True)
        await host.write(host.bursts(40, 0, half), 0.9)
        ends["write"] = 1
        while len(ends) < 2:
            await host.tick()
        await host.check()

    async def read(host: SdramHost) -> None:
        while not ready:
            await host.tick()
        await host.read(host.bursts(40, half, 2 * half), 0.9)
        ends["read"] = 1

    ready: list[bool] = []
    chip = simulated(drive, read)
    # Turns, not one after the other: a read follows a write many times.
    assert chip.turns > 25


def test_a_machine_that_is_reset_leaves_nothing_behind() -> None:
    async def drive(host: SdramHost) -> None:
        ctx, port = host.ctx, host.memory.read_requests
        await host.fill()
        for number in range(25):
            ctx.set(host.memory.running, 1)
            ctx.set(host.memory.read_beats.ready, 0)
            ctx.set(port.valid, 1)
            ctx.set(port.address, 256 * (number % 32))
            ctx.set(port.beats, 128)
            await host.tick(host.random.randrange(1, 170))
            ctx.set(port.valid, 0)
            ctx.set(host.memory.clear, 1)
            ctx.set(host.memory.running, 0)
            await host.tick()
            ctx.set(host.memory.clear, 0)
            await host.tick(host.random.randrange(40))
            await host.read(host.bursts(2), 1.0)
            word = host.random.randrange(host.size // 4)
            await host.put(word, [number])
            assert await host.get(word) == number
        await host.check()

    simulated(drive)


def test_what_lies_beyond_is_not_there() -> None:
    async def drive(host: SdramHost) -> None:
        await host.fill()
        await host.write([(SMALL.size * n + 64, 8) for n in (1, 2, 4, 511)], 1.0)
        await host.check()

    simulated(drive)


def test_a_host_that_waits_long_sees_what_the_machine_has_written() -> None:
    """The same number before and after a run."""

    async def drive(host: SdramHost) -> None:
        await host.put(7, [1])
        assert await host.get(7) == 1
        ctx = host.ctx
        ctx.set(host.memory.running, 1)
        await host.write([(28, 2)], 1.0)
        ctx.set(host.memory.running, 0)
        assert await host.get(7) == int.from_bytes(host.content[28:32], "little")

    simulated(drive)


@pytest.mark.rtl
def test_a_chip_wakes_up() -> None:
    """The one of the boards, which takes 200 microseconds."""

    async def drive(host: SdramHost) -> None:
        await host.fill()
        await host.check()

    simulated(drive, geometry=Chip())


def test_the_bridge_waits_for_the_memory() -> None:
    assert HOST_CYCLES + SYSTEM_CYCLES <= MEMORY_CYCLES


def test_clocks_that_the_chip_cannot_have() -> None:
    for clock in (10_000_000, 133_000_000):
        with pytest.raises(InputError, match="20 to 100 MHz at this latency, not 1"):
            Sdram(clock)
    assert Chip().size == 32 << 20
