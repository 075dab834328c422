"""An SDRAM chip as the machine's DRAM: its burst port, and a host's port of 32-bit words.

A word of 16 bits a cycle, so the machine's port has beats of two bytes. A row stays open until
another one of its bank is asked for or the chip is refreshed; requests that find their row open
follow each other without a gap. The host's accesses have no effect on the order of the machine's:
it writes first, and reads while the machine rests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, Signature

from tvm_shiftadd.errors import InputError
from vta_ext.link.frames import MAX_WORDS
from vta_ext.rtl.delay import delayed
from vta_ext.rtl.port import BURST_BYTES, Beats, Relay, Requests, WriteBeats, taken

#: Bytes of a word, and of a beat.
BEAT: Final = 2
#: Cycles from a READ to its word on the chip's pins; it may be so few up to 100 MHz.
CAS_LATENCY: Final = 2
_FASTEST_MHZ: Final = 100
#: Cycles from the command, in this module's registers, to the word on the pins that come back: a
#: register at the pins in each direction, and the chip.
PIN_CYCLES: Final = CAS_LATENCY + 2
#: From the decision to read to the word in a register here.
_READ_CYCLES: Final = 1 + PIN_CYCLES + 1
#: Idle cycles between a READ and a WRITE, so that only one side drives the pins.
_TURN: Final = CAS_LATENCY + 1
#: Beats that are read ahead of their taker, of two requests at least.
_AHEAD: Final = 2 * BURST_BYTES // BEAT
#: Cycles from the host's word number to its word, at most: it may come while the chip is refreshed.
HOST_CYCLES: Final = 31
_BANKS: Final = 4
#: Bit of the address that means all banks.
_ALL: Final = 10
_MODE_CYCLES: Final = 2
_FIRST_REFRESHES: Final = 8
#: Refreshes that may be put off.
_LATE: Final = 7


@dataclass(frozen=True)
class Chip:
    """A 16-bit SDRAM of four banks, with 256 Mbit unless said otherwise.

    The times, in nanoseconds, are the longest ones in the data sheets of the chips that ULX3S
    boards carry (IS42S16160G-7, W9825G6KH-6, AS4C32M16SB-7); rows are refreshed 8192 times in 64
    ms. A chip of 512 Mbit is used by half.
    """

    row_bits: int = 13
    column_bits: int = 9
    power_up: int = 200_000
    row_to_column: int = 20
    precharge: int = 20
    active: int = 45
    refresh: int = 70
    write_recovery: int = 15
    refresh_every: int = 7_800

    @property
    def word_bits(self) -> int:
        """Bits of a word's number: row, bank, column, from the highest down."""
        return self.row_bits + (_BANKS - 1).bit_length() + self.column_bits

    @property
    def size(self) -> int:
        """Bytes."""
        return BEAT << self.word_bits


def chip(size: int) -> Chip:
    """The chip, or a part of one, of ``size`` bytes. Raises InputError where there is none."""
    found = Chip(row_bits=(size // BEAT // _BANKS).bit_length() - 1 - Chip.column_bits)
    # The eleventh bit of the address has a meaning of its own.
    if found.row_bits not in range(_ALL + 1, Chip.row_bits + 1) or found.size != size:
        raise InputError(f"an SDRAM has 8, 16 or 32 MiB, not {size} bytes")
    return found


class Pins(Signature):
    """The chip's pins, as the board sees them; all act when 1, ``dq_oe`` drives ``dq``."""

    def __init__(self, chip: Chip) -> None:
        super().__init__(
            {
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out((_BANKS - 1).bit_length()),
                "a": Out(chip.row_bits),
                "dqm": Out(BEAT),
                "dq_o": Out(8 * BEAT),
                "dq_oe": Out(1),
                "dq_i": In(8 * BEAT),
            }
        )


class Sdram(wiring.Component):
    """``chip`` at ``clock`` hertz, behind a burst port of two-byte beats; no byte lies beyond it.

    read_requests, read_beats, write_requests, write_beats, written: the machine's, see
    :mod:`vta_ext.rtl.port`. clear: forget them; what is in the chip stays. running: the host reads
    nothing. host_address, host_wdata, host_write: as many words as a frame of the link has may be
    written one every second cycle; ``host_rdata`` is the word whose number was there HOST_CYCLES
    before. pins: the chip's; ``dq_i`` in the cycle PIN_CYCLES after that of a READ in the others.

    Raises InputError for a clock that the chip cannot have.
    """

    def __init__(self, clock: int, chip: Chip | None = None) -> None:
        if not 20_000_000 <= clock <= _FASTEST_MHZ * 1_000_000:
            raise InputError(
                f"the SDRAM takes 20 to {_FASTEST_MHZ} MHz at this latency, not {clock / 1e6:g}"
            )
        self.chip = chip or Chip()
        self._clock = clock
        super().__init__(
            {
                "read_requests": In(Requests(BEAT)),
                "read_beats": Out(Beats(BEAT)),
                "write_requests": In(Requests(BEAT)),
                "write_beats": In(WriteBeats(BEAT)),
                "written": Out(1),
                "clear": In(1),
                "running": In(1),
                "host_address": In(range(self.chip.size // 4)),
                "host_wdata": In(32),
                "host_write": In(1),
                "host_rdata": Out(32),
                "pins": Out(Pins(self.chip)),
            }
        )

    def _cycles(self, nanoseconds: int) -> int:
        """As many cycles as last so long."""
        return -(-nanoseconds * self._clock // 1_000_000_000)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job, taking = _Job(self.chip), Signal()
        self._choose(m, job, taking)
        self._command(m, job, taking, self._stored(m))
        return m

    def _stored(self, m: Module) -> Any:
        """The machine's beats of writes, from registers here: their maker is far away."""
        relay = Relay(8 * BEAT + BEAT)
        m.submodules.stored = ResetInserter(self.clear)(relay)
        beats = self.write_beats
        m.d.comb += [
            relay.into.valid.eq(beats.valid),
            beats.ready.eq(relay.into.ready),
            relay.into.payload.eq(Cat(beats.data, beats.mask)),
        ]
        return relay.out

    def _choose(self, m: Module, job: _Job, taking: Value) -> None:
        """The next job: what the host writes, the machine's requests in turns, what it reads."""
        m.submodules.writes = writes = SyncFIFOBuffered(
            width=len(self.host_address) + 32, depth=MAX_WORDS
        )
        reads, stores = self.read_requests, self.write_requests
        # Beats of requests that were taken, and are not with their taker yet.
        owed, room = Signal(range(_AHEAD + 1)), Signal()
        stored, free, asks = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~job.valid & ~self.clear),
            asks.eq(reads.valid & room),
            writes.w_data.eq(Cat(self.host_address, self.host_wdata)),
            writes.w_en.eq(self.host_write),
            writes.r_en.eq(free),
            reads.ready.eq(free & ~writes.r_rdy & room & (stored | ~stores.valid)),
            stores.ready.eq(free & ~writes.r_rdy & ~(stored & asks)),
        ]
        # Known a cycle late, when no other request can have been taken.
        m.d.sync += room.eq(owed <= _AHEAD - BURST_BYTES // BEAT)
        m.d.sync += owed.eq(owed + Mux(taken(reads), reads.beats, 0) - taken(self.read_beats))
        with m.If(taking | (self.clear & ~job.host)):
            m.d.sync += job.valid.eq(0)
        with m.If(self.clear):
            m.d.sync += owed.eq(0)
        # The host's word may be another one than when it was read.
        number, stale = Signal.like(self.host_address), Signal(init=1)
        changed = self.running | self.clear | self.host_write | writes.r_rdy
        with m.If(changed | (self.host_address != number)):
            m.d.sync += stale.eq(1)
        with m.If(free & writes.r_rdy):
            goal, data = writes.r_data[: len(number)], writes.r_data[len(number) :]
            m.d.sync += [*job.set(Cat(Const(0, 1), goal), 2, write=1, host=1), job.data.eq(data)]
        with m.Elif(taken(reads)):
            m.d.sync += [*job.set(reads.address[1:], reads.beats, write=0, host=0), stored.eq(0)]
        with m.Elif(taken(stores)):
            m.d.sync += [*job.set(stores.address[1:], stores.beats, write=1, host=0), stored.eq(1)]
        with m.Elif(free & stale & ~self.running):
            m.d.sync += job.set(Cat(Const(0, 1), self.host_address), 2, write=0, host=1)
            m.d.sync += [number.eq(self.host_address), stale.eq(0)]

    def _command(self, m: Module, job: _Job, taking: Signal, stored: Any) -> None:
        """The chip's commands, each as soon as the times between them allow."""
        chip, pins, cycles = self.chip, self.pins, self._cycles
        row_to_column, precharge = max(cycles(chip.row_to_column), 2), cycles(chip.precharge)
        active, recovery = cycles(chip.active), max(cycles(chip.write_recovery), 2)
        refresh, every = cycles(chip.refresh), cycles(chip.refresh_every) - 1

        # Until any command, until a bank may be closed after it was opened or written, until the
        # pins are free to be driven.
        hold = _Timer(m, "hold", max(row_to_column, precharge, refresh))
        opening, storing = _Timer(m, "opening", active), _Timer(m, "storing", recovery)
        turning = _Timer(m, "turning", _TURN)
        calm, closable = hold.over, opening.over & storing.over

        on = cycles(chip.power_up)
        booting, power = Signal(init=1), _Timer(m, "power", on, on)
        refreshes = Signal(range(_FIRST_REFRESHES + 1), init=_FIRST_REFRESHES)
        # Requests may last longer than the time between refreshes: then several are due.
        until, due = Signal(range(every)), Signal(range(_LATE + 1))
        comes, refreshed = Signal(), Signal()
        m.d.comb += comes.eq((until == 0) & (due != _LATE))
        m.d.sync += [
            until.eq(Mux(until == 0, every - 1, until - 1)),
            due.eq(due + comes - refreshed),
        ]

        # Whether the next job finds its row, or another one, open. What it needs to know changes
        # two cycles or more before it is looked at.
        opened = Signal(_BANKS)
        rows = Array(Signal(chip.row_bits, name=f"row{n}", reset_less=True) for n in range(_BANKS))
        settled, hit, other, dead = Signal(), Signal(), Signal(), Signal()
        m.d.comb += dead.eq(self.clear & ~job.host)
        m.d.sync += [
            settled.eq(job.valid & ~taking & ~dead),
            hit.eq(opened.bit_select(job.bank, 1) & (rows[job.bank] == job.row)),
            other.eq(opened.bit_select(job.bank, 1)),
        ]

        # The job at hand: ``count`` words are left, the last one is next.
        now, last, goes = _Job(chip), Signal(), Signal()
        m.d.sync += [
            *(Cat(pins.ras, pins.cas, pins.we).eq(0), pins.ba.eq(now.bank), pins.a.eq(now.column)),
            *(pins.dqm.eq(booting.replicate(BEAT)), pins.dq_oe.eq(0)),
            pins.dq_o.eq(Mux(now.host, now.data, stored.payload)),
            self.written.eq(0),
        ]

        def take() -> None:
            m.d.comb += taking.eq(1)
            m.d.sync += [*now.copied(job), last.eq(job.count == 1)]

        def begin() -> None:
            with m.If(due != 0):
                m.next = "CLOSE ALL"
            with m.Elif(settled & ~dead & hit):
                take()
                m.next = "STREAM"
            with m.Elif(settled & ~dead & other):
                m.next = "CLOSE"
            with m.Elif(settled & ~dead):
                m.next = "OPEN"
            with m.Else():
                m.next = "IDLE"

        with m.FSM():
            with m.State("POWER"), m.If(power.over):
                m.next = "CLOSE ALL"
            with m.State("IDLE"), m.If(calm):
                begin()
            with m.State("CLOSE"):
                with m.If(calm & closable):
                    m.d.sync += [pins.ras.eq(1), pins.we.eq(1), pins.ba.eq(job.bank), pins.a.eq(0)]
                    m.d.sync += [opened.bit_select(job.bank, 1).eq(0), *hold.set(precharge)]
                    m.next = "OPEN"
                with m.If(dead):
                    m.next = "IDLE"
            with m.State("OPEN"):
                with m.If(calm):
                    m.d.sync += [pins.ras.eq(1), pins.ba.eq(job.bank), pins.a.eq(job.row)]
                    m.d.sync += [rows[job.bank].eq(job.row), opened.bit_select(job.bank, 1).eq(1)]
                    m.d.sync += [*hold.set(row_to_column), *opening.set(active)]
                    take()
                    m.next = "STREAM"
                with m.If(dead):
                    m.next = "IDLE"
            with m.State("STREAM"):
                free = calm & (~now.write | turning.over)
                m.d.comb += [
                    stored.ready.eq(free & now.write & ~now.host),
                    goes.eq(free & (~now.write | now.host | stored.valid)),
                ]
                with m.If(goes):
                    m.d.sync += [
                        *(pins.cas.eq(1), pins.we.eq(now.write), pins.dq_oe.eq(now.write)),
                        *(now.column.eq(now.column + 1), now.data.eq(now.data >> 8 * BEAT)),
                        *(now.count.eq(now.count - 1), last.eq(now.count == 2)),
                    ]
                    with m.If(now.write):
                        mask = Mux(now.host, -1, stored.payload[8 * BEAT :])
                        m.d.sync += pins.dqm.eq(~(mask & now.inside.replicate(BEAT)))
                        m.d.sync += [*storing.set(recovery), self.written.eq(~now.host & last)]
                    with m.Else():
                        m.d.sync += turning.set(_TURN + 1)
                    with m.If(last):
                        begin()
                with m.If(self.clear & ~now.host & ~taking):
                    m.next = "IDLE"
            with m.State("CLOSE ALL"), m.If(calm & closable):
                m.d.sync += [pins.ras.eq(1), pins.we.eq(1), pins.a.eq(1 << _ALL)]
                m.d.sync += [opened.eq(0), *hold.set(precharge)]
                m.next = "REFRESH"
            with m.State("REFRESH"), m.If(calm):
                m.d.sync += [pins.ras.eq(1), pins.cas.eq(1), *hold.set(refresh)]
                m.d.comb += refreshed.eq(due != 0)
                m.next = "IDLE"
                with m.If(booting):
                    m.d.sync += refreshes.eq(refreshes - 1)
                    m.next = "REFRESH"
                    with m.If(refreshes == 1):
                        m.next = "MODE"
            with m.State("MODE"), m.If(calm):
                # One word a command, in reads and writes.
                m.d.sync += [pins.ras.eq(1), pins.cas.eq(1), pins.we.eq(1), pins.ba.eq(0)]
                m.d.sync += [pins.a.eq(CAS_LATENCY << 4), *hold.set(_MODE_CYCLES), booting.eq(0)]
                m.next = "IDLE"
        self._answer(m, goes & ~now.write, now.host, last)

    def _answer(self, m: Module, reads: Value, host: Value, last: Value) -> None:
        """Words that come back: the machine's into a queue with room for them, the host's.

        The queue is a block memory; its words come late in a cycle, and so by way of registers.
        """
        queue = SyncFIFOBuffered(width=8 * BEAT + 1, depth=_AHEAD)
        relay = Relay(8 * BEAT + 1)
        m.submodules.queue = ResetInserter(self.clear)(queue)
        m.submodules.ahead = ResetInserter(self.clear)(relay)
        word = Signal(8 * BEAT, reset_less=True)
        m.d.sync += word.eq(self.pins.dq_i)
        mine = delayed(m, Cat(reads & ~host, last), _READ_CYCLES, "mine")
        hosts = delayed(m, reads & host, _READ_CYCLES, "hosts")
        with m.If(self.clear):
            m.d.sync += [stage.eq(0) for stage in mine[1:]]
        with m.If(hosts[-1]):
            m.d.sync += self.host_rdata.eq(Cat(self.host_rdata, word)[8 * BEAT :])
        m.d.comb += [
            queue.w_en.eq(mine[-1][0]),
            queue.w_data.eq(Cat(word, mine[-1][1])),
            relay.into.valid.eq(queue.r_rdy),
            relay.into.payload.eq(queue.r_data),
            queue.r_en.eq(relay.into.ready),
            self.read_beats.valid.eq(relay.out.valid),
            Cat(self.read_beats.data, self.read_beats.last).eq(relay.out.payload),
            relay.out.ready.eq(self.read_beats.ready),
        ]


class _Timer:
    """``over`` from so many cycles on after it was set, at most ``most``; one of ``init`` runs."""

    def __init__(self, m: Module, name: str, most: int, init: int = 0) -> None:
        self._left = Signal(range(most + 1), name=name, init=init)
        self.over = Signal(name=f"{name}_over", init=not init)
        with m.If(~self.over):
            m.d.sync += [self._left.eq(self._left - 1), self.over.eq(self._left == 1)]

    def set(self, cycles: int) -> list[Any]:
        """It is over ``cycles`` cycles after this one, one at least."""
        return [self._left.eq(cycles - 1), self.over.eq(cycles == 1)]


class _Job:
    """``count`` words to read or to write, in one row, from word number ``row, bank, column`` on.

    host: the host's two, of which ``data`` has what is written; or else the machine's. inside:
    whether the chip has them.
    """

    def __init__(self, chip: Chip) -> None:
        self.valid, self.write, self.host, self.inside = Signal(), Signal(), Signal(), Signal()
        self.column, self.row = Signal(chip.column_bits), Signal(chip.row_bits)
        self.bank = Signal(range(_BANKS))
        self.count = Signal(range(BURST_BYTES // BEAT + 1))
        self.data = Signal(32)

    def set(self, word: Value, count: Value | int, *, write: int, host: int) -> list[Any]:
        """A job there, from word number ``word`` on."""
        place = Cat(self.column, self.bank, self.row)
        return [
            *(self.valid.eq(1), self.write.eq(write), self.host.eq(host)),
            *(place.eq(word), self.inside.eq(~word[len(place) :].any()), self.count.eq(count)),
        ]

    def copied(self, other: _Job) -> list[Any]:
        """Become another one."""
        return [
            mine.eq(theirs)
            for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
        ]
