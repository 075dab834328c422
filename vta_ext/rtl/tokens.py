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
        m.d.comb += [self.room.eq(count != self._depth), self.some.eq(count != 0)]
        m.d.sync += count.eq(count + (self.push & self.room) - (self.pop & self.some))
        return m
