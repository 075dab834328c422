"""A serial port: bytes from and to two pins, eight bits, no parity, one stop bit."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import InputError

#: The fewest cycles of a bit: three samples about its middle, and one more.
LEAST_DIVISOR: Final = 4
#: How far a bit may be too long or too short. Ten of them end half a bit off at 5 %, which both
#: sides share.
_TOLERANCE: Final = 0.02


def divisor(clock: float, baud: int) -> int:
    """Cycles of a clock of so many hertz in one bit.

    Raises InputError where the clock is too slow, or no whole number of its cycles comes within
    2 % of a bit.
    """
    cycles = round(clock / baud)
    if cycles < LEAST_DIVISOR or abs(cycles * baud / clock - 1) > _TOLERANCE:
        raise InputError(
            f"a clock of {clock / 1e6:g} MHz has {clock / baud:.2f} cycles a bit at {baud} baud, "
            f"expected {LEAST_DIVISOR} or more and a whole number within 2 %; choose another rate"
        )
    return cycles


class Receiver(wiring.Component):
    """Bytes from ``pin``: ``valid`` is 1 for one cycle, with the byte in ``data``.

    Each bit, of ``divisor`` cycles, is what two of three samples about its middle are. A byte
    without its stop bit is dropped.
    """

    def __init__(self, divisor: int) -> None:
        self._divisor = divisor
        super().__init__({"pin": In(1, init=1), "data": Out(8), "valid": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.pin, level, init=1)
        before = Signal(2, init=3)
        m.d.sync += before.eq(Cat(level, before[0]))
        bit = Signal()
        m.d.comb += bit.eq((level & before[0]) | (level & before[1]) | (before[0] & before[1]))

        timer, left = Signal(range(self._divisor)), Signal(range(11))
        shifted = Signal(9, reset_less=True)
        m.d.comb += self.data.eq(shifted[:8])
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            # Of the start bit, two cycles have passed when a majority is low.
            m.d.sync += timer.eq(self._divisor // 2 - 1)
            with m.If(~bit):
                m.d.sync += left.eq(10)
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self._divisor - 1),
                shifted.eq(Cat(shifted[1:], bit)),
                left.eq(left - 1),
            ]
            with m.If((left == 10) & bit):  # too short for a start bit
                m.d.sync += left.eq(0)
            with m.If(left == 1):
                m.d.sync += self.valid.eq(bit)
        return m


class Transmitter(wiring.Component):
    """Sends ``data`` on ``pin`` when ``valid`` and ``ready`` meet, a bit in ``divisor`` cycles."""

    def __init__(self, divisor: int) -> None:
        self._divisor = divisor
        super().__init__({"pin": Out(1, init=1), "data": In(8), "valid": In(1), "ready": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer, left = Signal(range(self._divisor)), Signal(range(11))
        # The pin's bit, and those to come; stop bits follow by themselves.
        shifted = Signal(9, init=0x1FF)
        m.d.comb += [self.pin.eq(shifted[0]), self.ready.eq(left == 0)]
        with m.If(left == 0):
            m.d.sync += timer.eq(self._divisor - 1)
            with m.If(self.valid):
                m.d.sync += [shifted.eq(Cat(0, self.data)), left.eq(10)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self._divisor - 1),
                shifted.eq(Cat(shifted[1:], 1)),
                left.eq(left - 1),
            ]
        return m
