"""The words of a program image, and the C header that the runtime reads them by.

``python -m vta_ext.bare.layout`` writes the header; a test says whether it is up to date. Numbers
of registers come from the hardware's own map.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from vta_ext.isa.codec import INSTRUCTION_BYTES
from vta_ext.rtl.map import ALIGNMENT, COUNTERS, FAILED_BIT, IDENTITY, Register

#: The first eight bytes of an image.
MAGIC: Final = b"VTAX-IMG"
VERSION: Final = 1
WORD_BYTES: Final = 4
#: Bytes of the CRC-32 (as in zlib and Ethernet) at the end, of all bytes before it.
CRC_BYTES: Final = 4
#: No side of a map, number of channels or taps, and no step or offset of a window is greater.
MAX_SIDE: Final = 1 << 16
#: Exponents of scales are from -64 to 64, as in the integer specification.
MAX_EXPONENT: Final = 64

#: Numbers of the types of stored tensors.
TYPES: Final = MappingProxyType({"int8": 1, "uint8": 2, "int32": 3})

#: The records of an image, in the order in which they lie, and the words of each. The header is
#: there once and counts the others. Each word is of 32 bits; offsets and strides are unsigned.
RECORDS: Final = MappingProxyType(
    {
        "header": (
            *("magic_low", "magic_high", "version", "bytes", "hash_low", "hash_high"),
            *("batch", "block", "arena_bytes", "instructions", "instruction_count"),
            *("segments", "inputs", "ports", "outputs", "numbers"),
        ),
        "segment": ("offset", "bytes", "from"),
        "input": ("elements", "exponent", "type"),
        "port": (
            *("input", "offset", "height", "width"),
            *("source_height", "source_width", "channels", "stride_y", "stride_x", "stride_c"),
            *("step_y", "step_x", "taps", "tap_count"),
        ),
        "output": (
            *("elements", "type", "offset", "height", "width", "channels"),
            *("stride_y", "stride_x", "stride_c", "exponents"),
        ),
        "number": ("value",),
    }
)

#: The header, beside this file.
HEADER: Final = Path(__file__).with_name("shiftadd_layout.h")

_HEAD: Final = """\
/* Made by `python -m vta_ext.bare.layout`; not to be edited. See docs/bare-metal.md. */
#ifndef SHIFTADD_LAYOUT_H
#define SHIFTADD_LAYOUT_H
"""


def _definitions() -> Iterator[tuple[str, str]]:
    for register in Register:
        yield f"REGISTER_{register.name}", str(register.value)
    for number, (name, _) in enumerate(COUNTERS):
        if number:
            yield f"REGISTER_{name.upper()}", str(Register.CYCLES + number)
    yield "FAILED_BIT", str(FAILED_BIT)
    yield "IDENTITY", f"0x{IDENTITY:08x}u"
    yield "MAGIC_LOW", f"0x{int.from_bytes(MAGIC[:4], 'little'):08x}u"
    yield "MAGIC_HIGH", f"0x{int.from_bytes(MAGIC[4:], 'little'):08x}u"
    for name, value in (
        ("VERSION", VERSION),
        ("WORD_BYTES", WORD_BYTES),
        ("CRC_BYTES", CRC_BYTES),
        ("INSTRUCTION_BYTES", INSTRUCTION_BYTES),
        ("ALIGNMENT", ALIGNMENT),
        ("MAX_SIDE", MAX_SIDE),
    ):
        yield name, f"{value}u"
    yield "MAX_EXPONENT", str(MAX_EXPONENT)
    for name, value in TYPES.items():
        yield f"TYPE_{name.upper()}", f"{value}u"
    for record, words in RECORDS.items():
        for number, word in enumerate(words):
            yield f"{record.upper()}_{word.upper()}", f"{number}u"
        yield f"{record.upper()}_WORDS", f"{len(words)}u"


def c_header() -> str:
    """The text of the header."""
    lines = [f"#define SHIFTADD_{name} {value}" for name, value in _definitions()]
    return _HEAD + "\n" + "\n".join(lines) + "\n\n#endif\n"


if __name__ == "__main__":
    HEADER.write_text(c_header(), encoding="utf-8")
