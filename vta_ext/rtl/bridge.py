"""The board's side of the serial link: frames to the machine's registers and to memory.

Nothing is written before a frame's CRC was found right: its words wait in a block memory. A frame
that is damaged gets no answer; the host repeats it. Bits of a byte are handled one a cycle, so that
the CRC and the word being received or sent are shift registers.
"""

from __future__ import annotations

from typing import Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from vta_ext.link.frames import (
    ANSWER,
    BAUD,
    CRC_POLYNOMIAL,
    CRC_RESIDUE,
    ESCAPE,
    FLAG,
    FLIP,
    MAX_WORDS,
    PROTOCOL,
    Identity,
    Opcode,
    Status,
)
from vta_ext.rtl.map import NUMBER_BITS
from vta_ext.rtl.uart import Receiver, Transmitter, divisor

# Spaces of addresses, as opcodes have them.
_IDENTITY: Final = Opcode.IDENTIFY >> 1
_REGISTERS: Final = Opcode.READ_REGISTERS >> 1
_MEMORY: Final = Opcode.READ_MEMORY >> 1

#: Cycles for which a word's number is there, at least, before the word is looked at: the four
#: bytes sent or received before it take eight each.
MEMORY_CYCLES: Final = 32


def _buses(memory_words: int) -> dict[str, Any]:
    """The machine's registers, its state, and a memory of 32-bit words."""
    return {
        "reg_addr": Out(NUMBER_BITS),
        "reg_wdata": Out(32),
        "reg_write": Out(1),
        "reg_rdata": In(32),
        "mem_addr": Out(range(memory_words)),
        "mem_wdata": Out(32),
        "mem_write": Out(1),
        "mem_rdata": In(32),
        "running": In(1),
        "reset": Out(1),
    }


class Endpoint(wiring.Component):
    """Answers frames, byte by byte.

    received, received_valid: a byte that has come, for one cycle; the next comes ten cycles later
    or more.
    sent, sent_valid, sent_ready: a byte to send. reg_*: the machine's register port, whose reads
    come a cycle after the number, or later. mem_*: words of memory, by number; ``mem_rdata`` may
    come MEMORY_CYCLES after the number, as ``reg_rdata`` may. running: memory is the machine's.
    reset: 1 for the cycle in which the machine, and whatever carries its requests to memory, is to
    be reset.
    """

    def __init__(self, clock: int, memory_words: int) -> None:
        self._clock, self._memory_words = clock, memory_words
        super().__init__(
            {
                "received": In(8),
                "received_valid": In(1),
                "sent": Out(8),
                "sent_valid": Out(1),
                "sent_ready": In(1),
                **_buses(memory_words),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._declare(m)
        with m.FSM():
            self._receive(m)
            self._decide(m)
            self._write(m)
            self._answer(m)
        return m

    def _declare(self, m: Module) -> None:
        """Registers of all states, and the shift registers' step."""
        self._word = Signal(32, reset_less=True)
        self._byte = Signal(8, reset_less=True)
        self._crc = Signal(32, reset_less=True)
        self._bits = Signal(range(8))
        self._lane = Signal(2)
        #: Of the frame that is received: whole words so far, one more than any frame may have.
        self._words = Signal(range(MAX_WORDS + 5))
        self._inside, self._escaped = Signal(), Signal()
        self._sequence, self._opcode = Signal(8), Signal(8)
        self._count, self._address = Signal(16), Signal(32)
        #: The last command that was decided on, so that its repetition changes nothing.
        self._known, self._last, self._status = Signal(), Signal(8), Signal(Status)
        m.submodules.payload = payload = Memory(shape=32, depth=MAX_WORDS, init=[])
        self._in, self._out = payload.write_port(), payload.read_port()
        self._index = Signal(range(MAX_WORDS))
        self._space, self._changes = self._opcode[1:3], self._opcode[0]
        self._shifts = Signal()
        with m.If(self._shifts):
            # Receiving: from byte to word; sending: the other way. The CRC takes the same bits.
            bit = Mux(self._inside, self._byte[0], self._word[0])
            m.d.sync += [
                self._word.eq(Cat(self._word[1:], self._byte[0])),
                self._byte.eq(Cat(self._byte[1:], self._word[0])),
                self._crc.eq((self._crc >> 1) ^ Mux(self._crc[0] ^ bit, CRC_POLYNOMIAL, 0)),
                self._bits.eq(self._bits + 1),
            ]
        m.d.comb += [
            self.reg_addr.eq(self._address),
            self.mem_addr.eq(self._address),
            self.reg_wdata.eq(self._out.data),
            self.mem_wdata.eq(self._out.data),
            self._out.addr.eq(self._index),
            self._out.en.eq(1),
            self._in.addr.eq(self._words - 2),
            self._in.data.eq(self._word),
        ]

    def _receive(self, m: Module) -> None:
        """Bytes to words, until a flag ends a frame that is whole."""
        expected = Mux(self._changes, self._count, 0) + 3
        whole = (self._lane == 0) & (self._crc == CRC_RESIDUE) & (self._words == expected)
        with m.State("RECEIVE"), m.If(self.received_valid):
            m.d.sync += self._escaped.eq(0)
            with m.If(self.received == FLAG):
                m.d.sync += [
                    self._inside.eq(1),
                    self._lane.eq(0),
                    self._words.eq(0),
                    self._crc.eq(0xFFFFFFFF),
                ]
                with m.If(self._inside & whole):
                    m.d.sync += self._inside.eq(0)
                    m.next = "DECIDE"
            with m.Elif(self.received == ESCAPE):
                m.d.sync += self._escaped.eq(1)
            with m.Elif(self._inside):
                m.d.sync += self._byte.eq(self.received ^ Mux(self._escaped, FLIP, 0))
                m.next = "SHIFT"
        with m.State("SHIFT"):
            m.d.comb += self._shifts.eq(1)
            with m.If(self._bits == 7):
                m.d.sync += self._lane.eq(self._lane + 1)
                m.next = "RECEIVE"
                with m.If(self._lane == 3):
                    m.next = "STORE"
        with m.State("STORE"):
            m.next = "RECEIVE"
            with m.If(self._words != MAX_WORDS + 4):
                m.d.sync += self._words.eq(self._words + 1)
            with m.If(self._words == 0):
                m.d.sync += Cat(self._sequence, self._opcode, self._count).eq(self._word)
            with m.Elif(self._words == 1):
                m.d.sync += self._address.eq(self._word)
            with m.Else():
                # The word after the payload is the CRC, which must not come round to the first.
                m.d.comb += self._in.en.eq(self._words < MAX_WORDS + 2)

    def _decide(self, m: Module) -> None:
        """Whether the command is new, and possible."""
        limit = Mux(self._space == _REGISTERS, 1 << NUMBER_BITS, self._memory_words)
        limit = Mux(self._space == _IDENTITY, len(Identity), limit)
        # In registers, as the CRC comes long after what these are made of.
        end, outside = Signal(33, reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            end.eq(self._address + self._count),
            outside.eq((end > limit) | (self._count > MAX_WORDS)),
        ]
        status = Signal(Status)
        with m.State("DECIDE"):
            m.d.sync += self._index.eq(0)
            with m.If(self._opcode > max(Opcode)):
                m.d.comb += status.eq(Status.UNKNOWN)
            with m.Elif(outside):
                m.d.comb += status.eq(Status.OUTSIDE)
            with m.Elif((self._space == _MEMORY) & self.running):
                m.d.comb += status.eq(Status.RUNNING)
            m.next = "FLAG"
            # What only reads may be done again, so that it is judged anew.
            with m.If(~self._known | (self._last != self._sequence) | ~self._changes):
                m.d.sync += [
                    self._known.eq(1),
                    self._last.eq(self._sequence),
                    self._status.eq(status),
                ]
                with m.If((status == Status.DONE) & self._changes):
                    m.next = "WRITE"
                    with m.If(self._space == _IDENTITY):
                        m.d.comb += self.reset.eq(1)
                        m.next = "FLAG"

    def _write(self, m: Module) -> None:
        """The payload's words, a word in two cycles: one for the block memory."""
        with m.State("WRITE"):
            m.next = "WRITTEN"
            with m.If(self._count == 0):
                m.next = "FLAG"
        with m.State("WRITTEN"):
            memory = self._space == _MEMORY
            m.d.comb += [self.mem_write.eq(memory), self.reg_write.eq(~memory)]
            m.d.sync += [
                self._address.eq(self._address + 1),
                self._index.eq(self._index + 1),
                self._count.eq(self._count - 1),
            ]
            m.next = "WRITE"

    def _answer(self, m: Module) -> None:
        """The same sequence, the status, what was read, the CRC; between flags."""
        # The word to load: 0 and 1 are the head, 2 what was read, 3 the CRC; 0 again after it.
        part = Signal(2)
        none = self._changes | (self._status != Status.DONE)
        constants = {
            Identity.PROTOCOL: PROTOCOL,
            Identity.CLOCK: self._clock,
            Identity.MEMORY_WORDS: self._memory_words,
        }
        m.d.comb += self.sent.eq(FLAG)
        with m.State("FLAG"):
            m.d.comb += self.sent_valid.eq(1)
            m.d.sync += [self._crc.eq(0xFFFFFFFF), part.eq(0)]
            with m.If(none):
                m.d.sync += self._count.eq(0)
            with m.If(self.sent_ready):
                m.next = "FETCH"
        with m.State("FETCH"):
            m.next = "LOAD"
            with m.If((part == 2) & (self._count == 0)):
                m.d.sync += part.eq(3)
                m.next = "FETCH"
        with m.State("LOAD"):
            m.next = "SEND"
            with m.Switch(part):
                with m.Case(0):
                    head = Cat(self._sequence, self._opcode | ANSWER, self._count)
                    m.d.sync += [self._word.eq(head), part.eq(1)]
                with m.Case(1):
                    m.d.sync += [self._word.eq(self._status), part.eq(2)]
                with m.Case(2):
                    m.d.sync += [
                        self._word.eq(Mux(self._space == _MEMORY, self.mem_rdata, self.reg_rdata)),
                        self._address.eq(self._address + 1),
                        self._count.eq(self._count - 1),
                    ]
                    with m.If(self._space == _IDENTITY), m.Switch(self._address):
                        for word, value in constants.items():
                            with m.Case(int(word)):
                                m.d.sync += self._word.eq(Const(value, 32))
                with m.Default():
                    m.d.sync += [self._word.eq(~self._crc), part.eq(0)]
        self._send(m, part)

    def _send(self, m: Module, part: Signal) -> None:
        """Four bytes of a word, with escapes, then the next word or the flag."""
        with m.State("SEND"):
            m.d.comb += self._shifts.eq(1)
            with m.If(self._bits == 7):
                m.next = "BYTE"
        special = (self._byte == FLAG) | (self._byte == ESCAPE)
        with m.State("BYTE"):
            m.d.comb += [
                self.sent.eq(Mux(special & ~self._escaped, ESCAPE, self._byte)),
                self.sent_valid.eq(1),
            ]
            with m.If(self._escaped):
                m.d.comb += self.sent.eq(self._byte ^ FLIP)
            with m.If(self.sent_ready):
                with m.If(special & ~self._escaped):
                    m.d.sync += self._escaped.eq(1)
                with m.Else():
                    m.d.sync += [self._escaped.eq(0), self._lane.eq(self._lane + 1)]
                    m.next = "SEND"
                    with m.If(self._lane == 3):
                        m.next = "FETCH"
                        with m.If(part == 0):
                            m.next = "END"
        with m.State("END"):
            m.d.comb += self.sent_valid.eq(1)
            with m.If(self.sent_ready):
                m.next = "RECEIVE"


class Bridge(wiring.Component):
    """The endpoint behind a serial port: pins ``rx`` and ``tx``, and the endpoint's buses.

    ``clock``: hertz of domain sync. Raises InputError for a rate that it cannot have.
    """

    def __init__(self, clock: int, memory_words: int, baud: int = BAUD) -> None:
        self._divisor = divisor(clock, baud)
        self._endpoint = Endpoint(clock, memory_words)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), **_buses(memory_words)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.endpoint = endpoint = self._endpoint
        m.submodules.receiver = receiver = Receiver(self._divisor)
        m.submodules.transmitter = transmitter = Transmitter(self._divisor)
        m.d.comb += [
            receiver.pin.eq(self.rx),
            endpoint.received.eq(receiver.data),
            endpoint.received_valid.eq(receiver.valid),
            transmitter.data.eq(endpoint.sent),
            transmitter.valid.eq(endpoint.sent_valid),
            endpoint.sent_ready.eq(transmitter.ready),
            self.tx.eq(transmitter.pin),
        ]
        for name, member in _buses(1).items():
            mine, other = getattr(self, name), getattr(endpoint, name)
            m.d.comb += mine.eq(other) if member.flow is Out else other.eq(mine)
        return m
