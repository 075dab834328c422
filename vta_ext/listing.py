"""Whole programs as text, and back to the same bytes.

.config {"LOG_BLOCK": 4, ...}        one line of JSON, as in a configuration's file
.section weights constant 0 256      name, role, offset, bytes; contents follow
.hex 00112233...
.section kernels micro-ops 256 8
.uop 0 16 2                          dst, src, wgt
.section x input 512 4096
.label layer1                        of the next instruction
load.inp sram_base=0 dram_base=32 y_size=1 x_size=256 x_stride=256
finish
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import numpy as np

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.config import Config
from vta_ext.isa.assembly import (
    at_line,
    format_instruction,
    format_micro_op,
    parse_micro_op,
    strip_comment,
)
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction
from vta_ext.program import WITH_DATA, Label, Program, Section

_HEX_BYTES: Final = 32


def to_text(program: Program) -> str:
    """The text of ``program``."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"; configuration {program.config.hash}"
    yield f".config {json.dumps(program.config.to_dict())}"
    for section in program.sections:
        yield f".section {section.name} {section.role} {section.offset} {section.size}"
        if section.role == "micro-ops" and section.data is not None:
            words = np.frombuffer(section.data, "<u4")
            rows = codec(program.config).decode_micro_ops(words)
            yield from (f".uop {format_micro_op(row)}" for row in rows)
        elif section.data is not None:
            for start in range(0, section.size, _HEX_BYTES):
                yield f".hex {section.data[start : start + _HEX_BYTES].hex()}"
    labels: dict[int, list[str]] = {}
    for label in sorted(program.labels, key=lambda label: label.position):
        labels.setdefault(label.position, []).append(label.name)
    for position, instruction in enumerate(program.instructions):
        yield from (f".label {name}" for name in labels.get(position, []))
        yield format_instruction(instruction)


class _Reader:
    """Collects what the lines of a text say."""

    def __init__(self, config: Config | None) -> None:
        self.config = config
        self.instructions: list[Instruction] = []
        self.labels: list[Label] = []
        self.sections: list[tuple[str, str, int, int, list[bytes]]] = []

    def read(self, line: str, number: int) -> None:
        word, _, rest = line.partition(" ")
        directives = {
            ".config": self._config,
            ".section": self._section,
            ".hex": self._hex,
            ".uop": self._micro_op,
            ".label": self._label,
        }
        if not word.startswith("."):
            self.instructions.append(at_line(number, line))
            return
        if word not in directives:
            raise ProgramError(
                f"line {number}: no directive {word!r:.40}; known are {', '.join(directives)}"
            )
        try:
            directives[word](rest.strip())
        except InputError as error:
            raise ProgramError(f"line {number}: {error}") from error

    def _config(self, text: str) -> None:
        if self.sections or self.instructions:
            raise ProgramError(".config must come before sections and instructions")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProgramError(f".config takes a JSON object in one line: {error}") from error
        if not isinstance(values, dict):
            raise ProgramError(".config takes a JSON object in one line")
        self.config = Config.from_dict(values)

    def _section(self, text: str) -> None:
        words = text.split()
        if len(words) != 4 or not all(w.isascii() and w.isdigit() for w in words[2:]):
            raise ProgramError(f"expected .section NAME ROLE OFFSET BYTES, got {text!r:.80}")
        if max(len(word) for word in words[2:]) > 12:
            raise ProgramError(f"offset or size of section {words[0]!r:.40} is too large")
        self.sections.append((words[0], words[1], int(words[2]), int(words[3]), []))

    def _hex(self, text: str) -> None:
        try:
            self._data().append(bytes.fromhex(text))
        except ValueError:
            raise ProgramError(f"expected pairs of hexadecimal digits, got {text!r:.40}") from None

    def _micro_op(self, text: str) -> None:
        if self.config is None:
            raise ProgramError("micro-ops need a .config line before them")
        words = codec(self.config).encode_micro_ops(parse_micro_op(text))
        self._data().append(words.astype("<u4").tobytes())

    def _data(self) -> list[bytes]:
        if not self.sections or self.sections[-1][1] not in WITH_DATA:
            raise ProgramError("contents must follow the .section line of a constant or micro-ops")
        return self.sections[-1][4]

    def _label(self, text: str) -> None:
        self.labels.append(Label(len(self.instructions), text))

    def program(self) -> Program:
        if self.config is None:
            raise ProgramError("the program names no configuration; begin it with a .config line")
        sections = tuple(
            Section(name, role, offset, size, b"".join(data) if role in WITH_DATA else None)
            for name, role, offset, size, data in self.sections
        )
        return Program(self.config, tuple(self.instructions), sections, tuple(self.labels))


def from_text(text: str, config: Config | None = None) -> Program:
    """The program of a text; ``config`` is used where the text has no ``.config`` line.

    Raises ProgramError, with the line, for anything malformed.
    """
    reader = _Reader(config)
    for number, line in enumerate(text.splitlines(), 1):
        # A .config line may hold anything JSON does, a semicolon too.
        content = line.strip() if line.startswith(".config") else strip_comment(line)
        if content:
            reader.read(content, number)
    return reader.program()
