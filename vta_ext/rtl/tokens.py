"""A token queue: tokens carry nothing, so a counter is all of it."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class TokenQueue(wiring.Component):
    """At most ``depth`` tokens. ``push`` needs ``room``, ``pop`` needs ``some``."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        super().__init__({"push": In(1), "pop": In(1), "room": Out(1), "some": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(self._depth + 1))
        # In registers, since whole modules wait for these two.
        some, full = Signal(), Signal()
        into, out = self.push & ~full, self.pop & some
        m.d.comb += [self.room.eq(~full), self.some.eq(some)]
        m.d.sync += count.eq(count + into - out)
        with m.If(into & ~out):
            m.d.sync += [some.eq(1), full.eq(count == self._depth - 1)]
        with m.Elif(out & ~into):
            m.d.sync += [some.eq(count != 1), full.eq(0)]
        return m
