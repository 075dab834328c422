"""The machine with its DRAM, block memory or an SDRAM chip, and a serial link to its host."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import InputError
from vta_ext.boards import Board
from vta_ext.boards.memory import BlockMemory
from vta_ext.boards.sdram import Pins, Sdram, chip
from vta_ext.rtl.bridge import Bridge
from vta_ext.rtl.machine import Machine

#: Cycles between the bridge and the memory's port for the host.
SYSTEM_CYCLES: Final = 1


class System(wiring.Component):
    """What a board without memory and processor carries; all in domain ``sync``.

    rx, tx: the serial pins, idle at 1. running: 1 during a run. sdram: the chip's pins, on a board
    whose memory it is, see :mod:`vta_ext.boards.sdram`.

    Raises InputError for a board that has no memory or no link.
    """

    def __init__(self, board: Board) -> None:
        if not board.memory or not board.baud:
            raise InputError(f"{board.name} has memory and a host of its own")
        self.machine = Machine(board.config, board.memory_bits)
        clock = board.clock_mhz * 1_000_000
        self.bridge = Bridge(clock, board.memory // 4, board.baud)
        ports = {"rx": In(1, init=1), "tx": Out(1, init=1), "running": Out(1)}
        self.memory: BlockMemory | Sdram
        if board.sdram:
            self.memory = Sdram(clock, chip(board.sdram))
            ports["sdram"] = Out(Pins(self.memory.chip))
        else:
            self.memory = BlockMemory(board.block_memory, self.machine.beat)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, memory, bridge = self.machine, self.memory, self.bridge
        # A cycle later than asked for, from a register, because it goes to all others.
        reset = Signal()
        m.d.sync += reset.eq(bridge.reset)
        m.submodules.machine = ResetInserter(reset)(machine)
        if isinstance(memory, Sdram):
            # The chip is not to be forgotten: only what the machine asks of it.
            m.submodules.memory = memory
            m.d.comb += [memory.clear.eq(reset), memory.running.eq(machine.running)]
            wiring.connect(m, wiring.flipped(self.sdram), memory.pins)
        else:
            m.submodules.memory = ResetInserter(reset)(memory)
        m.submodules.bridge = bridge
        for name in ("read_requests", "read_beats", "write_requests", "write_beats"):
            wiring.connect(m, getattr(machine, name), getattr(memory, name))
        # From registers, as the bridge's words come from a block memory.
        m.d.sync += [
            machine.address.eq(bridge.reg_addr),
            machine.write.eq(bridge.reg_write),
            machine.write_word.eq(bridge.reg_wdata),
            memory.host_address.eq(bridge.mem_addr),
            memory.host_wdata.eq(bridge.mem_wdata),
            memory.host_write.eq(bridge.mem_write),
        ]
        m.d.comb += [
            machine.written.eq(memory.written),
            bridge.reg_rdata.eq(machine.read_word),
            bridge.mem_rdata.eq(memory.host_rdata),
            bridge.running.eq(machine.running),
            bridge.rx.eq(self.rx),
            self.tx.eq(bridge.tx),
            self.running.eq(machine.running),
        ]
        return m
