"""Program images: one file with all that a machine and its C runtime need to run a network.

The file is words of 32 bits, little-endian: the records of :mod:`vta_ext.bare.layout`, then what
is copied to the arena, then a CRC. The records say where everything lies.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tvm_shiftadd.errors import ProgramError
from vta_ext.bare.layout import (
    CRC_BYTES,
    MAGIC,
    MAX_EXPONENT,
    MAX_SIDE,
    RECORDS,
    TYPES,
    VERSION,
    WORD_BYTES,
)
from vta_ext.isa.codec import INSTRUCTION_BYTES
from vta_ext.rtl.map import ALIGNMENT

Sides = tuple[int, int, int]
_MASK: Final = 0xFFFFFFFF
_BYTES: Final = {"int8": 1, "uint8": 1, "int32": 4}
_NAMES: Final = {number: name for name, number in TYPES.items()}


@dataclass(frozen=True)
class Segment:
    """Bytes that are copied to the arena before the first launch."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Input:
    """An input of the network: ``elements`` an image, stored as ``dtype`` on 2^-exponent."""

    elements: int
    exponent: int
    dtype: str


@dataclass(frozen=True)
class Port:
    """A map that a program reads, and how it is made of an input.

    The input is read as ``[height, width, channels]`` of ``source``, whose element (y, x, c) is
    the one at ``strides`` . (y, x, c). Position (u, v) of the map of ``size`` (height, width)
    holds, tap by tap, the channels at ``step * (u, v) + tap``; 0 outside of the source. A map that
    is just copied has one tap, (0, 0). It lies from ``offset`` of the arena up as
    ``[blocks, height, width, batch, block]``.
    """

    input: int
    offset: int
    size: tuple[int, int]
    source: Sides
    strides: Sides
    step: tuple[int, int] = (1, 1)
    taps: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def channels(self) -> int:
        """Channels of the map in the arena."""
        return len(self.taps) * self.source[2]


@dataclass(frozen=True)
class Output:
    """An output of the network and the map it is read from.

    Element (y, x, c) of the map ``[height, width, channels]`` of ``shape`` is the output's at
    ``strides`` . (y, x, c), and stands for its integer times ``2^-exponents[c]``.
    """

    elements: int
    dtype: str
    offset: int
    shape: Sides
    strides: Sides
    exponents: tuple[int, ...]


@dataclass(frozen=True)
class Image:
    """One network for one machine. Raises ProgramError where its parts do not fit each other.

    hash: the configuration's, 16 hexadecimal digits. batch, block: its lanes. arena_bytes: the
    memory that the machine needs. instructions: their place in it, and ``count`` how many.
    """

    hash: str
    batch: int
    block: int
    arena_bytes: int
    instructions: int
    count: int
    segments: tuple[Segment, ...]
    inputs: tuple[Input, ...]
    ports: tuple[Port, ...]
    outputs: tuple[Output, ...]
    #: CRC-32 of the image's bytes before it.
    crc: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "crc", zlib.crc32(self._body()))

    def to_bytes(self) -> bytes:
        """The image as a file that :meth:`from_bytes` and the C runtime read."""
        return self._body() + struct.pack("<I", self.crc)

    def _body(self) -> bytes:
        numbers = _Numbers()
        inputs = [(one.elements, one.exponent, TYPES[one.dtype]) for one in self.inputs]
        ports = [_port_words(one, numbers) for one in self.ports]
        outputs = [_output_words(one, numbers) for one in self.outputs]
        counts = (len(self.segments), len(inputs), len(ports), len(outputs), len(numbers.values))
        at = WORD_BYTES * _table_words(counts)
        segments = []
        for one in self.segments:
            segments.append((one.offset, len(one.data), at))
            at += len(one.data) + -len(one.data) % WORD_BYTES
        number = int(self.hash, 16)
        low, high = struct.unpack("<II", MAGIC)
        header = (
            *(low, high, VERSION, at + CRC_BYTES, number & _MASK, number >> 32),
            *(self.batch, self.block, self.arena_bytes, self.instructions, self.count, *counts),
        )
        rows = [header, *segments, *inputs, *ports, *outputs, numbers.values]
        words = [word & _MASK for row in rows for word in row]
        contents = (one.data + bytes(-len(one.data) % WORD_BYTES) for one in self.segments)
        return struct.pack(f"<{len(words)}I", *words) + b"".join(contents)

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """The image in a file's bytes; ProgramError where they are no whole, unaltered image."""
        words = _Words(data)
        header = dict(zip(RECORDS["header"], next(words.rows("header", 1)), strict=True))
        if words.header_is_foreign(header):
            raise ProgramError(
                f"this is no program image of version {VERSION}, or it is truncated or was "
                "altered; make it again with tvm-shiftadd image"
            )
        segments = list(words.rows("segment", header["segments"]))
        inputs = list(words.rows("input", header["inputs"]))
        ports = list(words.rows("port", header["ports"]))
        outputs = list(words.rows("output", header["outputs"]))
        numbers = [_signed(word) for (word,) in words.rows("number", header["numbers"])]
        return cls(
            f"{header['hash_high']:08x}{header['hash_low']:08x}",
            *(header["batch"], header["block"], header["arena_bytes"]),
            *(header["instructions"], header["instruction_count"]),
            tuple(Segment(offset, _part(data, at, size)) for offset, size, at in segments),
            tuple(Input(n, _signed(exponent), _type(kind)) for n, exponent, kind in inputs),
            tuple(_port(row, numbers) for row in ports),
            tuple(_output(row, numbers) for row in outputs),
        )


class _Numbers:
    """The list of numbers at the end of the records."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def place(self, numbers: Sequence[int]) -> int:
        """Where ``numbers`` lie from now on."""
        self.values += numbers
        return len(self.values) - len(numbers)


class _Words:
    """Reads records one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def rows(self, record: str, count: int) -> Iterator[tuple[int, ...]]:
        size = WORD_BYTES * len(RECORDS[record])
        end = self._at + count * size
        if end > len(self._data) - CRC_BYTES:
            raise ProgramError("the program image is truncated; make it again")
        found = self._data[self._at : end]
        self._at = end
        return struct.iter_unpack(f"<{len(RECORDS[record])}I", found)

    def header_is_foreign(self, header: dict[str, int]) -> bool:
        """Whether magic, version, size or CRC are not those of an image."""
        data = self._data
        return (
            data[: len(MAGIC)] != MAGIC
            or header["version"] != VERSION
            or header["bytes"] != len(data)
            or zlib.crc32(data[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little")
        )


def _table_words(counts: Sequence[int]) -> int:
    header, *others = RECORDS.values()
    return len(header) + sum(n * len(words) for n, words in zip(counts, others, strict=True))


def _port_words(port: Port, numbers: _Numbers) -> tuple[int, ...]:
    taps = numbers.place([number for tap in port.taps for number in tap])
    return (
        *(port.input, port.offset, *port.size, *port.source, *port.strides, *port.step),
        *(taps, len(port.taps)),
    )


def _output_words(output: Output, numbers: _Numbers) -> tuple[int, ...]:
    exponents = numbers.place(output.exponents)
    shape, strides = output.shape, output.strides
    return output.elements, TYPES[output.dtype], output.offset, *shape, *strides, exponents


def _port(row: tuple[int, ...], numbers: list[int]) -> Port:
    at, count = row[12:]
    flat = _part(numbers, at, 2 * count)
    taps = tuple(zip(flat[::2], flat[1::2], strict=True))
    return Port(row[0], row[1], row[2:4], row[4:7], row[7:10], row[10:12], taps)  # type: ignore[arg-type]


def _output(row: tuple[int, ...], numbers: list[int]) -> Output:
    exponents = tuple(_part(numbers, row[9], row[5]))
    return Output(row[0], _type(row[1]), row[2], row[3:6], row[6:9], exponents)  # type: ignore[arg-type]


_List = TypeVar("_List", bytes, list[int])


def _part(whole: _List, at: int, count: int) -> _List:
    if at + count > len(whole):
        raise ProgramError("the program image points beyond its end; make it again")
    return whole[at : at + count]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _type(number: int) -> str:
    if number not in _NAMES:
        raise ProgramError(f"the program image has a tensor of type {number}; make it again")
    return _NAMES[number]


def _check(image: Image) -> None:
    """The rules of docs/bare-metal.md, which the runtime checks too."""
    arena = image.arena_bytes
    code = image.count * INSTRUCTION_BYTES
    lanes = image.batch >= 1 and image.block >= 1
    _need(0 < arena <= _MASK and lanes, "no arena or no lanes")
    fits = image.instructions % ALIGNMENT == 0 and image.instructions + code <= arena
    _need(fits and image.count > 0, "instructions that do not fit the arena")
    for segment in image.segments:
        _need(segment.offset + len(segment.data) <= arena, "a segment beyond the arena")
    for one in image.inputs:
        _need(one.dtype in ("int8", "uint8") and _scales((one.exponent,)), "an input of no scale")
    for port in image.ports:
        _need(port.input < len(image.inputs), "a map of no input")
        _check_port(image, port)
    for output in image.outputs:
        _check_map(image, output.offset, output.shape, output.dtype)
        _need(len(output.exponents) == output.shape[2] and _scales(output.exponents), "no scale")
        _need(_last(output.shape, output.strides) < output.elements, "an output that is too small")


def _check_port(image: Image, port: Port) -> None:
    given = image.inputs[port.input]
    _check_map(image, port.offset, (*port.size, port.channels), given.dtype)
    _need(all(1 <= side <= MAX_SIDE for side in (*port.source, *port.step)), "a side of no size")
    _need(all(abs(n) <= MAX_SIDE for tap in port.taps for n in tap), "a tap that is too far away")
    _need(1 <= len(port.taps) <= MAX_SIDE, "a window of no taps")
    _need(_last(port.source, port.strides) < given.elements, "an input that is too small")


def _check_map(image: Image, offset: int, shape: Sides, dtype: str) -> None:
    height, width, channels = shape
    blocks = -(-channels // image.block)
    size = blocks * height * width * image.batch * image.block * _BYTES[dtype]
    _need(all(1 <= side <= MAX_SIDE for side in shape), "a side of no size")
    _need(offset + size <= image.arena_bytes, "a map beyond the arena")


def _last(shape: Sides, strides: Sides) -> int:
    """Where the last element lies."""
    return sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))


def _scales(exponents: Sequence[int]) -> bool:
    return all(abs(exponent) <= MAX_EXPONENT for exponent in exponents)


def _need(fits: bool, what: str) -> None:
    if not fits:
        raise ProgramError(f"a program image cannot have {what}; compile the model again")
