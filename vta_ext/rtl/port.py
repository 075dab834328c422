"""The memory port: bursts of beats, reads and writes each in order; and who shares the reads.

A request is a byte address, at a multiple of a beat, and a number of beats; it stays inside 256
bytes that begin at a multiple of 256, which AXI4 asks for too. Beats of reads come in the order of
requests. A write's beats follow its request in the same order, and ``done`` comes once for each
request when its bytes are in memory.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, Signature

#: The most bytes of one request.
BURST_BYTES: Final = 256
ADDRESS_BITS: Final = 32
#: Requests of reads that may wait for their beats.
_WAITING: Final = 128


class Requests(Signature):
    """Requests, as their maker sees them."""

    def __init__(self, beat_bytes: int) -> None:
        self.beat_bytes = beat_bytes
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(ADDRESS_BITS),
                "beats": Out(range(BURST_BYTES // beat_bytes + 1)),
            }
        )


class Beats(Signature):
    """Beats of reads, as the memory sees them; ``last`` marks the end of a request."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__(
            {"valid": Out(1), "ready": In(1), "data": Out(8 * beat_bytes), "last": Out(1)}
        )


class WriteBeats(Signature):
    """Beats of writes, as the machine sees them; a byte whose bit of ``mask`` is 0 stays."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "data": Out(8 * beat_bytes),
                "mask": Out(beat_bytes),
                "last": Out(1),
            }
        )


class Readers(wiring.Component):
    """Shares the reads of the port among ``count`` makers of requests, the first one first.

    requests, beats: one pair for each. ``base`` is added to the addresses of all but the first,
    which has absolute ones. port_requests, port_beats: the memory's.
    """

    def __init__(self, count: int, beat_bytes: int) -> None:
        self._count = count
        pairs = {f"requests{n}": In(Requests(beat_bytes)) for n in range(count)}
        pairs |= {f"beats{n}": Out(Beats(beat_bytes)) for n in range(count)}
        super().__init__(
            {
                **pairs,
                "base": In(ADDRESS_BITS),
                "port_requests": Out(Requests(beat_bytes)),
                "port_beats": In(Beats(beat_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        numbers = range(self._count)
        makers = [getattr(self, f"requests{n}") for n in numbers]
        takers = [getattr(self, f"beats{n}") for n in numbers]
        port, beats = self.port_requests, self.port_beats
        m.submodules.order = order = SyncFIFOBuffered(
            width=max((self._count - 1).bit_length(), 1), depth=_WAITING
        )
        chosen, before = Signal(range(self._count)), Signal(range(self._count))
        # A request that waits must not change, so it keeps its turn.
        waits = Signal()
        for n in reversed(numbers):
            with m.If(makers[n].valid):
                m.d.comb += chosen.eq(n)
        with m.If(waits):
            m.d.comb += chosen.eq(before)
        m.d.sync += [waits.eq(port.valid & ~port.ready), before.eq(chosen)]
        all_makers = Array(makers)
        picked = all_makers[chosen]
        m.d.comb += [
            port.valid.eq(picked.valid & order.w_rdy),
            port.address.eq(picked.address + Mux(chosen == 0, 0, self.base)),
            port.beats.eq(picked.beats),
            order.w_en.eq(port.valid & port.ready),
            order.w_data.eq(chosen),
        ]
        for n in numbers:
            mine = order.r_rdy & (order.r_data == n)
            m.d.comb += [
                makers[n].ready.eq((chosen == n) & port.ready & order.w_rdy),
                takers[n].valid.eq(beats.valid & mine),
                takers[n].data.eq(beats.data),
                takers[n].last.eq(beats.last),
            ]
            with m.If(mine):
                m.d.comb += beats.ready.eq(takers[n].ready)
        m.d.comb += order.r_en.eq(beats.valid & beats.ready & beats.last)
        return m


def taken(stream: Value) -> Value:
    """1 in the cycle in which something goes over."""
    return stream.valid & stream.ready
