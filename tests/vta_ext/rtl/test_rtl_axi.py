"""Registers over AXI4-Lite, in Amaranth's simulator; the AXI machine as Verilog."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tests.vta_ext.programs import TINY
from vta_ext.rtl.axi import AxiMachine, RegisterSlave
from vta_ext.rtl.map import IDENTITY, Register
from vta_ext.rtl.registers import Registers


async def wait(ctx, cycles: int) -> None:
    for _ in range(cycles):
        await ctx.tick()


def test_registers_over_axi_lite() -> None:
    """Writes, reads and their answers, with a master that takes its time."""
    m = Module()
    m.submodules.slave = slave = RegisterSlave()
    m.submodules.registers = registers = Registers(TINY)
    m.d.comb += [
        registers.address.eq(slave.address),
        registers.write.eq(slave.write),
        registers.write_word.eq(slave.write_word),
        slave.read_word.eq(registers.read_word),
        registers.idle.eq(1),
    ]
    found: dict[str, int] = {}

    async def write(ctx, number: int, value: int, patience: int) -> None:
        ctx.set(slave.bus.awaddr, 4 * number)
        ctx.set(slave.bus.wdata, value)
        ctx.set(slave.bus.awvalid, 1)
        await wait(ctx, patience)
        assert not ctx.get(slave.bus.bvalid)
        ctx.set(slave.bus.wvalid, 1)
        assert ctx.get(slave.bus.awready) and ctx.get(slave.bus.wready)
        await ctx.tick()
        ctx.set(slave.bus.awvalid, 0)
        ctx.set(slave.bus.wvalid, 0)
        await wait(ctx, patience)
        assert ctx.get(slave.bus.bvalid)
        ctx.set(slave.bus.bready, 1)
        await ctx.tick()
        ctx.set(slave.bus.bready, 0)
        assert not ctx.get(slave.bus.bvalid)

    async def read(ctx, number: int, patience: int) -> int:
        ctx.set(slave.bus.araddr, 4 * number)
        ctx.set(slave.bus.arvalid, 1)
        assert ctx.get(slave.bus.arready)
        await ctx.tick()
        ctx.set(slave.bus.arvalid, 0)
        await wait(ctx, patience)
        assert ctx.get(slave.bus.rvalid)
        value = ctx.get(slave.bus.rdata)
        ctx.set(slave.bus.rready, 1)
        await ctx.tick()
        ctx.set(slave.bus.rready, 0)
        assert not ctx.get(slave.bus.rvalid)
        return int(value)

    async def bench(ctx) -> None:
        for patience in (0, 3):
            await write(ctx, Register.ARENA, 0x1000 * (1 + patience), patience)
            found[f"arena {patience}"] = await read(ctx, Register.ARENA, patience)
        found["identity"] = await read(ctx, Register.IDENTITY, 1)
        low = await read(ctx, Register.HASH_LOW, 0)
        found["hash"] = await read(ctx, Register.HASH_HIGH, 2) << 32 | low
        await write(ctx, Register.CONTROL, 1, 0)
        found["running"] = await read(ctx, Register.CONTROL, 0)
        ctx.set(registers.finish, 1)
        await ctx.tick()
        ctx.set(registers.finish, 0)
        await ctx.tick().repeat(2)
        found["rests"] = 1 - await read(ctx, Register.CONTROL, 0)
        found["cycles"] = await read(ctx, Register.CYCLES, 0)
        found["nothing"] = await read(ctx, 31, 0)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found.pop("cycles") in range(3, 12)
    assert found == {
        "arena 0": 0x1000,
        "arena 3": 0x4000,
        "identity": IDENTITY,
        "hash": int(TINY.hash, 16),
        "running": 1,
        "rests": 1,
        "nothing": 0,
    }


@pytest.mark.rtl
def test_the_axi_machine_is_exported() -> None:
    text = verilog.convert(AxiMachine(TINY), name="axi_machine", emit_src=False)
    for port in ("memory__araddr", "memory__awlen", "memory__wstrb", "control__bresp", "done"):
        assert f" {port};" in text


@pytest.mark.rtl
@pytest.mark.parametrize("channel", ["r", "b"])
def test_refused_accesses_are_seen(channel: str) -> None:
    """An error response is a bit of the control register, of no other, until the next start."""
    machine = AxiMachine(TINY)
    found = []

    async def read(ctx, number: int) -> None:
        ctx.set(machine.control.araddr, 4 * number)
        ctx.set(machine.control.arvalid, 1)
        await ctx.tick()
        ctx.set(machine.control.arvalid, 0)
        found.append(ctx.get(machine.control.rdata))
        await ctx.tick()

    async def respond(ctx, response: int) -> None:
        ctx.set(getattr(machine.memory, f"{channel}resp"), response)
        ctx.set(getattr(machine.memory, f"{channel}valid"), 1)
        await ctx.tick()
        ctx.set(getattr(machine.memory, f"{channel}valid"), 0)

    async def bench(ctx) -> None:
        ctx.set(machine.control.rready, 1)
        ctx.set(machine.control.bready, 1)
        await respond(ctx, 0)
        await read(ctx, Register.CONTROL)
        await respond(ctx, 2)
        await read(ctx, Register.CONTROL)
        await read(ctx, Register.ARENA)
        await read(ctx, Register.CONTROL)
        ctx.set(machine.control.awaddr, 4 * Register.CONTROL)
        ctx.set(machine.control.wdata, 1)
        ctx.set(machine.control.awvalid, 1)
        ctx.set(machine.control.wvalid, 1)
        await ctx.tick()
        ctx.set(machine.control.awvalid, 0)
        ctx.set(machine.control.wvalid, 0)
        await read(ctx, Register.CONTROL)

    simulator = Simulator(machine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [0, 2, 0, 2, 1]
