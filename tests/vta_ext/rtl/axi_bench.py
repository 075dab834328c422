"""Run inside a simulator by cocotb: the packaged machine with a memory and a processor on AXI.

The environment names a folder with ``bench.json`` (what to write to registers, chances, seed) and
``memory.bin``. What memory holds after the run is left in ``after.bin``, and what was seen in
``seen.json``. Rules of AXI4 that cocotbext-axi takes for granted are checked here; the numbers are
those of the sections of the specification.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

_ADDRESS = ("addr", "len", "size", "burst", "id", "lock", "cache", "prot", "qos")
#: Channels on which the machine offers something, and what must stay as it is (A3.2.1).
OFFERS = {
    "m_axi_ar": _ADDRESS,
    "m_axi_aw": _ADDRESS,
    "m_axi_w": ("data", "strb", "last"),
    "s_axi_r": ("data", "resp"),
    "s_axi_b": ("resp",),
}
PAGE = 4096


class Watch:
    """Checks the machine's side of the buses in every cycle."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.seen: Counter[str] = Counter()
        self.asked: list[int] = []
        self.written: list[int] = [0]
        self.waiting: dict[str, dict[str, int]] = {}

    def bit(self, name: str) -> bool:
        return bool(int(getattr(self.dut, name).value))

    async def run(self) -> None:
        while True:
            await RisingEdge(self.dut.aclk)
            for prefix in OFFERS:
                self.step(prefix)

    def step(self, prefix: str) -> None:
        """One cycle of a channel."""
        offered = None
        if self.bit(f"{prefix}valid"):
            names = OFFERS[prefix]
            offered = {n: int(getattr(self.dut, f"{prefix}{n}").value) for n in names}
        waiting = self.waiting.pop(prefix, None)
        assert waiting in (None, offered), f"{prefix} changed while it waited: {offered}"
        if offered is None:
            return
        if self.bit(f"{prefix}ready"):
            self.seen[f"{prefix} taken"] += 1
            self.taken(prefix, offered)
        else:
            self.seen[f"{prefix} waits"] += 1
            self.waiting[prefix] = offered

    def taken(self, prefix: str, offered: dict[str, int]) -> None:
        if "addr" in offered:
            beat = len(self.dut.m_axi_wdata) // 8
            first = offered["addr"]
            last = first + (offered["len"] + 1) * beat - 1
            # A burst stays within 4 KiB (A3.4.1).
            assert first // PAGE == last // PAGE, (
                f"{first:#x} to {last:#x} cross a multiple of 4096"
            )
            whole = (1 << offered["size"], offered["burst"], first % beat) == (beat, 1, 0)
            assert whole, f"{first:#x}: not an incrementing burst of whole beats"
            if prefix == "m_axi_aw":
                self.asked.append(offered["len"] + 1)
        if prefix == "m_axi_w":
            self.written[-1] += 1
            if offered["last"]:
                self.written.append(0)

    def finish(self) -> None:
        """``wlast`` comes with the last beat of each burst and with no other (A3.4.1)."""
        same = [*self.asked, 0] == self.written
        assert same, f"bursts of {self.asked} beats, but written were {self.written}"


def refusals(rng: random.Random, chance: float):
    """Endless: true in a cycle in which a handshake is refused."""
    while True:
        yield rng.random() < chance


@cocotb.test()
async def runs_a_program(dut) -> None:
    folder = Path(os.environ["AXI_BENCH_FOLDER"])
    given = json.loads((folder / "bench.json").read_text())
    image = (folder / "memory.bin").read_bytes()
    rng = random.Random(given["seed"])
    dut.aresetn.value = 0
    Clock(dut.aclk, 10, "ns").start()
    ram = AxiRam(
        AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, reset_active_level=False,
        size=given["size"],
    )  # fmt: skip
    master = AxiLiteMaster(
        AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn, reset_active_level=False
    )
    ram.write(given["base"], image)
    for channel in (
        ram.read_if.ar_channel, ram.read_if.r_channel, ram.write_if.aw_channel,
        ram.write_if.w_channel, ram.write_if.b_channel, master.write_if.aw_channel,
        master.write_if.w_channel, master.write_if.b_channel, master.read_if.ar_channel,
        master.read_if.r_channel,
    ):  # fmt: skip
        channel.set_pause_generator(refusals(rng, given["chance"]))
    await ClockCycles(dut.aclk, 8)
    dut.aresetn.value = 1
    await ClockCycles(dut.aclk, 8)
    watch = Watch(dut)
    cocotb.start_soon(watch.run())
    for number, value in given["registers"]:
        await master.write_dword(4 * number, value)
    for _ in range(given["patience"]):
        state = await master.read_dword(4 * given["control"])
        if not state & 1:
            break
    else:
        raise AssertionError("the machine did not finish")
    assert state == 0, "a response was an error"
    watch.finish()
    found = {str(n): await master.read_dword(4 * n) for n in given["reads"]}
    (folder / "after.bin").write_bytes(bytes(ram.read(given["base"], len(image))))
    (folder / "seen.json").write_text(json.dumps({"registers": found, "seen": watch.seen}))
