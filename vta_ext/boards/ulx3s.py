"""The top level for Radiona's ULX3S: clock, reset, pins.

The board's 25 MHz oscillator feeds one PLL, the USB bridge's serial pins are the link to the host.
The first LED is on while the clock is stable, the second one during a run.
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
        return m


def plan(board: Board, name: str) -> BuildPlan:
    """The netlist ``<name>.il`` and the pins ``<name>.lpf`` of the top level."""
    return ULX3S_85F_Platform().prepare(Top(board), name)
