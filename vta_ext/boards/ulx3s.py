"""The top level for Radiona's ULX3S: clock, reset, pins.

The board's 25 MHz oscillator feeds one PLL, the USB bridge's serial pins are the link to the host.
The first LED is on while the clock is stable, the second one during a run.

The SDRAM's clock is three quarters of a period late. Its pins have registers in both directions, so
that delays are those of pads: a command is there 0.75 periods before the chip's edge and 0.25 after
it; its word comes a period after that edge and at most 6 ns (tAC), stays until another period and
2.5 ns (tOH) have gone, and is taken at the third edge of this clock after the command's. At 80 MHz
that is right as long as pads and wires, both ways together, take 0.6 to 9.6 ns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from amaranth.build.run import BuildPlan
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Signal,
)
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from tvm_shiftadd.errors import InputError
from vta_ext.boards import Board
from vta_ext.boards.system import System

OSCILLATOR_MHZ: Final = 25
#: What the PLL's oscillator can do, and the least that its phase detector compares, in MHz.
_VCO_MHZ: Final = range(400, 801)
_LEAST_COMPARED_MHZ: Final = 3.125
_DIVISORS: Final = range(1, 129)


@dataclass(frozen=True)
class Pll:
    """Divisors of an EHXPLLL whose feedback is its output."""

    reference: int
    feedback: int
    output: int


def pll(clock_mhz: int) -> Pll:
    """Divisors for ``clock_mhz``, exactly, with the oscillator nearest to 600 MHz.

    Raises InputError where there are none.
    """
    found = [
        Pll(reference, clock_mhz * reference // OSCILLATOR_MHZ, output)
        for reference in _DIVISORS
        if OSCILLATOR_MHZ / reference >= _LEAST_COMPARED_MHZ
        and clock_mhz * reference % OSCILLATOR_MHZ == 0
        and clock_mhz * reference // OSCILLATOR_MHZ in _DIVISORS
        for output in _DIVISORS
        if clock_mhz * output in _VCO_MHZ
    ]
    if not found:
        raise InputError(
            f"the PLL cannot make {clock_mhz} MHz of {OSCILLATOR_MHZ} MHz; choose a multiple of 5 "
            "from 5 to 400"
        )
    return min(found, key=lambda p: (p.reference, abs(clock_mhz * p.output - 600)))


class Top(Elaboratable):
    """The system of ``board`` on a ULX3S; Amaranth's platform brings the pins."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._pll = pll(board.clock_mhz)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        oscillator = platform.request("clk25").i
        clock, locked = Signal(), Signal()
        late: dict[str, Any] = {}
        if self._board.sdram:
            m.domains.sdram = sdram = ClockDomain(reset_less=True)
            # Eighths of the oscillator's period, from the phase of the other output.
            eighths = 8 * (self._pll.output - 1) + 8 * self._pll.output * 3 // 4
            late = {
                "p_CLKOS_ENABLE": "ENABLED",
                "p_CLKOS_DIV": self._pll.output,
                "p_CLKOS_CPHASE": eighths // 8,
                "p_CLKOS_FPHASE": eighths % 8,
                "o_CLKOS": sdram.clk,
            }
        m.submodules.pll = Instance(
            "EHXPLLL",
            ("a", "FREQUENCY_PIN_CLKI", str(OSCILLATOR_MHZ)),
            ("a", "FREQUENCY_PIN_CLKOP", str(self._board.clock_mhz)),
            p_CLKI_DIV=self._pll.reference,
            p_CLKFB_DIV=self._pll.feedback,
            p_CLKOP_DIV=self._pll.output,
            p_CLKOP_ENABLE="ENABLED",
            # In phase with the reference: half a period of the output less one.
            p_CLKOP_CPHASE=self._pll.output - 1,
            p_CLKOP_FPHASE=0,
            **late,
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=oscillator,
            i_CLKFB=clock,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=clock,
            o_LOCK=locked,
        )
        m.d.comb += ClockSignal().eq(clock)
        m.submodules.reset = ResetSynchronizer(~locked)

        m.submodules.system = system = System(self._board)
        pins = platform.request("uart", 0)
        m.d.comb += [
            system.rx.eq(pins.rx.i),
            pins.tx.o.eq(system.tx),
            platform.request("led", 0).o.eq(locked),
            platform.request("led", 1).o.eq(system.running),
        ]
        if self._board.sdram:
            self._sdram(m, platform, system)
        return m

    def _sdram(self, m: Module, platform: Any, system: System) -> None:
        """A register at each of the chip's pins; its clock by way of one, too."""
        names = ("clk", "clk_en", "cs", "we", "ras", "cas", "ba", "a", "dq", "dqm")
        ports = platform.request("sdram", 0, dir=dict.fromkeys(names, "-"))
        m.submodules.sdram_clk = clock = io.DDRBuffer("o", ports.clk, o_domain="sdram")
        m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
        pins = system.sdram
        for name in names[1:]:
            buffer = io.FFBuffer("io" if name == "dq" else "o", getattr(ports, name))
            m.submodules[f"sdram_{name}"] = buffer
            value = {"clk_en": 1, "cs": 1, "dq": pins.dq_o}
            m.d.comb += buffer.o.eq(value[name] if name in value else getattr(pins, name))
            if name == "dq":
                m.d.comb += [buffer.oe.eq(pins.dq_oe), pins.dq_i.eq(buffer.i)]


def plan(board: Board, name: str) -> BuildPlan:
    """The netlist ``<name>.il`` and the pins ``<name>.lpf`` of the top level."""
    return ULX3S_85F_Platform().prepare(Top(board), name)
