"""The memory port: bursts of beats, reads and writes each in order; and who shares the reads.

A request is a byte address, at a multiple of a beat, and a number of beats; it stays inside 256
bytes that begin at a multiple of 256, which AXI4 asks for too. Beats of reads come in the order of
requests. A write's beats follow its request in the same order, and ``done`` comes once for each
request when its bytes are in memory.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
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
        self._count, self._beat_bytes = count, beat_bytes
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
        m.submodules.order = order = SyncFIFOBuffered(
            width=max((self._count - 1).bit_length(), 1), depth=_WAITING
        )
        self._ask(m, order)
        self._answer(m, order)
        return m

    def _ask(self, m: Module, order: SyncFIFOBuffered) -> None:
        """Requests into a register in front of the port."""
        makers = [getattr(self, f"requests{n}") for n in range(self._count)]
        port, free = self.port_requests, Signal()
        chosen = Signal(range(self._count))
        for n in reversed(range(self._count)):
            with m.If(makers[n].valid):
                m.d.comb += chosen.eq(n)
        picked = Array(makers)[chosen]
        m.d.comb += [
            free.eq((~port.valid | port.ready) & order.w_rdy),
            order.w_en.eq(free & picked.valid),
            order.w_data.eq(chosen),
        ]
        for n, maker in enumerate(makers):
            m.d.comb += maker.ready.eq((chosen == n) & free)
        with m.If(order.w_en):
            m.d.sync += [
                port.valid.eq(1),
                port.address.eq(picked.address + Mux(chosen == 0, 0, self.base)),
                port.beats.eq(picked.beats),
            ]
        with m.Elif(port.ready):
            m.d.sync += port.valid.eq(0)

    def _answer(self, m: Module, order: SyncFIFOBuffered) -> None:
        """Beats to their takers, and with each a bit for every taker: whose it is."""
        takers = [getattr(self, f"beats{n}") for n in range(self._count)]
        port, width = self.port_beats, 8 * self._beat_bytes + 1
        m.submodules.relay = relay = Relay(width + self._count)
        whose = Cat(*(order.r_data == n for n in range(self._count)))
        m.d.comb += [
            relay.into.valid.eq(port.valid & order.r_rdy),
            relay.into.payload.eq(Cat(port.data, port.last, whose)),
            port.ready.eq(relay.into.ready & order.r_rdy),
            order.r_en.eq(taken(port) & port.last),
            relay.out.ready.eq(Cat(*(taken(taker) for taker in takers)).any()),
        ]
        for n, taker in enumerate(takers):
            m.d.comb += [
                taker.valid.eq(relay.out.valid & relay.out.payload[width + n]),
                Cat(taker.data, taker.last).eq(relay.out.payload),
            ]


class Relay(wiring.Component):
    """A stream of ``width`` bits by way of two registers, the second one for a taker that stops.

    So nothing that the taker does goes to the maker in the same cycle. A cycle's delay.
    """

    def __init__(self, width: int) -> None:
        super().__init__({"into": In(stream.Signature(width)), "out": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        into, out = self.into, self.out
        second, more = Signal.like(into.payload, reset_less=True), Signal()
        m.d.comb += into.ready.eq(~more)
        with m.If(out.ready | ~out.valid):
            m.d.sync += [
                out.payload.eq(Mux(more, second, into.payload)),
                out.valid.eq(more | into.valid),
                more.eq(0),
            ]
        with m.Elif(taken(into)):
            m.d.sync += more.eq(1)
        with m.If(~more):
            m.d.sync += second.eq(into.payload)
        return m


def taken(stream: Value) -> Value:
    """1 in the cycle in which something goes over."""
    return stream.valid & stream.ready
