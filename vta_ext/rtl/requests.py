"""Splits the rows of a LOAD or STORE into requests of the memory port, one a cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.rtl.port import ADDRESS_BITS, BURST_BYTES, Requests

#: Bits of a number of elements, or of rows.
COUNT_BITS = 16


class Splitter(wiring.Component):
    """From ``start`` on, requests for ``rows`` rows of ``row_bytes`` bytes from byte ``address``.

    Sizes of rows have ``row_bits``. Rows are ``stride`` bytes apart; rows that touch,
    ``touching``, make one piece, as if they were one. ``open`` lets one more request go to the
    output, where it waits for its ``ready``; ``leaves``: it is there from the next cycle on.
    ``busy`` is 1 until the last one has gone there; a new start may come then.
    """

    def __init__(self, beat_bytes: int, row_bits: int) -> None:
        self._beat, self._row_bits = beat_bytes, row_bits
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "stride": In(row_bits),
                "row_bytes": In(row_bits),
                "rows": In(COUNT_BITS),
                "touching": In(1),
                "open": In(1),
                "leaves": Out(1),
                "busy": Out(1),
                "requests": Out(Requests(beat_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inside, shift = BURST_BYTES.bit_length() - 1, self._beat.bit_length() - 1
        # Addresses without their last bits: of the 256 bytes at hand, and of the row after this.
        block, following = Signal(ADDRESS_BITS - inside), Signal(ADDRESS_BITS)
        stride, row_bytes = Signal(self._row_bits), Signal(self._row_bits)
        rows = Signal(COUNT_BITS)
        # What is left of the row, counted from the beginning of the 256 bytes at hand.
        reach = Signal(self._row_bits + 1)
        # The request at hand, which earlier rows of the piece may have begun.
        begun = Signal(ADDRESS_BITS)
        touching, last, begins = Signal(), Signal(), Signal()

        row_ends, flush = Signal(), Signal()
        m.d.comb += [
            row_ends.eq(~(reach[inside + 1 :].any() | (reach[inside] & reach[:inside].any()))),
            # At a boundary, and where the piece ends.
            flush.eq(reach[inside:].any() | (row_ends & (~touching | last))),
        ]
        beats = Signal.like(self.requests.beats)
        end = Mux(row_ends, (reach[: inside + 1] + (self._beat - 1)) >> shift, BURST_BYTES >> shift)
        m.d.comb += [
            beats.eq(end - (begun[:inside] >> shift)),
            self.leaves.eq(
                self.busy
                & ~begins
                & flush
                & self.open
                & (~self.requests.valid | self.requests.ready)
            ),
        ]
        with m.If(self.leaves):
            m.d.sync += [
                self.requests.valid.eq(1),
                self.requests.address.eq(begun & ~Const(self._beat - 1, ADDRESS_BITS)),
                self.requests.beats.eq(beats),
            ]
        with m.Elif(self.requests.ready):
            m.d.sync += self.requests.valid.eq(0)

        # A start comes while this rests, late in its cycle, and what it starts with comes from wide
        # sums. So only busy waits for it, and the first row begins in the cycle after.
        with m.If(~self.busy):
            m.d.sync += [
                following.eq(self.address),
                stride.eq(self.stride),
                row_bytes.eq(self.row_bytes),
                rows.eq(self.rows),
                touching.eq(self.touching),
                begins.eq(1),
                self.busy.eq(self.start & (self.rows != 0) & (self.row_bytes != 0)),
            ]
        with m.Elif(begins | ~flush | self.leaves):
            m.d.sync += [
                block.eq(block + 1),
                # Less 256.
                reach[inside:].eq(reach[inside:] - 1),
            ]
            with m.If(flush):
                m.d.sync += begun.eq(Cat(Const(0, inside), block + 1))
            with m.If(begins | row_ends):
                m.d.sync += [
                    block.eq(following[inside:]),
                    following.eq(following + stride),
                    reach.eq(row_bytes + following[:inside]),
                    rows.eq(rows - ~begins),
                    last.eq(rows == Mux(begins, 1, 2)),
                    begins.eq(0),
                ]
                with m.If(begins | flush):
                    m.d.sync += begun.eq(following)
                with m.If(~begins & last):
                    m.d.sync += self.busy.eq(0)
        return m
