"""Runs LOADs: asks for their rows, and writes what comes, with its padding, into buffers.

Requests of an instruction go out while beats of earlier ones still come in.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.schema import Memory
from vta_ext.rtl.buffers import Buffer, buffer_of, buffers, chunk_bits
from vta_ext.rtl.decode import LOAD, Decoded
from vta_ext.rtl.elements import INPUT_BITS, pick
from vta_ext.rtl.port import BURST_BYTES, Beats, Relay, Requests, taken
from vta_ext.rtl.requests import Splitter
from vta_ext.rtl.transfer import PLACE_BITS, RUNNER_PORTS, Shape, geometry, row_bits, shape
from vta_ext.rtl.walk import Walk

#: Bytes and requests that one loader may have in flight, and instructions.
FLYING_BYTES: Final = 2048
FLYING_REQUESTS: Final = 32
_INSTRUCTIONS: Final = 8


class Loader(wiring.Component):
    """Loads of some ``memories``, begun and ended through RUNNER_PORTS.

    ``<buffer>_write``, ``_address``, ``_word``, ``_enables``: the write port of each buffer,
    which must be ``_ready``.
    """

    def __init__(self, memories: tuple[Memory, ...], config: Config, beat_bytes: int) -> None:
        self.config, self.beat = config, beat_bytes
        self.shapes = tuple(shape(memory, config, beat_bytes) for memory in memories)
        self.buffers = buffers(memories, config, beat_bytes)
        ports: dict[str, wiring.Member] = {}
        for name, buffer in self.buffers.items():
            ports |= {
                f"{name}_write": Out(1),
                f"{name}_ready": In(1),
                f"{name}_address": Out(buffer.address_bits * buffer.banks),
                f"{name}_word": Out(buffer.width * buffer.banks),
                f"{name}_enables": Out(buffer.grains),
            }
        super().__init__(
            {
                **RUNNER_PORTS,
                "requests": Out(Requests(beat_bytes)),
                "beats": In(Beats(beat_bytes)),
                **ports,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.splitter = splitter = Splitter(self.beat, row_bits(self.shapes))
        m.submodules.under_way = under_way = SyncFIFOBuffered(width=128, depth=_INSTRUCTIONS)
        fields = Decoded(self.word, LOAD, self.config)
        place = geometry(m, fields, self.shapes, self.config)
        wiring.connect(m, wiring.flipped(self.requests), splitter.requests)
        m.d.comb += [
            self.ready.eq(~splitter.busy & under_way.w_rdy),
            splitter.start.eq(self.start),
            splitter.address.eq(place.address),
            splitter.stride.eq(place.stride),
            splitter.row_bytes.eq(place.row_bytes),
            splitter.touching.eq(place.touching),
            splitter.rows.eq(fields.y_size),
            under_way.w_en.eq(self.start),
            under_way.w_data.eq(self.word),
        ]
        self._relay(m)
        self._limit(m, splitter)
        self._write(m, under_way)
        return m

    def _relay(self, m: Module) -> None:
        """Beats ``_came``, by way of registers: what takes them is far from what brings them."""
        m.submodules.relay = relay = Relay(8 * self.beat + 1)
        port, self._came = self.beats, Beats(self.beat).create()
        m.d.comb += [
            relay.into.valid.eq(port.valid),
            port.ready.eq(relay.into.ready),
            relay.into.payload.eq(Cat(port.data, port.last)),
            self._came.valid.eq(relay.out.valid),
            relay.out.ready.eq(self._came.ready),
            Cat(self._came.data, self._came.last).eq(relay.out.payload),
        ]

    def _limit(self, m: Module, splitter: Splitter) -> None:
        """Requests and beats in flight; a new one waits until there is room for the longest."""
        most, longest = FLYING_BYTES // self.beat, BURST_BYTES // self.beat
        beats, requests = Signal(range(most + 1)), Signal(range(FLYING_REQUESTS + 1))
        # A request counts from the first cycle in which it is there to be taken.
        new = Signal()
        m.d.sync += new.eq(splitter.leaves)
        asked, came = Signal(range(most + 1)), taken(self.beats)
        m.d.comb += [
            asked.eq(beats + Mux(new, self.requests.beats, 0)),
            splitter.open.eq((asked <= most - longest) & (requests + new < FLYING_REQUESTS)),
        ]
        m.d.sync += [
            beats.eq(asked - came),
            requests.eq(requests + new - (came & self.beats.last)),
        ]

    def _write(self, m: Module, under_way: SyncFIFOBuffered) -> None:
        """Entries of the first instruction, one chunk or one padding a cycle."""
        config = self.config
        word = Signal(128)
        fields = Decoded(word, LOAD, config)
        m.submodules.walk = walk = Walk(config, PLACE_BITS)
        active, inside = walk.active, walk.inside
        entry, chunk = Signal(16), Signal(range(max(s.chunks for s in self.shapes)))
        # Place of an element in its beat, and that of the first element of its row.
        spot, row_spot = Signal(PLACE_BITS), Signal(PLACE_BITS)

        last_chunk, last_share = Signal(), Signal()
        # Elements that are written at once: what is left of a beat, where the buffer has banks.
        together = Signal(PLACE_BITS, init=1)
        m.d.comb += [together.eq(1), walk.run_ends.eq(walk.left == 1)]
        for s in self.shapes:
            at = spot & (s.share - 1)
            with m.If(fields.memory == s.memory.id):
                m.d.comb += [last_chunk.eq(chunk == s.chunks - 1), last_share.eq(at == s.share - 1)]
                if self.buffers[buffer_of(s.memory)].banks > 1:
                    self._gather(m, s, at, walk, together, last_share)
        piece_ends, moves, full, ready = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            piece_ends.eq(walk.run_ends & ((fields.x_stride != fields.x_size) | walk.last_row)),
            moves.eq(active & ready & (~inside | self._came.valid)),
            full.eq(moves & (~inside | last_chunk)),
            self._came.ready.eq(
                active & ready & inside & ((last_share & last_chunk) | ~last_chunk | piece_ends)
            ),
            walk.step.eq(full),
            walk.together.eq(together),
        ]
        m.d.comb += ready.eq(1)
        for name in self.buffers:
            with m.If(self._into(fields, name)):
                m.d.comb += ready.eq(getattr(self, f"{name}_ready"))

        with m.If(moves & inside):
            m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
            with m.If(last_chunk):
                m.d.sync += spot.eq(spot + together)
                # What comes next of elements is in the next row.
                with m.If(walk.run_ends):
                    m.d.sync += [
                        spot.eq(row_spot + fields.x_stride),
                        row_spot.eq(row_spot + fields.x_stride),
                    ]
        with m.If(full):
            m.d.sync += entry.eq(entry + together)
        finished = Signal()
        with m.If(finished & ~active & self.done_ready):
            m.d.sync += finished.eq(0)
        m.d.comb += [
            self.done.eq(finished & ~active),
            self.done_word.eq(word),
            self.idle.eq(~finished & (under_way.level == 0)),
            under_way.r_en.eq(~finished | (~active & self.done_ready)),
        ]
        new = Decoded(under_way.r_data, LOAD, config)
        place = geometry(m, new, self.shapes, config)
        with m.If(under_way.r_en & under_way.r_rdy):
            m.d.comb += walk.start.eq(1)
            m.d.sync += [
                word.eq(under_way.r_data),
                finished.eq(1),
                chunk.eq(0),
                spot.eq(place.place),
                row_spot.eq(place.place),
                entry.eq(new.sram_base),
            ]
        m.d.comb += [walk.new.eq(under_way.r_data), walk.word.eq(word)]
        self._drive(m, fields, moves, inside, entry, chunk, spot, together)

    def _gather(
        self, m: Module, s: Shape, at: Value, walk: Walk, together: Signal, last_share: Signal
    ) -> None:
        """As many elements as are left of the beat and of the row; padding goes one by one."""
        room, low = Signal(PLACE_BITS), walk.left[:PLACE_BITS]
        m.d.comb += room.eq(s.share - at)
        many = walk.left[PLACE_BITS:].any()
        with m.If(walk.inside):
            m.d.comb += [
                together.eq(Mux(many | (low >= room), room, low)),
                walk.run_ends.eq(~many & (low <= room)),
                last_share.eq(many | (low >= room)),
            ]

    def _into(self, fields: Decoded, buffer: str) -> Value:
        """1 where the instruction loads into ``buffer``."""
        found: Value = Const(0, 1)
        for s in self.shapes:
            if buffer_of(s.memory) == buffer:
                found = found | (fields.memory == s.memory.id)
        return found

    def _drive(
        self,
        m: Module,
        fields: Decoded,
        moves: Value,
        inside: Value,
        entry: Value,
        chunk: Value,
        spot: Value,
        together: Value,
    ) -> None:
        """The write ports: a chunk where it belongs, or padding everywhere in an entry."""
        for name, buffer in self.buffers.items():
            word, enables = getattr(self, f"{name}_word"), getattr(self, f"{name}_enables")
            if buffer.banks > 1:
                m.d.comb += getattr(self, f"{name}_write").eq(moves & self._into(fields, name))
                self._drive_banks(m, buffer, inside, entry, spot, together)
                continue
            m.d.comb += [
                getattr(self, f"{name}_write").eq(moves & self._into(fields, name)),
                getattr(self, f"{name}_address").eq(entry),
                enables.eq((1 << buffer.grains) - 1),
            ]
            for s in self.shapes:
                if buffer_of(s.memory) != name:
                    continue
                with m.If(fields.memory == s.memory.id):
                    with m.If(inside):
                        m.d.comb += word.eq(self._spread(m, s, buffer, fields, spot))
                        m.d.comb += enables.eq(_enables(m, s, buffer, chunk))
                    with m.Elif(fields.pad_least):
                        m.d.comb += word.eq(_least(s.memory, buffer))

    def _drive_banks(
        self, m: Module, buffer: Buffer, inside: Value, entry: Value, spot: Value, together: Value
    ) -> None:
        """Elements of a beat from ``spot`` on go to ``entry`` and the ones after it."""
        mask, shift = buffer.banks - 1, buffer.banks.bit_length() - 1
        addresses = getattr(self, f"{buffer.name}_address")
        words, enables = (
            getattr(self, f"{buffer.name}_word"),
            getattr(self, f"{buffer.name}_enables"),
        )
        for bank in range(buffer.banks):
            # The how manieth of the elements this bank takes.
            number = Signal(range(buffer.banks), name=f"{buffer.name}_number{bank}")
            place = Signal(range(buffer.banks), name=f"{buffer.name}_place{bank}")
            m.d.comb += [
                number.eq((bank - entry) & mask),
                place.eq(spot + number),
                addresses.word_select(bank, buffer.address_bits).eq((entry + number) >> shift),
                enables[bank].eq(number < together),
            ]
            with m.If(inside):
                m.d.comb += words.word_select(bank, buffer.width).eq(
                    pick(self._came.data, place, buffer.width)
                )

    def _spread(self, m: Module, s: Shape, buffer: Buffer, fields: Decoded, spot: Value) -> Value:
        """The chunk of a beat, made as wide as the buffer has it, at all places of the entry."""
        bits = Signal(8 * s.chunk, name=f"{s.memory.name}_chunk")
        m.d.comb += bits.eq(pick(self._came.data, (spot & (s.share - 1))[:PLACE_BITS], 8 * s.chunk))
        wide: Value = bits
        if s.memory.byte_lanes:
            lane = 32 if buffer.name == "acc" else INPUT_BITS
            wide = Cat(*(_extended(bits.word_select(n, 8), fields, lane) for n in range(s.chunk)))
        return Cat(*(wide for _ in range(s.chunks)))


def _extended(byte: Value, fields: Decoded, width: int) -> Value:
    """A byte as a number of ``width`` bits, signed unless the instruction says otherwise."""
    return Cat(byte, (byte[7] & ~fields.unsigned).replicate(width - 8))


def _enables(m: Module, s: Shape, buffer: Buffer, chunk: Value) -> Value:
    """The grains of a chunk; with the first one those that the element leaves, to become 0."""
    each = chunk_bits(s) // buffer.grain
    found = Signal(buffer.grains, name=f"{s.memory.name}_grains")
    used = each * s.chunks
    rest = ((1 << buffer.grains) - 1) >> used << used
    with m.Switch(chunk):
        for number in range(s.chunks):
            with m.Case(number):
                m.d.comb += found.eq(
                    ((1 << each) - 1) << (each * number) | (rest if not number else 0)
                )
    return found


def _least(memory: Memory, buffer: Buffer) -> Value:
    """-128 in every lane."""
    width = 32 if buffer.name == "acc" else INPUT_BITS
    if not memory.signed_lanes:
        return Const(0, buffer.width)
    return Cat(*(Const(-128, width) for _ in range(buffer.width // width)))
