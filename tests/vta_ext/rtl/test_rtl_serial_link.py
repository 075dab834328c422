"""The serial port and the bridge, in Amaranth's simulator, against the frames of the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from tvm_shiftadd.errors import DependencyError, InputError
from vta_ext.link.frames import (
    ANSWER,
    FLAG,
    MAX_WORDS,
    PROTOCOL,
    Decoder,
    Frame,
    Identity,
    Opcode,
    Status,
    encode,
)
from vta_ext.rtl.area import area
from vta_ext.rtl.bridge import MEMORY_CYCLES, Bridge, Endpoint
from vta_ext.rtl.uart import LEAST_DIVISOR, Receiver, Transmitter, divisor

CLOCK, MEMORY_WORDS = 80_000_000, 600


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


class Board:
    """An endpoint with memory and 32 registers, to which bytes are sent without a serial port.

    Words that are read come as late as they may.
    """

    def __init__(self) -> None:
        self.module = m = Module()
        m.submodules.endpoint = self.endpoint = e = Endpoint(CLOCK, MEMORY_WORDS)
        m.submodules.memory = memory = Memory(shape=32, depth=MEMORY_WORDS, init=range(100, 700))
        m.submodules.registers = registers = Memory(shape=32, depth=32, init=range(32))
        for port, address, data, enable in (
            (memory.write_port(), e.mem_addr, e.mem_wdata, e.mem_write),
            (registers.write_port(), e.reg_addr, e.reg_wdata, e.reg_write),
        ):
            m.d.comb += [port.addr.eq(address), port.data.eq(data), port.en.eq(enable)]
        for reads, address, found in (
            (memory.read_port(), e.mem_addr, e.mem_rdata),
            (registers.read_port(), e.reg_addr, e.reg_rdata),
        ):
            m.d.comb += reads.addr.eq(address)
            word = reads.data
            for cycle in range(MEMORY_CYCLES - 1):
                later = Signal(32, name=f"later{cycle}")
                m.d.sync += later.eq(word)
                word = later
            m.d.comb += found.eq(word)
        self.memory, self.decoder = memory, Decoder()
        #: Writes of registers, and resets, as they happened.
        self.events: list[tuple[str, int, int]] = []

    def run(self, bench: Callable) -> None:
        async def watch(ctx) -> None:
            e = self.endpoint
            async for _, _, number, value, write, reset in ctx.tick().sample(
                e.reg_addr, e.reg_wdata, e.reg_write, e.reset
            ):
                if write:
                    self.events.append(("write", number, value))
                if reset:
                    self.events.append(("reset", 0, 0))

        simulator = Simulator(self.module)
        simulator.add_clock(1e-6)
        simulator.add_testbench(watch, background=True)
        simulator.add_testbench(bench)
        simulator.run()

    async def put(self, ctx, data: bytes) -> None:
        """Send bytes, as close to each other as they may come."""
        for byte in data:
            ctx.set(self.endpoint.received, byte)
            ctx.set(self.endpoint.received_valid, 1)
            await ctx.tick()
            ctx.set(self.endpoint.received_valid, 0)
            await ctx.tick().repeat(9)

    async def get(self, ctx, patience: int = 60) -> list[Frame]:
        """The frames that come, until nothing has come for so many cycles."""
        found, silent = [], 0
        while silent < patience:
            ctx.set(self.endpoint.sent_ready, silent > 1)
            if ctx.get(self.endpoint.sent_valid) and silent > 1:
                found += self.decoder.feed(bytes([ctx.get(self.endpoint.sent)]))
                silent = 0
            silent += 1
            await ctx.tick()
        ctx.set(self.endpoint.sent_ready, 0)
        return found

    async def ask(self, ctx, frame: Frame) -> Frame:
        """The one answer to a command."""
        await self.put(ctx, encode(frame))
        (answer,) = await self.get(ctx, 60 + 3 * frame.count)
        assert (answer.sequence, answer.opcode) == (frame.sequence, frame.opcode | ANSWER)
        assert len(answer.payload) == 4 * answer.count
        return answer


def test_commands() -> None:
    """Each command, and what it must not do."""
    board = Board()

    async def bench(ctx) -> None:
        identity = await board.ask(ctx, Frame(1, Opcode.IDENTIFY, len(Identity)))
        assert identity.payload == words(0, 1, 2, PROTOCOL, CLOCK, MEMORY_WORDS)
        flags = words(0x7E7D7E7D, 0x5E5D5E5D, 0x20202020)
        wrote = await board.ask(ctx, Frame(2, Opcode.WRITE_MEMORY, 3, 10, flags))
        assert (wrote.address, wrote.payload) == (Status.DONE, b"")
        read = await board.ask(ctx, Frame(3, Opcode.READ_MEMORY, 5, 9))
        assert read.payload == words(109) + flags + words(113)
        await board.ask(ctx, Frame(4, Opcode.WRITE_REGISTERS, 2, 4, words(77, 88)))
        read = await board.ask(ctx, Frame(5, Opcode.READ_REGISTERS, 3, 4))
        assert read.payload == words(77, 88, 6)
        await board.ask(ctx, Frame(6, Opcode.RESET))
        nothing = await board.ask(ctx, Frame(7, Opcode.READ_MEMORY))
        assert (nothing.address, nothing.count) == (Status.DONE, 0)

    board.run(bench)
    assert board.events == [("write", 4, 77), ("write", 5, 88), ("reset", 0, 0)]


def test_what_is_refused_changes_nothing() -> None:
    board = Board()
    e = board.endpoint

    async def bench(ctx) -> None:
        async def status(sequence: int, opcode: int, count: int, address: int) -> int:
            payload = bytes(4 * count) if opcode & 1 else b""
            answer = await board.ask(ctx, Frame(sequence, opcode, count, address, payload))
            assert not answer.payload
            return answer.address

        assert await status(1, 6, 1, 0) == Status.UNKNOWN
        assert await status(2, 0x47, 1, 0) == Status.UNKNOWN
        for sequence, opcode, count, address in (
            (3, Opcode.WRITE_MEMORY, 2, MEMORY_WORDS - 1),
            (4, Opcode.READ_MEMORY, 1, MEMORY_WORDS),
            (5, Opcode.READ_MEMORY, 2, 0xFFFFFFFF),
            (6, Opcode.READ_MEMORY, MAX_WORDS + 1, 0),
            (7, Opcode.WRITE_REGISTERS, 1, 32),
            (8, Opcode.IDENTIFY, 1, len(Identity)),
        ):
            assert await status(sequence, opcode, count, address) == Status.OUTSIDE
        ctx.set(e.running, 1)
        assert await status(9, Opcode.WRITE_MEMORY, 1, 5) == Status.RUNNING
        assert await status(10, Opcode.READ_MEMORY, 1, 5) == Status.RUNNING
        read = await board.ask(ctx, Frame(11, Opcode.READ_REGISTERS, 1, 3))
        assert read.payload == words(3)
        ctx.set(e.running, 0)
        # Up to the end of memory, none of which has changed.
        read = await board.ask(ctx, Frame(12, Opcode.READ_MEMORY, 2, MEMORY_WORDS - 2))
        assert read.payload == words(698, 699)
        for row in (0, 5, MEMORY_WORDS - 1):
            assert ctx.get(board.memory.data[row]) == 100 + row

    board.run(bench)
    assert board.events == []


def test_a_repeated_command_is_done_once() -> None:
    board = Board()

    async def bench(ctx) -> None:
        start = Frame(9, Opcode.WRITE_REGISTERS, 1, 3, words(1))
        for _ in range(3):
            assert (await board.ask(ctx, start)).address == Status.DONE
        first = Frame(10, Opcode.READ_MEMORY, 1, 0)
        assert [(await board.ask(ctx, first)).payload for _ in range(2)] == [words(100)] * 2
        # Refused the first time: refused again, though the machine rests by now.
        write = Frame(11, Opcode.WRITE_MEMORY, 1, 0, words(5))
        ctx.set(board.endpoint.running, 1)
        assert (await board.ask(ctx, write)).address == Status.RUNNING
        ctx.set(board.endpoint.running, 0)
        assert (await board.ask(ctx, write)).address == Status.RUNNING
        # Another host may begin with any number: what it reads first is read anew.
        read = await board.ask(ctx, Frame(11, Opcode.READ_MEMORY, 1, 0))
        assert (read.address, read.payload) == (Status.DONE, words(100))
        assert (await board.ask(ctx, Frame(12, write.opcode, 1, 0, words(5)))).address == 0
        assert ctx.get(board.memory.data[0]) == 5

    board.run(bench)
    assert board.events == [("write", 3, 1)]


def test_damaged_frames_are_dropped() -> None:
    """Whatever came before, the next whole frame is answered; nothing of the others is done."""
    board = Board()
    write = encode(Frame(1, Opcode.WRITE_MEMORY, 3, 0, words(0x7E, 2, 3)))
    flipped = bytes([*write[:9], write[9] ^ 4, *write[10:]])
    long = Frame(1, Opcode.WRITE_MEMORY, 3, 0, words(1, 2, 3, 4))
    damaged = (
        flipped,
        write[:-7],  # truncated
        write[:5] + write[6:],  # a byte is missing
        write[:6] + write[5:],  # a byte came twice
        bytes([0x55, 0x7D, FLAG, FLAG, 0x7D]),
        write[1:],  # no flag in front
        encode(long),  # another length than it says
        bytes([FLAG]) + bytes(4 * MAX_WORDS + 50),  # no end
        bytes([FLAG]) + bytes(12) + bytes([FLAG]),  # as zeros have no CRC
    )

    async def bench(ctx) -> None:
        for number, data in enumerate(damaged):
            await board.put(ctx, data)
            assert await board.get(ctx) == []
            read = await board.ask(ctx, Frame(20 + number, Opcode.READ_MEMORY, 3, 0))
            assert read.payload == words(100, 101, 102)

    board.run(bench)


def test_bytes_during_an_answer_are_ignored() -> None:
    board = Board()
    read = encode(Frame(1, Opcode.READ_MEMORY, 1, 7))

    async def bench(ctx) -> None:
        ctx.set(board.endpoint.sent_ready, 0)
        await board.put(ctx, read + read)
        assert [frame.payload for frame in await board.get(ctx)] == [words(107)]
        # The rest of a frame whose beginning was missed is not taken for a command.
        await board.put(ctx, read[5:])
        assert await board.get(ctx) == []
        assert (await board.ask(ctx, Frame(2, Opcode.READ_MEMORY, 1, 8))).payload == words(108)

    board.run(bench)


@pytest.mark.rtl
def test_the_longest_frames() -> None:
    """As many words as the block memory has: the CRC behind them must not come round."""
    board = Board()
    payload = words(*range(1 << 20, (1 << 20) + MAX_WORDS))

    async def bench(ctx) -> None:
        write = Frame(1, Opcode.WRITE_MEMORY, MAX_WORDS, 3, payload)
        assert (await board.ask(ctx, write)).address == Status.DONE
        read = await board.ask(ctx, Frame(2, Opcode.READ_MEMORY, MAX_WORDS, 3))
        assert read.payload == payload
        assert ctx.get(board.memory.data[2]) == 102
        assert ctx.get(board.memory.data[3 + MAX_WORDS]) == 103 + MAX_WORDS

    board.run(bench)


@pytest.mark.parametrize(("cycles", "skew"), [(LEAST_DIVISOR, 0), (26, 0), (27, 1), (27, -1)])
def test_serial_port(cycles: int, skew: int) -> None:
    """Bytes of a sender whose bits are a cycle longer or shorter, with short glitches."""
    m = Module()
    m.submodules.receiver = receiver = Receiver(cycles)
    m.submodules.transmitter = transmitter = Transmitter(cycles + skew)
    glitch = Signal()
    m.d.comb += [receiver.pin.eq(transmitter.pin ^ glitch), transmitter.valid.eq(1)]
    sent, found = [0x00, 0xFF, 0x55, 0x7E, 0x81], []

    async def bench(ctx) -> None:
        number, now = 0, 0
        while len(found) < len(sent):
            ctx.set(transmitter.data, sent[min(number, len(sent) - 1)])
            number += ctx.get(transmitter.ready)
            ctx.set(glitch, cycles > 20 and now % 31 == 0)
            await ctx.tick()
            now += 1
            assert now < 20 * len(sent) * cycles
            if ctx.get(receiver.valid):
                found.append(ctx.get(receiver.data))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == sent


def test_a_byte_without_its_stop_bit_is_dropped() -> None:
    m = Module()
    m.submodules.receiver = receiver = Receiver(8)
    found: list[int] = []

    async def bench(ctx) -> None:
        async def line(level: int, cycles: int) -> None:
            ctx.set(receiver.pin, level)
            for _ in range(cycles):
                await ctx.tick()
                if ctx.get(receiver.valid):
                    found.append(ctx.get(receiver.data))

        await line(1, 20)
        await line(0, 3)  # shorter than a start bit
        await line(1, 20)
        await line(0, 79)  # no stop bit
        await line(1, 40)
        for bit in (0, 1, 0, 0, 0, 0, 1, 0, 1, 1):
            await line(bit, 8)
        await line(1, 20)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [0b10100001]


def test_the_bridge_is_endpoint_and_serial_port() -> None:
    m = Module()
    m.submodules.bridge = bridge = Bridge(400, 16, baud=100)
    m.submodules.sender = sender = Transmitter(4)
    m.submodules.listener = listener = Receiver(4)
    m.d.comb += [bridge.rx.eq(sender.pin), listener.pin.eq(bridge.tx)]
    m.d.comb += [bridge.mem_rdata.eq(0x1234), bridge.reg_rdata.eq(0x77)]
    decoder, found = Decoder(), []

    async def bench(ctx) -> None:
        for byte in encode(Frame(1, Opcode.IDENTIFY, 6)):
            ctx.set(sender.data, byte)
            ctx.set(sender.valid, 1)
            while not ctx.get(sender.ready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(sender.valid, 0)
        for _ in range(5000):
            await ctx.tick()
            if ctx.get(listener.valid):
                found.extend(decoder.feed(bytes([ctx.get(listener.data)])))
            if found:
                return

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [Frame(1, ANSWER, 6, 0, words(0x77, 0x77, 0x77, PROTOCOL, 400, 16))]


@pytest.mark.rtl
def test_the_bridge_is_small() -> None:
    try:
        found = area(Bridge(CLOCK, 1 << 16))
    except DependencyError as error:
        pytest.skip(str(error))
    assert 400 < found.luts < 900
    assert found.multipliers == 0


def test_rates() -> None:
    assert divisor(80e6, 3_000_000) == 27
    assert divisor(60e6, 3_000_000) == 20
    with pytest.raises(InputError, match=r"25 MHz has 8\.33 cycles a bit at 3000000 baud"):
        divisor(25e6, 3_000_000)
    with pytest.raises(InputError, match="expected 4 or more"):
        divisor(6e6, 3_000_000)
