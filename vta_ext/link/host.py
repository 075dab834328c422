"""The host's side of the serial link: commands, over any stream of bytes.

A command is repeated until its answer comes, with the same sequence number, so that the board does
it once. One command is under way at a time.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tvm_shiftadd.errors import DeviceError
from vta_ext.link.frames import (
    ANSWER,
    BAUD,
    MAX_WORDS,
    PROTOCOL,
    Decoder,
    Frame,
    Identity,
    Opcode,
    Status,
    encode,
)
from vta_ext.rtl.map import IDENTITY

#: Bits that a serial port sends for a byte.
_BITS: Final = 10
#: The longest wait is that of the first time, doubled so often.
_DOUBLINGS: Final = 3


class Stream(Protocol):
    """Bytes to and from a board. Raises DeviceError where it broke off."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def read(self, seconds: float) -> bytes:
        """What has come; waits for the first byte at most so long, and may give up earlier."""


@dataclass(frozen=True)
class Patience:
    """How long, and how often, a command is waited for.

    seconds: from the last byte of a command to the first of its answer. tries: how often it is
    sent; the wait is doubled each time, up to eightfold.
    """

    seconds: float = 0.25
    tries: int = 6


@dataclass(frozen=True)
class Board:
    """What is on the other side. configuration: the machine's hash. clock: hertz."""

    configuration: str
    clock: int
    memory_bytes: int


class Link:
    """Commands to the board behind ``stream``; ``name`` is what errors call it.

    ``baud`` and ``patience`` say how long to wait; ``clock`` tells the time in seconds.

    Everything here raises DeviceError, in one sentence, where the board stays silent, answers
    nonsense, or refuses; the link can be used again at once. To make one raises it, too, where
    the board is none of ours or of another release.
    """

    def __init__(
        self,
        stream: Stream,
        name: str = "the board",
        *,
        baud: int = BAUD,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._name, self._baud, self._clock = stream, name, baud, clock
        self._patience = patience or Patience()
        self._decoder, self._sequence = Decoder(), 0
        #: Commands that were sent again.
        self.repeated = 0
        # An earlier host may have ended at any number. What only reads is done whatever its number,
        # and the board goes on from there.
        self.board = self._identify()

    def _identify(self) -> Board:
        words = _words(self._ask(Opcode.IDENTIFY, len(Identity)))
        if words[Identity.IDENTITY] != IDENTITY:
            raise DeviceError(
                f"{self._name} has no machine of ours behind its link (identity "
                f"{words[Identity.IDENTITY]:08x}, expected {IDENTITY:08x}); load its bitstream"
            )
        if words[Identity.PROTOCOL] != PROTOCOL:
            raise DeviceError(
                f"{self._name} speaks version {words[Identity.PROTOCOL]} of the link, this release "
                f"version {PROTOCOL}; load a bitstream of this release"
            )
        hashed = words[Identity.HASH_HIGH] << 32 | words[Identity.HASH_LOW]
        return Board(f"{hashed:016x}", words[Identity.CLOCK], 4 * words[Identity.MEMORY_WORDS])

    def reset(self) -> None:
        """Reset the machine; its memory stays."""
        self._ask(Opcode.RESET)

    def read_registers(self, number: int, count: int = 1) -> Sequence[int]:
        """``count`` registers from ``number`` on."""
        return _words(self._ask(Opcode.READ_REGISTERS, count, number))

    def write_registers(self, number: int, *values: int) -> None:
        """Write registers from ``number`` on, in order."""
        payload = struct.pack(f"<{len(values)}I", *values)
        self._ask(Opcode.WRITE_REGISTERS, len(values), number, payload)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes of memory from byte ``address`` on."""
        first, end = address // 4, -(-(address + size) // 4)
        found = b"".join(
            self._ask(Opcode.READ_MEMORY, min(MAX_WORDS, end - word), word)
            for word in range(first, end, MAX_WORDS)
        )
        return found[address - 4 * first :][:size]

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to memory from byte ``address`` on; bytes beside them stay."""
        if not data:
            return
        # Memory has whole words: what shares one with the data is read first.
        before, behind = address % 4, -(address + len(data)) % 4
        if before:
            data = self.read(address - before, before) + data
        if behind:
            data += self.read(address - before + len(data), behind)
        for at in range(0, len(data), 4 * MAX_WORDS):
            part = data[at : at + 4 * MAX_WORDS]
            word = (address - before + at) // 4
            self._ask(Opcode.WRITE_MEMORY, len(part) // 4, word, part)

    def _ask(self, opcode: Opcode, count: int = 0, address: int = 0, payload: bytes = b"") -> bytes:
        """Send a command until it is answered; the answer's payload."""
        self._sequence = (self._sequence + 1) % 256
        command = Frame(self._sequence, opcode, count, address, payload)
        data = encode(command)
        # An answer may be twice as long as its words, with an escape for each byte.
        on_the_way = (len(data) + 2 * len(encode(Frame(0, 0, payload=bytes(4 * count))))) * _BITS
        wait = self._patience.seconds + on_the_way / self._baud
        heard, answers = 0, 0
        for attempt in range(self._patience.tries):
            self.repeated += attempt > 0
            self._stream.write(data)
            deadline = self._clock() + wait * 2 ** min(attempt, _DOUBLINGS)
            while (left := deadline - self._clock()) > 0:
                received = self._stream.read(left)
                heard += len(received)
                for answer in list(self._decoder.feed(received)):
                    answers += 1
                    if _answers(answer, command):
                        return self._payload(answer, command)
        raise DeviceError(self._silence(heard, answers))

    def _silence(self, heard: int, answers: int) -> str:
        """Why nothing came of a command."""
        tries = f"{self._name} was asked {self._patience.tries} times and"
        if not heard:
            return (
                f"{tries} sent nothing; check that it is on, has its bitstream and is at this port"
            )
        if not answers:
            return (
                f"{tries} sent {heard} bytes that are no frame; check that both sides have "
                f"{self._baud} baud, and the cable"
            )
        return (
            f"{tries} sent {answers} frames, none of which answers; check that no other program "
            "uses the port and that the bitstream is of this release"
        )

    def _payload(self, answer: Frame, command: Frame) -> bytes:
        """The words of an answer; DeviceError if it refuses."""
        if answer.address == Status.DONE:
            return answer.payload
        words = f"words {command.address} to {command.address + command.count - 1}"
        reasons = {
            Status.UNKNOWN: "it does not know the command; load a bitstream of this release",
            Status.OUTSIDE: f"{words} are beyond its end; use fewer or another board",
            Status.RUNNING: "its memory is in use by a run; wait for its end, or reset it",
        }
        reason = reasons.get(Status(answer.address), "")
        name = Opcode(command.opcode).name.lower().replace("_", " ")
        raise DeviceError(f"{self._name} refused to {name}: {reason}")


def _answers(answer: Frame, command: Frame) -> bool:
    """Whether a frame is the answer to a command, and has the form of one."""
    reads = command.count if not command.opcode & 1 else 0
    words = reads if answer.address == Status.DONE else 0
    return (
        (answer.sequence, answer.opcode) == (command.sequence, command.opcode | ANSWER)
        and answer.address <= max(Status)
        and answer.count == words
        and len(answer.payload) == 4 * words
    )


def _words(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(payload) // 4}I", payload)
