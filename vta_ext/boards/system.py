"""The machine with block memory as its DRAM and a serial link to its host: a whole system."""

from __future__ import annotations

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import InputError
from vta_ext.boards import Board
from vta_ext.boards.memory import BlockMemory
from vta_ext.rtl.bridge import Bridge
from vta_ext.rtl.machine import Machine


class System(wiring.Component):
    """What a board without memory and processor carries; all in domain ``sync``.

    rx, tx: the serial pins, idle at 1. running: 1 during a run.

    Raises InputError for a board that has no block memory or no link.
    """

    def __init__(self, board: Board) -> None:
        if not board.block_memory or not board.baud:
            raise InputError(f"{board.name} has memory and a host of its own")
        self.machine = Machine(board.config, board.memory_bits)
        self.memory = BlockMemory(board.block_memory, self.machine.beat)
        clock = board.clock_mhz * 1_000_000
        self.bridge = Bridge(clock, board.block_memory // 4, board.baud)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "running": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, memory, bridge = self.machine, self.memory, self.bridge
        # A cycle later than asked for, from a register, because it goes to all others.
        reset = Signal()
        m.d.sync += reset.eq(bridge.reset)
        m.submodules.machine = ResetInserter(reset)(machine)
        m.submodules.memory = ResetInserter(reset)(memory)
        m.submodules.bridge = bridge
        for name in ("read_requests", "read_beats", "write_requests", "write_beats"):
            wiring.connect(m, getattr(machine, name), getattr(memory, name))
        # From registers, as the bridge's words come from a block memory.
        m.d.sync += [
            machine.address.eq(bridge.reg_addr),
            machine.write.eq(bridge.reg_write),
            machine.write_word.eq(bridge.reg_wdata),
        ]
        m.d.comb += [
            machine.written.eq(memory.written),
            bridge.reg_rdata.eq(machine.read_word),
            memory.host_address.eq(bridge.mem_addr),
            memory.host_wdata.eq(bridge.mem_wdata),
            memory.host_write.eq(bridge.mem_write),
            bridge.mem_rdata.eq(memory.host_rdata),
            bridge.running.eq(machine.running),
            bridge.rx.eq(self.rx),
            self.tx.eq(bridge.tx),
            self.running.eq(machine.running),
        ]
        return m
