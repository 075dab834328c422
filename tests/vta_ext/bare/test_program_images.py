"""Program images: what is in the file, what comes back, and what is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.vta_ext.bare.networks import NAMES, made
from tests.vta_ext.bare.runtime import Board, Runtime
from tvm_shiftadd.errors import ProgramError
from vta_ext.bare import layout
from vta_ext.bare.image import Image, Input, Output, Port, Segment
from vta_ext.bare.make import make
from vta_ext.config import Config
from vta_ext.isa.codec import codec
from vta_ext.presets import SHIFT, SMALL
from vta_ext.rtl.map import Register

#: One of everything, small enough to be read below.
IMAGE = Image(
    hash="0123456789abcdef",
    batch=1,
    block=4,
    arena_bytes=1024,
    instructions=512,
    count=1,
    segments=(Segment(512, bytes(range(16))), Segment(768, b"\x01\x02\x03")),
    inputs=(Input(12, -3, "uint8"),),
    ports=(Port(0, 0, (2, 1), (2, 2, 3), (2, 1, 4), (1, 2), ((0, -1), (0, 0))),),
    outputs=(Output(3, "int32", 256, (1, 1, 3), (0, 0, 1), (5, -6, 7)),),
)


def test_the_file_word_by_word() -> None:
    """The format: a change of it needs another version."""
    data = IMAGE.to_bytes()
    assert data[:8] == b"VTAX-IMG"
    words = struct.unpack(f"<{len(data) // 4 - 2}i", data[8:])
    assert words[:-1] == (
        # Version, bytes, hash; lanes, arena, instructions; records of each kind.
        *(1, 248, 0x89ABCDEF - (1 << 32), 0x01234567),
        *(1, 4, 1024, 512, 1, 2, 1, 1, 1, 7),
        # Segments: place in the arena, bytes, place in the image.
        *(512, 16, 224, 768, 3, 240),
        # The input, its map, the output, and numbers: taps and exponents.
        *(12, -3, 2),
        *(0, 0, 2, 1, 2, 2, 3, 2, 1, 4, 1, 2, 0, 2),
        *(3, 3, 256, 1, 1, 3, 0, 0, 1, 4),
        *(0, -1, 0, 0, 5, -6, 7),
        # The segments' contents.
        *(0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C, 0x030201),
    )
    assert words[-1] & 0xFFFFFFFF == zlib.crc32(data[:-4])


def test_what_comes_back() -> None:
    assert Image.from_bytes(IMAGE.to_bytes()) == IMAGE
    for config in (SHIFT, SMALL):
        image = make(made(config), *NAMES).image
        again = Image.from_bytes(image.to_bytes())
        assert again == image
        assert again.crc == image.crc == zlib.crc32(image.to_bytes()[:-4])


def test_the_arena_is_the_programs() -> None:
    """Constants, micro-ops and instructions are where the program says."""
    regions = made(SHIFT)
    image = make(regions, *NAMES).image
    program = regions.regions[0].program
    arena = np.zeros(image.arena_bytes, np.uint8)
    for segment in image.segments:
        arena[segment.offset :][: len(segment.data)] = np.frombuffer(segment.data, np.uint8)
    for section in program.sections:
        if section.data is not None:
            assert arena[section.offset : section.end].tobytes() == section.data
    assert image.instructions >= program.dram_bytes
    code = arena[image.instructions :][: 16 * image.count].tobytes()
    assert codec(SHIFT).decode_all(code) == program.instructions


#: A change of IMAGE that does not fit.
WRONG: dict[str, dict[str, Any]] = {
    "no arena": {"arena_bytes": 0},
    "no lanes": {"block": 0},
    "instructions that": {"instructions": 1008},
    "a segment": {"segments": (Segment(1024, b"x"),)},
    "a map beyond": {"outputs": (replace(IMAGE.outputs[0], offset=1012),)},
    "an output that": {"outputs": (replace(IMAGE.outputs[0], elements=2),)},
    "no scale": {"outputs": (replace(IMAGE.outputs[0], exponents=(1, 2)),)},
    "an input of no": {"inputs": (Input(12, 65, "int8"),)},
    "an input that": {"inputs": (Input(11, 0, "int8"),)},
    "a map of no": {"ports": (replace(IMAGE.ports[0], input=1),)},
    "a side": {"ports": (replace(IMAGE.ports[0], step=(0, 1)),)},
    "a tap": {"ports": (replace(IMAGE.ports[0], taps=((0, 1 << 17),)),)},
    "a side of no size": {"ports": (replace(IMAGE.ports[0], taps=()),)},
}


@pytest.mark.parametrize("words", WRONG)
def test_parts_that_do_not_fit_are_refused(words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        replace(IMAGE, **WRONG[words])


def test_altered_files_are_refused() -> None:
    data = IMAGE.to_bytes()
    for wrong in (b"", data[:40], data[:-1], data[:-1] + b"x", data[4:], bytes(len(data))):
        with pytest.raises(ProgramError, match="image"):
            Image.from_bytes(wrong)


def sealed(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


#: Limits of what a word may be, and what is beyond them.
LIMITS = (
    *(0, 1, 3, 4, 16, 64, 65, -64, -65, 255, 256),
    *(1 << 16, (1 << 16) + 1, 1 << 31, -(1 << 16), -1),
)
#: All words of the header but magic and version, and of the records.
WORDS = range(3, 56)


def agreed(words: dict[int, int]) -> bool:
    """Whether reader and runtime take IMAGE with these words in it and a CRC that fits."""
    data = bytearray(IMAGE.to_bytes())
    for number, value in words.items():
        data[4 * number : 4 * number + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    altered = sealed(bytes(data))
    board = Board(SMALL, IMAGE.arena_bytes)
    for register, at in ((Register.HASH_LOW, 16), (Register.HASH_HIGH, 20)):
        board.registers[register] = int.from_bytes(altered[at : at + 4], "little")
    status = Runtime(altered, board).status
    try:
        Image.from_bytes(altered)
    except ProgramError:
        assert status in ("BAD_LAYOUT", "TRUNCATED", "WRONG_CRC"), words
        return False
    assert status in ("OK", "BAD_ARENA"), words
    return True


@pytest.mark.parametrize("number", WORDS)
def test_reader_and_runtime_agree(number: int) -> None:
    """C opens what Python reads, and nothing else."""
    for value in LIMITS:
        agreed({number: value})


def test_sizes_that_only_fit_when_they_wrap_are_refused() -> None:
    """Sides of 0 or of 3, with strides whose products are 0 in 32 bits."""
    place = {"port": 25, "output": 39}

    def words(record: str, **values: int) -> dict[int, int]:
        names = layout.RECORDS[record]
        return {place[record] + names.index(name): value for name, value in values.items()}

    assert agreed(words("port", source_height=2, stride_y=0))
    assert not agreed(words("port", source_height=3, stride_y=1 << 31))
    assert not agreed(words("port", source_height=0, stride_y=0))
    assert not agreed(words("port", channels=0, stride_c=0))
    assert not agreed(words("output", height=3, stride_y=1 << 31))
    assert not agreed(words("port", channels=1 << 16, tap_count=1 << 16))


def test_the_layouts_header_is_up_to_date() -> None:
    """Else run ``python -m vta_ext.bare.layout``."""
    assert layout.HEADER.read_text() == layout.c_header()


def test_the_header_counts_the_records_in_their_order() -> None:
    """The runtime finds them so."""
    header, *others = layout.RECORDS
    assert header == "header"
    counted = layout.RECORDS["header"][-len(others) :]
    assert counted == tuple(f"{record}s" for record in others)


def test_another_machines_lanes() -> None:
    """Lanes are those of the configuration."""
    config: Config = replace(SMALL, log_batch=1)
    image = make(made(config), *NAMES).image
    assert (image.batch, image.block) == (2, 8)
