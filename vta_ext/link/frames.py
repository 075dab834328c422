"""Frames of the serial link: the one place of their format, for host and hardware alike.

docs/serial-link.md describes it. A frame is a whole number of 32-bit words, each with its lowest
byte first, between two flags:

    sequence (8 bits), opcode (8), count (16) | address, or of an answer its status | words | CRC-32

A flag occurs nowhere else: inside a frame, flags and escapes are sent as ESCAPE and the byte with
FLIP inverted. So whatever was lost or added, the next flag begins a frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

FLAG: Final = 0x7E
ESCAPE: Final = 0x7D
#: Inverted in a byte that follows an escape.
FLIP: Final = 0x20
#: Words of one frame's payload: as many as one block memory of an ECP5 holds.
MAX_WORDS: Final = 512
#: Set in the opcode of an answer.
ANSWER: Final = 0x80
#: Ethernet's CRC, bits reversed, as zlib has it; and what its register holds after a whole frame.
CRC_POLYNOMIAL: Final = 0xEDB88320
CRC_RESIDUE: Final = 0xDEBB20E3
PROTOCOL: Final = 1
#: Bits a second, unless another number is given to both sides.
BAUD: Final = 3_000_000

_HEAD: Final = struct.Struct("<BBHI")
_CHECK: Final = struct.Struct("<I")
#: Bytes of a frame without payload: two words of head, the CRC.
_OVERHEAD: Final = _HEAD.size + _CHECK.size
_LONGEST: Final = _OVERHEAD + 4 * MAX_WORDS


class Opcode(IntEnum):
    """What a command asks for. Bit 0: it changes something; the bits above: the space of addresses.

    Addresses and counts are in words: of the identity, of the machine's registers, of memory.
    """

    IDENTIFY = 0
    #: Resets the machine, not its memory; count 0.
    RESET = 1
    READ_REGISTERS = 2
    WRITE_REGISTERS = 3
    READ_MEMORY = 4
    WRITE_MEMORY = 5


class Status(IntEnum):
    """How a command ended; only one that is DONE has changed anything."""

    DONE = 0
    #: No such opcode.
    UNKNOWN = 1
    #: Words beyond the end.
    OUTSIDE = 2
    #: Memory belongs to the machine while it runs.
    RUNNING = 3


class Identity(IntEnum):
    """Words of the identity; the first three are the machine's own registers of these numbers."""

    IDENTITY = 0
    HASH_LOW = 1
    HASH_HIGH = 2
    #: PROTOCOL.
    PROTOCOL = 3
    #: Hertz.
    CLOCK = 4
    MEMORY_WORDS = 5


@dataclass(frozen=True)
class Frame:
    """A command or an answer.

    sequence: 0 to 255, the same in a command, its repetitions and their answers. count: of a
    command, the words that it reads or writes; of an answer, those of its payload. address: of an
    answer, its Status. payload: whole words, at most MAX_WORDS.
    """

    sequence: int
    opcode: int
    count: int = 0
    address: int = 0
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes to send, flags included. Raises ValueError for what has no place in a frame."""
    if len(frame.payload) % 4 or len(frame.payload) > 4 * MAX_WORDS:
        raise ValueError(f"a payload of {len(frame.payload)} bytes does not fit a frame")
    try:
        body = _HEAD.pack(frame.sequence, frame.opcode, frame.count, frame.address)
    except struct.error as error:
        raise ValueError(f"{frame} does not fit a frame: {error}") from error
    body += frame.payload
    body += _CHECK.pack(zlib.crc32(body))
    # Escapes first: those made of flags must stay.
    for byte in (ESCAPE, FLAG):
        body = body.replace(bytes([byte]), bytes([ESCAPE, byte ^ FLIP]))
    return bytes([FLAG]) + body + bytes([FLAG])


def decode(body: bytes) -> Frame | None:
    """The frame in what lay between two flags, escapes undone; None where it is damaged."""
    if len(body) < _OVERHEAD or len(body) > _LONGEST or len(body) % 4:
        return None
    content = body[: -_CHECK.size]
    if zlib.crc32(content) != _CHECK.unpack(body[-_CHECK.size :])[0]:
        return None
    sequence, opcode, count, address = _HEAD.unpack_from(content)
    return Frame(sequence, opcode, count, address, content[_HEAD.size :])


class Decoder:
    """Finds frames in a stream that may hold anything else. ``damaged`` counts what was none."""

    def __init__(self) -> None:
        self.damaged = 0
        self._body = bytearray()
        self._inside = self._escaped = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that end in ``data``."""
        for byte in data:
            if byte == FLAG:
                frame = decode(bytes(self._body))
                self.damaged += frame is None and len(self._body) > 0
                self._body.clear()
                self._inside, self._escaped = True, False
                if frame is not None:
                    yield frame
            elif byte == ESCAPE:
                self._escaped = True
            elif self._inside and len(self._body) <= _LONGEST:
                self._body.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
            else:
                self._escaped = False
