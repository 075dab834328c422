"""Splits the rows of a LOAD or STORE into requests of the memory port, one a cycle."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.rtl.port import ADDRESS_BITS, BURST_BYTES, Requests

#: The longest row: 65535 elements of 2048 bytes or so.
ROW_BITS = 30


class Splitter(wiring.Component):
    """From ``start`` on, requests for ``rows`` rows of ``row_bytes`` bytes from byte ``address``.

    Rows are ``stride`` bytes apart; rows that touch make one piece, as if they were one. ``open``
    lets requests out. ``busy`` is 1 until the last one is out.
    """

    def __init__(self, beat_bytes: int) -> None:
        self._beat = beat_bytes
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "stride": In(ROW_BITS),
                "row_bytes": In(ROW_BITS),
                "rows": In(16),
                "open": In(1),
                "busy": Out(1),
                "requests": Out(Requests(beat_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inside, shift = BURST_BYTES.bit_length() - 1, self._beat.bit_length() - 1
        row, cursor = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        stride, row_bytes, left = Signal(ROW_BITS), Signal(ROW_BITS), Signal(ROW_BITS)
        rows = Signal(16)
        # Beats of the request at hand that earlier rows of the piece have made already.
        begun = Signal(ADDRESS_BITS)
        touching = Signal()

        room, segment = Signal(inside + 1), Signal(inside + 1)
        row_ends, last, flush = Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(BURST_BYTES - cursor[:inside]),
            row_ends.eq(left <= room),
            segment.eq(Mux(row_ends, left, room)),
            last.eq(rows == 1),
            # At a boundary, and where the piece ends.
            flush.eq((left >= room) | (row_ends & (~touching | last))),
            self.requests.valid.eq(self.busy & flush & self.open),
            self.requests.address.eq(begun & ~Const(self._beat - 1, ADDRESS_BITS)),
        ]
        end = Signal(inside + 1)
        m.d.comb += [
            end.eq(cursor[:inside] + segment),
            self.requests.beats.eq(((end + (self._beat - 1)) >> shift) - (begun[:inside] >> shift)),
        ]
        with m.If(self.start):
            m.d.sync += [
                row.eq(self.address),
                cursor.eq(self.address),
                begun.eq(self.address),
                stride.eq(self.stride),
                row_bytes.eq(self.row_bytes),
                left.eq(self.row_bytes),
                rows.eq(self.rows),
                touching.eq(self.stride == self.row_bytes),
                self.busy.eq((self.rows != 0) & (self.row_bytes != 0)),
            ]
        with m.Elif(self.busy & (~flush | (self.requests.ready & self.open))):
            following = Signal(ADDRESS_BITS)
            m.d.comb += following.eq(Mux(row_ends, row + stride, cursor + segment))
            m.d.sync += [cursor.eq(following), left.eq(left - segment)]
            with m.If(flush):
                m.d.sync += begun.eq(following)
            with m.If(row_ends):
                m.d.sync += [row.eq(row + stride), left.eq(row_bytes), rows.eq(rows - 1)]
                with m.If(last):
                    m.d.sync += self.busy.eq(0)
        return m
