"""Block memory as the machine's DRAM: its burst port, and a host's port of 32-bit words.

Reads and writes of the machine go on at the same time, each a beat a cycle; requests of reads
follow each other without a gap, those of writes after one cycle. The host's accesses take the same
two ports of the block memories, so they belong to times in which the machine has no request under
way.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import InputError
from vta_ext.rtl.delay import delayed
from vta_ext.rtl.port import BURST_BYTES, Beats, Requests, WriteBeats, taken

#: Entries of a bank at most: those of an ECP5's block memory one bit wide, so that a bank needs
#: no multiplexer of its own.
_BANK: Final = 16384
#: Beats read ahead of their taker: the ten cycles around this loop, and some.
_AHEAD: Final = 16
#: Registers behind the words of each bank: one beside its block memories, one beside the others.
_WORD_STAGES: Final = 2
#: Cycles from an entry's number to the beat that goes into the queue: the number in a register, and
#: in one of its bank; the banks' words, these in registers, and the beat, which is one of them.
_STAGES: Final = 4 + _WORD_STAGES
#: Cycles from the host's word number to its word.
HOST_CYCLES: Final = _STAGES + 1


def banks(entries: int) -> list[int]:
    """Sizes of the banks that make ``entries``: as large as may be, each a power of two."""
    found = []
    while entries:
        found.append(min(_BANK, 1 << (entries.bit_length() - 1)))
        entries -= found[-1]
    return found


class BlockMemory(wiring.Component):
    """``size`` bytes behind a burst port of ``beat`` bytes; what lies beyond is not there.

    read_requests, read_beats, write_requests, write_beats, written: the machine's, see
    :mod:`vta_ext.rtl.port`; the first beat comes eight cycles after its request. host_address,
    the number of a 32-bit word, host_wdata, host_write: while the machine rests; ``host_rdata``
    is the word whose number was there HOST_CYCLES before, and knows of writes a cycle before that.

    Raises InputError for a size that is no multiple of a burst's 256 bytes.
    """

    def __init__(self, size: int, beat: int) -> None:
        if size <= 0 or size % BURST_BYTES:
            raise InputError(f"memory comes in multiples of {BURST_BYTES} bytes, not {size}")
        self.size, self.beat = size, beat
        super().__init__(
            {
                "read_requests": In(Requests(beat)),
                "read_beats": Out(Beats(beat)),
                "write_requests": In(Requests(beat)),
                "write_beats": In(WriteBeats(beat)),
                "written": Out(1),
                "host_address": In(range(size // 4)),
                "host_wdata": In(32),
                "host_write": In(1),
                "host_rdata": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entries = self.size // self.beat
        # An address beyond the end must not come round to the first entry.
        self._bits = (entries - 1).bit_length() + 1
        address, data = self._read(m)
        write = self._write(m)
        self._store(m, entries, address, data, *write)
        return m

    def _entry(self, address: Value) -> Value:
        """The entry of a byte address, or one that does not exist."""
        low = self.beat.bit_length() - 1
        whole = address[low : low + self._bits - 1]
        return Cat(whole, address[low + self._bits - 1 :].any())

    def _host(self) -> tuple[Value, Value]:
        """The entry of the host's word, and which of the entry's words that is."""
        shift = self.beat.bit_length() - 3
        return self.host_address >> shift, self.host_address[:shift]

    def _read(self, m: Module) -> tuple[Signal, Signal]:
        """Beats by request into a queue that always has room for those on their way."""
        m.submodules.queue = queue = SyncFIFOBuffered(width=8 * self.beat + 1, depth=_AHEAD)
        cursor, left = Signal(self._bits), Signal.like(self.read_requests.beats)
        owed, reads, last = Signal(range(_AHEAD + 1)), Signal(), Signal()
        busy = Signal()
        m.d.comb += [
            last.eq(left == 1),
            reads.eq(busy & (owed != _AHEAD)),
            self.read_requests.ready.eq(~busy | (reads & last)),
        ]
        with m.If(reads):
            m.d.sync += [cursor.eq(cursor + 1), left.eq(left - 1), busy.eq(~last)]
        with m.If(taken(self.read_requests)):
            m.d.sync += [
                cursor.eq(self._entry(self.read_requests.address)),
                left.eq(self.read_requests.beats),
                busy.eq(1),
            ]
        m.d.sync += owed.eq(owed + reads - taken(self.read_beats))

        address, data = Signal(self._bits, reset_less=True), Signal(8 * self.beat)
        m.d.sync += address.eq(Mux(busy, cursor, self._host()[0]))
        arriving = [Cat(reads, last)]
        for stage in range(_STAGES):
            following = Signal(2, name=f"arriving{stage}")
            m.d.sync += following.eq(arriving[-1])
            arriving.append(following)
        beat = Signal.like(data, reset_less=True)
        m.d.sync += beat.eq(data)
        place = delayed(m, self._host()[1], _STAGES, "place", reset_less=True)[-1]
        m.d.sync += self.host_rdata.eq(beat.word_select(place, 32))
        m.d.comb += [
            queue.w_en.eq(arriving[-1][0]),
            queue.w_data.eq(Cat(beat, arriving[-1][1])),
            self.read_beats.valid.eq(queue.r_rdy),
            self.read_beats.data.eq(queue.r_data[:-1]),
            self.read_beats.last.eq(queue.r_data[-1]),
            queue.r_en.eq(taken(self.read_beats)),
        ]
        return address, data

    def _write(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Address, data and mask of what is written, in registers."""
        cursor, busy = Signal(self._bits), Signal()
        comes = Signal()
        m.d.comb += [
            self.write_beats.ready.eq(busy),
            comes.eq(taken(self.write_beats)),
            # Not in the cycle of the last beat: that would go from beats to requests and back.
            self.write_requests.ready.eq(~busy),
        ]
        with m.If(comes):
            m.d.sync += [cursor.eq(cursor + 1), busy.eq(~self.write_beats.last)]
        with m.If(taken(self.write_requests)):
            m.d.sync += [cursor.eq(self._entry(self.write_requests.address)), busy.eq(1)]
        address = Signal(self._bits, reset_less=True)
        data, mask = Signal(8 * self.beat, reset_less=True), Signal(self.beat)
        entry, place = self._host()
        m.d.sync += [
            address.eq(cursor),
            data.eq(self.write_beats.data),
            mask.eq(Mux(comes, self.write_beats.mask, 0)),
            self.written.eq(comes & self.write_beats.last),
        ]
        with m.If(self.host_write):
            words = self.beat // 4
            m.d.sync += [
                address.eq(entry),
                data.eq(self.host_wdata.replicate(words)),
                mask.eq(Cat(*((place == n).replicate(4) for n in range(words)))),
            ]
        return address, data, mask

    def _store(
        self,
        m: Module,
        entries: int,
        address: Signal,
        data: Signal,
        target: Signal,
        word: Signal,
        mask: Signal,
    ) -> None:
        """The banks, one after another, and which of them an address is in.

        They lie all over the part, so each has registers of its own, which follow what is its own.
        """
        words, begin = [], 0
        bank = Signal(range(len(banks(entries))), reset_less=True)
        for number, depth in enumerate(banks(entries)):
            low = depth.bit_length() - 1
            memory = Memory(shape=8 * self.beat, depth=depth, init=[])
            m.submodules[f"bank{number}"] = memory
            read, write = memory.read_port(), memory.write_port(granularity=8)
            place = Signal.like(read.addr, name=f"place{number}", reset_less=True)
            goal = Signal.like(write.addr, name=f"goal{number}", reset_less=True)
            new = Signal.like(write.data, name=f"new{number}", reset_less=True)
            enables = Signal.like(write.en, name=f"enables{number}")
            with m.If(address[low:] == begin >> low):
                m.d.sync += [place.eq(address), bank.eq(number)]
            with m.If(target[low:] == begin >> low):
                m.d.sync += [goal.eq(target), new.eq(word), enables.eq(mask)]
            with m.Else():
                m.d.sync += enables.eq(0)
            m.d.comb += [
                read.addr.eq(place),
                write.addr.eq(goal),
                write.data.eq(new),
                write.en.eq(enables),
            ]
            stages = delayed(m, read.data, _WORD_STAGES, f"word{number}", reset_less=True)
            words.append(stages[-1])
            begin += depth
        # In time with the words, of which the block memories have one more.
        stages = delayed(m, bank, 1 + _WORD_STAGES, "bank_of", reset_less=True)
        m.d.comb += data.eq(Array(words)[stages[-1]])
