"""Control and counter registers: what a driver reads and writes, 32 bits each."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.rtl.map import COUNTERS, IDENTITY, NUMBER_BITS, Register
from vta_ext.rtl.port import ADDRESS_BITS


class Registers(wiring.Component):
    """Reads and writes of one word a cycle; ``read_word`` comes a cycle after its ``address``.

    ``start`` is 1 for a cycle. The run is over when ``finish`` has come and all is ``idle``: a
    program may end while something is still loaded that it never uses. count_<name>: 1 in a
    cycle that counts.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        events = {f"count_{name}": In(1) for name, _ in COUNTERS[1:]}
        super().__init__(
            {
                "address": In(NUMBER_BITS),
                "write": In(1),
                "write_word": In(32),
                "read_word": Out(32),
                "start": Out(1),
                "running": Out(1),
                "finish": In(1),
                "idle": In(1),
                "arena": Out(ADDRESS_BITS),
                "instructions": Out(ADDRESS_BITS),
                "count": Out(32),
                **events,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        identity = int(self.config.hash, 16)
        readable: dict[int, Value] = {
            Register.IDENTITY: Const(IDENTITY, 32),
            Register.HASH_LOW: Const(identity & 0xFFFFFFFF, 32),
            Register.HASH_HIGH: Const(identity >> 32, 32),
            Register.CONTROL: self.running,
            Register.ARENA: self.arena,
            Register.INSTRUCTIONS: self.instructions,
            Register.COUNT: self.count,
        }
        writes = {
            Register.ARENA: self.arena,
            Register.INSTRUCTIONS: self.instructions,
            Register.COUNT: self.count,
        }
        for place, register in writes.items():
            with m.If(self.write & (self.address == place)):
                m.d.sync += register.eq(self.write_word)
        started = self.write & (self.address == Register.CONTROL) & self.write_word[0]
        m.d.sync += self.start.eq(started & ~self.running)
        finished = Signal()
        with m.If(started):
            m.d.sync += [self.running.eq(1), finished.eq(0)]
        with m.Elif(self.finish):
            m.d.sync += finished.eq(1)
        with m.Elif(finished & self.idle):
            m.d.sync += self.running.eq(0)
        counting = self.running & ~finished

        for number, (name, _) in enumerate(COUNTERS):
            counter = Signal(32, name=name)
            event = Const(1) if name == "cycles" else getattr(self, f"count_{name}")
            with m.If(self.start):
                m.d.sync += counter.eq(0)
            with m.Elif(counting & event):
                m.d.sync += counter.eq(counter + 1)
            readable[int(Register.CYCLES) + number] = counter
        with m.Switch(self.address):
            for number, value in readable.items():
                with m.Case(int(number)):
                    m.d.sync += self.read_word.eq(value)
            with m.Default():
                m.d.sync += self.read_word.eq(0)
        return m
