"""The machine behind AXI: an AXI4 master to memory, and registers as an AXI4-Lite slave.

The memory port keeps AXI4's rules already (bursts of whole beats that cross no multiple of 256
bytes, stable requests), so that signals are only renamed. Identifiers are all 0: reads come back
in order, and so do writes.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from vta_ext.config import Config
from vta_ext.rtl.machine import Machine
from vta_ext.rtl.map import FAILED_BIT, NUMBER_BITS, Register
from vta_ext.rtl.port import ADDRESS_BITS

#: Bytes of the registers' window.
WINDOW_BITS: Final = NUMBER_BITS + 2
_INCREMENTING: Final = 1


class AxiMaster(Signature):
    """The AXI4 signals that this master drives or reads; the others are constants of the board."""

    def __init__(self, beat_bytes: int) -> None:
        address = {
            "addr": Out(ADDRESS_BITS),
            "len": Out(8),
            "size": Out(3),
            "burst": Out(2),
            "valid": Out(1),
            "ready": In(1),
        }
        data = 8 * beat_bytes
        super().__init__(
            {
                **{f"ar{name}": member for name, member in address.items()},
                **{f"aw{name}": member for name, member in address.items()},
                "rdata": In(data),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
                "wdata": Out(data),
                "wstrb": Out(beat_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class AxiLite(Signature):
    """A 32-bit AXI4-Lite slave, as its master sees it."""

    def __init__(self) -> None:
        super().__init__(
            {
                "awaddr": Out(WINDOW_BITS),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(WINDOW_BITS),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class RegisterSlave(wiring.Component):
    """AXI4-Lite to the registers' own port: one write or read at a time, whole words."""

    def __init__(self) -> None:
        super().__init__(
            {
                "bus": In(AxiLite()),
                "address": Out(NUMBER_BITS),
                "write": Out(1),
                "write_word": Out(32),
                "read_word": In(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, bus = Module(), self.bus
        fetched, held = Signal(), Signal()
        word = Signal(32)
        writes, reads = Signal(), Signal()
        m.d.comb += [
            # A write is taken when address and data are there and its answer has a place.
            writes.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            reads.eq(bus.arvalid & ~writes & ~fetched & ~held),
            bus.awready.eq(writes),
            bus.wready.eq(writes),
            bus.arready.eq(reads),
            self.write.eq(writes),
            self.write_word.eq(bus.wdata),
            self.address.eq(bus.araddr[2:]),
        ]
        with m.If(writes):
            m.d.comb += self.address.eq(bus.awaddr[2:])
            m.d.sync += bus.bvalid.eq(1)
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        # The word comes a cycle after its address, and stays until it is taken.
        m.d.sync += fetched.eq(reads)
        m.d.comb += [
            bus.rvalid.eq(fetched | held),
            bus.rdata.eq(self.read_word),
        ]
        with m.If(held):
            m.d.comb += bus.rdata.eq(word)
        with m.If(fetched & ~bus.rready):
            m.d.sync += [held.eq(1), word.eq(self.read_word)]
        with m.Elif(bus.rready):
            m.d.sync += held.eq(0)
        return m


class AxiMachine(wiring.Component):
    """The machine with ``memory`` (AXI4 master), ``control`` (AXI4-Lite slave) and ``done``.

    done: 1 while the machine rests. failed: a response was an error; it stays until the next start,
    and is bit 1 of the control register.
    """

    def __init__(self, config: Config, memory_bits: int = 64) -> None:
        self._machine = Machine(config, memory_bits)
        super().__init__(
            {
                "memory": Out(AxiMaster(memory_bits // 8)),
                "control": In(AxiLite()),
                "done": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, bus = Module(), self.memory
        m.submodules.machine = machine = self._machine
        m.submodules.slave = slave = RegisterSlave()
        wiring.connect(m, wiring.flipped(self.control), slave.bus)
        size = machine.beat.bit_length() - 1
        reads, writes = machine.read_requests, machine.write_requests
        of_control = Signal()
        m.d.sync += of_control.eq(slave.address == Register.CONTROL)
        m.d.comb += [
            machine.address.eq(slave.address),
            machine.write.eq(slave.write),
            machine.write_word.eq(slave.write_word),
            slave.read_word.eq(machine.read_word | (of_control & self.failed) << FAILED_BIT),
            self.done.eq(~machine.running),
            machine.read_beats.valid.eq(bus.rvalid),
            machine.read_beats.data.eq(bus.rdata),
            machine.read_beats.last.eq(bus.rlast),
            bus.rready.eq(machine.read_beats.ready),
            bus.wvalid.eq(machine.write_beats.valid),
            bus.wdata.eq(machine.write_beats.data),
            bus.wstrb.eq(machine.write_beats.mask),
            bus.wlast.eq(machine.write_beats.last),
            machine.write_beats.ready.eq(bus.wready),
            bus.bready.eq(1),
            machine.written.eq(bus.bvalid),
        ]
        for prefix, requests in (("ar", reads), ("aw", writes)):
            m.d.comb += [
                getattr(bus, f"{prefix}valid").eq(requests.valid),
                getattr(bus, f"{prefix}addr").eq(requests.address),
                getattr(bus, f"{prefix}len").eq(requests.beats - 1),
                getattr(bus, f"{prefix}size").eq(size),
                getattr(bus, f"{prefix}burst").eq(_INCREMENTING),
                requests.ready.eq(getattr(bus, f"{prefix}ready")),
            ]
        bad = (bus.rvalid & bus.rresp[1]) | (bus.bvalid & bus.bresp[1])
        with m.If(bad):
            m.d.sync += self.failed.eq(1)
        with m.Elif(slave.write & (slave.address == Register.CONTROL) & ~machine.running):
            m.d.sync += self.failed.eq(0)
        return m
