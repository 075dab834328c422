"""The store module: results and accumulators from their buffers to memory.

Requests and beats of an instruction go out one after another; its tokens follow when memory has
said that its last byte is there, while later instructions are under way already.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.table import MEMORIES, MEMORY_BY_NAME
from vta_ext.rtl.decode import STORE, Decoded
from vta_ext.rtl.elements import pick
from vta_ext.rtl.port import BURST_BYTES, Requests, WriteBeats, taken
from vta_ext.rtl.requests import Splitter
from vta_ext.rtl.transfer import PLACE_BITS, RUNNER_PORTS, geometry, row_bits, shape

#: Entries read ahead, requests whose beats are to come, instructions whose bytes are on the way.
_AHEAD: Final = 4
_REQUESTS: Final = 32
_INSTRUCTIONS: Final = 8


def _times(power_of_two: int, value: Value) -> Value:
    return value << (power_of_two.bit_length() - 1)


class Storer(wiring.Component):
    """Stores, begun and ended through RUNNER_PORTS.

    out_address and out_word: read port of the output buffer. acc_*: the accumulators', which may
    take its time to grant a read and gives ``acc_valid`` with the word.
    """

    def __init__(self, config: Config, beat_bytes: int) -> None:
        self.config, self.beat = config, beat_bytes
        self.shapes = tuple(
            shape(memory, config, beat_bytes)
            for memory in MEMORIES
            if memory.store and config.has(memory.store_needs)
        )
        super().__init__(
            {
                **RUNNER_PORTS,
                "out_address": Out(config.log_acc_depth),
                "out_word": In(8 * config.out_bytes),
                "acc_request": Out(1),
                "acc_address": Out(config.log_acc_depth),
                "acc_grant": In(1),
                "acc_valid": In(1),
                "acc_word": In(8 * config.acc_bytes),
                "requests": Out(Requests(beat_bytes)),
                "beats": Out(WriteBeats(beat_bytes)),
                "written": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, config = Module(), self.config
        m.submodules.splitter = splitter = Splitter(self.beat, row_bits(self.shapes))
        new = Decoded(self.word, STORE, config)
        place = geometry(m, new, self.shapes, config)
        wiring.connect(m, wiring.flipped(self.requests), splitter.requests)
        word = Signal(128)
        fields = Decoded(word, STORE, config)
        reading, sending = Signal(), Signal()
        m.d.comb += [
            splitter.start.eq(self.start),
            splitter.address.eq(place.address),
            splitter.stride.eq(place.stride),
            splitter.row_bytes.eq(place.row_bytes),
            splitter.touching.eq(place.touching),
            splitter.rows.eq(new.y_size),
        ]
        entries = self._read(m, fields, new, reading)
        self._send(m, fields, place.place, entries, sending, splitter)
        self._finish(m, word, splitter, reading | sending)
        with m.If(self.start):
            some = (new.x_size != 0) & (new.y_size != 0)
            m.d.sync += [word.eq(self.word), reading.eq(some), sending.eq(some)]
        return m

    def _read(self, m: Module, fields: Decoded, new: Decoded, reading: Signal) -> SyncFIFO:
        """Entries into a queue, one a cycle while there is room for those that are asked for."""
        width = 8 * max(s.element for s in self.shapes)
        m.submodules.entries = entries = SyncFIFO(width=width, depth=_AHEAD)
        entry, x, y = Signal(16), Signal(16), Signal(16)
        from_acc = Signal()
        m.d.comb += from_acc.eq(fields.memory == MEMORY_BY_NAME["acc"].id)
        flying = Signal(range(_AHEAD + 1))
        wanted, asked, arrived = Signal(), Signal(), Signal()
        m.d.comb += [
            wanted.eq(reading & (entries.level + flying < _AHEAD)),
            self.acc_request.eq(wanted & from_acc),
            self.acc_address.eq(entry),
            self.out_address.eq(entry),
            asked.eq(wanted & (~from_acc | self.acc_grant)),
        ]
        out_valid = Signal()
        m.d.sync += out_valid.eq(asked & ~from_acc)
        m.d.comb += [
            arrived.eq(out_valid | self.acc_valid),
            entries.w_en.eq(arrived),
            entries.w_data.eq(Mux(out_valid, self.out_word, self.acc_word)),
        ]
        m.d.sync += flying.eq(flying + asked - arrived)
        with m.If(self.start):
            m.d.sync += [entry.eq(new.sram_base), x.eq(new.x_size), y.eq(new.y_size)]
        with m.Elif(asked):
            m.d.sync += [entry.eq(entry + 1), x.eq(x - 1)]
            with m.If(x == 1):
                m.d.sync += [x.eq(fields.x_size), y.eq(y - 1)]
                with m.If(y == 1):
                    m.d.sync += reading.eq(0)
        return entries

    def _send(
        self,
        m: Module,
        fields: Decoded,
        place: Signal,
        entries: SyncFIFO,
        sending: Signal,
        splitter: Splitter,
    ) -> None:
        """Beats: chunks of entries, gathered where an element is smaller than a beat."""
        x, y = Signal(16), Signal(16)
        chunk = Signal(range(max(s.chunks for s in self.shapes)))
        spot, row_spot = Signal(PLACE_BITS), Signal(PLACE_BITS)
        data, mask = Signal(8 * self.beat), Signal(self.beat)
        held_data, held_mask = Signal(8 * self.beat), Signal(self.beat)
        last_chunk, last_share = Signal(), Signal()
        for s in self.shapes:
            with m.If(fields.memory == s.memory.id):
                piece = pick(entries.r_data[: 8 * s.element], chunk, 8 * s.chunk)
                at = spot & (s.share - 1)
                m.d.comb += [
                    last_chunk.eq(chunk == s.chunks - 1),
                    last_share.eq(at == s.share - 1),
                    data.eq(held_data | (piece << _times(8 * s.chunk, at))[: 8 * self.beat]),
                    mask.eq(held_mask | (((1 << s.chunk) - 1) << _times(s.chunk, at))[: self.beat]),
                ]
        row_ends, piece_ends, whole, goes = Signal(), Signal(), Signal(), Signal()
        m.submodules.sizes = sizes = SyncFIFOBuffered(
            width=len(self.requests.beats), depth=_REQUESTS
        )
        m.d.comb += [
            sizes.w_en.eq(taken(self.requests)),
            sizes.w_data.eq(self.requests.beats),
            row_ends.eq((x == 1) & last_chunk),
            piece_ends.eq(row_ends & ((fields.x_stride != fields.x_size) | (y == 1))),
            # A beat is whole when nothing can be added to it.
            whole.eq(~last_chunk | last_share | piece_ends),
            self.beats.valid.eq(sending & entries.r_rdy & whole & sizes.r_rdy),
            self.beats.data.eq(data),
            self.beats.mask.eq(mask),
            goes.eq(sending & entries.r_rdy & (~whole | taken(self.beats))),
            entries.r_en.eq(goes & last_chunk),
        ]
        # One more may be at the splitter's output, and one came since this register was set.
        m.d.sync += splitter.open.eq(sizes.level < _REQUESTS - 2)
        sent = Signal(range(BURST_BYTES // self.beat + 1))
        m.d.comb += [
            self.beats.last.eq(sent + 1 == sizes.r_data),
            sizes.r_en.eq(taken(self.beats) & self.beats.last),
        ]
        with m.If(taken(self.beats)):
            m.d.sync += sent.eq(Mux(self.beats.last, 0, sent + 1))
        with m.If(self.start):
            new = Decoded(self.word, STORE, self.config)
            m.d.sync += [
                x.eq(new.x_size),
                y.eq(new.y_size),
                chunk.eq(0),
                spot.eq(place),
                row_spot.eq(place),
                held_data.eq(0),
                held_mask.eq(0),
            ]
        with m.Elif(goes):
            m.d.sync += [
                held_data.eq(Mux(whole, 0, data)),
                held_mask.eq(Mux(whole, 0, mask)),
                chunk.eq(Mux(last_chunk, 0, chunk + 1)),
            ]
            with m.If(last_chunk):
                m.d.sync += [x.eq(x - 1), spot.eq(spot + 1)]
            with m.If(row_ends):
                following = (row_spot + fields.x_stride)[:PLACE_BITS]
                m.d.sync += [x.eq(fields.x_size), y.eq(y - 1)]
                m.d.sync += [spot.eq(following), row_spot.eq(following)]
                with m.If(y == 1):
                    m.d.sync += sending.eq(0)

    def _finish(self, m: Module, word: Signal, splitter: Splitter, busy: Signal) -> None:
        """Counts requests that are written; an instruction is done with its last one."""
        m.submodules.under_way = under_way = SyncFIFOBuffered(width=128 + 20, depth=_INSTRUCTIONS)
        made, waiting = Signal(20), Signal()
        with m.If(self.start):
            m.d.sync += [made.eq(0), waiting.eq(1)]
        with m.Elif(taken(self.requests)):
            m.d.sync += made.eq(made + 1)
        sent, room = Signal(), Signal()
        # One may have come since this register was set.
        m.d.sync += room.eq(under_way.level < _INSTRUCTIONS - 1)
        m.d.comb += [
            sent.eq(waiting & room & ~busy & ~splitter.busy & ~self.requests.valid),
            under_way.w_en.eq(sent),
            under_way.w_data.eq(Cat(word, made)),
            self.ready.eq(~waiting | sent),
        ]
        with m.If(sent & ~self.start):
            m.d.sync += waiting.eq(0)
        written = Signal(20)
        first, needed = under_way.r_data[:128], under_way.r_data[128:]
        m.d.comb += [
            self.done.eq(under_way.r_rdy & (written >= needed)),
            self.done_word.eq(first),
            under_way.r_en.eq(self.done & self.done_ready),
            self.idle.eq(~waiting & (under_way.level == 0)),
        ]
        used = Mux(under_way.r_en, needed, 0)
        m.d.sync += written.eq(written + self.written - used)
