"""A program: instructions, and what lies in DRAM; saved without pickle and checked when read.

DRAM addresses count from the start of one arena that the driver allocates, so a program runs
wherever it is put. Sections are the arena's parts; micro-ops are a section too.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.config import Config
from vta_ext.isa.codec import INSTRUCTION_BYTES, codec
from vta_ext.isa.instruction import Instruction, MicroOps
from vta_ext.isa.machine import MAX_DRAM_BYTES

#: What a section is for. Those with contents are written before the program starts and then only
#: read; the program may write the outputs and the scratch memory.
ROLES: Final = ("input", "output", "constant", "micro-ops", "scratch")
WITH_DATA: Final = ("constant", "micro-ops")

_NAME: Final = re.compile(r"[A-Za-z0-9_.:/+-]{1,200}\Z")
#: The first bytes of a program's file.
MAGIC: Final = b"VTAXPROG"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sII")
_DIGEST: Final = 32


@dataclass(frozen=True)
class Section:
    """``size`` bytes of the arena from ``offset`` up; ``data`` where the role has contents."""

    name: str
    role: str
    offset: int
    size: int
    data: bytes | None = None

    @property
    def end(self) -> int:
        """One beyond the last byte."""
        return self.offset + self.size


@dataclass(frozen=True)
class Label:
    """A name for the instructions from ``position`` on, for instance of the layer they compute."""

    position: int
    name: str


@dataclass(frozen=True)
class Program:
    """Instructions for one configuration, the sections of its DRAM, and labels.

    Raises ProgramError where an instruction is none of the configuration's, there is no FINISH at
    the end and nowhere else, or sections are malformed or overlap.
    """

    config: Config
    instructions: tuple[Instruction, ...]
    sections: tuple[Section, ...] = ()
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        finishes = [n for n, i in enumerate(self.instructions) if i.kind.name == "FINISH"]
        if finishes != [len(self.instructions) - 1]:
            raise ProgramError(
                "a program has one FINISH, its last instruction; "
                f"FINISH is at {finishes or 'no position'} of {len(self.instructions)}"
            )
        codec(self.config).encode_all(self.instructions)
        self._check_sections()
        for label in self.labels:
            if not 0 <= label.position < len(self.instructions) or not _NAME.match(label.name):
                raise ProgramError(
                    f"label {label.name!r:.40} at {label.position}: the name must be letters, "
                    f"digits or _.:/+- and the position one of {len(self.instructions)}"
                )

    def _check_sections(self) -> None:
        names = {section.name for section in self.sections}
        if len(names) != len(self.sections):
            raise ProgramError("two sections have one name; names of sections must differ")
        for section in self.sections:
            _check_section(section, self.config)
        ordered = sorted(self.sections, key=lambda section: (section.offset, section.end))
        for one, other in pairwise(ordered):
            if one.end > other.offset:
                raise ProgramError(f"sections {one.name} and {other.name} overlap in DRAM")

    @property
    def dram_bytes(self) -> int:
        """Size of the arena."""
        return max((section.end for section in self.sections), default=0)

    def section(self, name: str) -> Section:
        """The section of that name; ProgramError lists the names."""
        for section in self.sections:
            if section.name == name:
                return section
        known = ", ".join(section.name for section in self.sections)
        raise ProgramError(f"the program has no section {name!r}; it has {known or 'none'}")

    def label_of(self, position: int) -> str:
        """The name that the last label up to ``position`` gives it; empty without one."""
        found = [label for label in self.labels if label.position <= position]
        return max(found, key=lambda label: label.position).name if found else ""

    def require(self, config: Config) -> None:
        """Raise ProgramError unless this program is for ``config``."""
        if config.hash != self.config.hash:
            raise ProgramError(
                f"the program is for configuration {self.config.hash}, the device is "
                f"{config.hash}; compile it for this device"
            )

    def to_bytes(self) -> bytes:
        """The program as a file that :meth:`from_bytes` reads."""
        header = {
            "config": self.config.to_dict(),
            "hash": self.config.hash,
            "instructions": len(self.instructions),
            "sections": [[s.name, s.role, s.offset, s.size] for s in self.sections],
            "labels": [[label.position, label.name] for label in self.labels],
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        parts = [_HEAD.pack(MAGIC, _VERSION, len(text)), text]
        parts.append(codec(self.config).encode_all(self.instructions))
        parts += [section.data for section in self.sections if section.data is not None]
        body = b"".join(parts)
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """The program in a file's bytes.

        Raises ProgramError where they are truncated, altered, of another version, or describe a
        program that is not valid.
        """
        header, at = _read_header(data)
        try:
            config = Config.from_dict(header["config"])
            sections = [_section_of(*row) for row in header["sections"]]
            labels = tuple(Label(int(at), str(name)) for at, name in header["labels"])
            count = int(header["instructions"])
        except ProgramError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            raise ProgramError(f"the program's header is malformed: {error}") from error
        if config.hash != header.get("hash"):
            raise ProgramError(
                f"the program was made for configuration {header.get('hash')!r:.40}, but its "
                f"parameters are those of {config.hash}; this version encodes differently, so "
                "compile it again"
            )
        sizes = [s.size for s in sections if s.role in WITH_DATA]
        expected = at + count * INSTRUCTION_BYTES + sum(sizes) + _DIGEST
        if count < 0 or min(sizes, default=0) < 0 or expected != len(data):
            raise ProgramError(
                f"the program's header asks for {expected} bytes, the file has {len(data)}"
            )
        code = data[at : at + count * INSTRUCTION_BYTES]
        filled = _with_data(sections, data, at + len(code))
        return cls(config, codec(config).decode_all(code), tuple(filled), labels)

    def save(self, path: str | Path) -> None:
        """Write the program to a file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a program; ProgramError names the file where that fails."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ProgramError(f"cannot read the program {path}: {error.strerror}") from error
        try:
            return cls.from_bytes(data)
        except ProgramError as error:
            raise ProgramError(f"{path}: {error}") from error


def _check_section(section: Section, config: Config) -> None:
    s = section
    if not _NAME.match(s.name) or s.role not in ROLES:
        raise ProgramError(
            f"section {s.name!r:.40} of role {s.role!r:.40}: names are letters, digits or _.:/+- "
            f"and roles {', '.join(ROLES)}"
        )
    if s.offset < 0 or s.size < 1 or s.end > MAX_DRAM_BYTES:
        raise ProgramError(
            f"section {s.name} must lie in the first {MAX_DRAM_BYTES} bytes and hold at least "
            f"one, not {s.size} from {s.offset}"
        )
    has, needs = s.data is not None, s.role in WITH_DATA
    if has != needs or (s.data is not None and len(s.data) != s.size):
        raise ProgramError(
            f"section {s.name} of role {s.role} must have {s.size if needs else 'no'} bytes of "
            f"contents, not {'none' if s.data is None else len(s.data)}"
        )
    if s.role == "micro-ops" and s.data is not None:
        _check_micro_ops(s.name, s.data, config)


def _check_micro_ops(name: str, data: bytes, config: Config) -> None:
    if len(data) % config.uop_bytes:
        raise ProgramError(f"section {name} of {len(data)} bytes does not hold whole micro-ops")
    words = np.frombuffer(data, "<u4")
    rows = codec(config).decode_micro_ops(words)
    if not np.array_equal(codec(config).encode_micro_ops(rows), words):
        raise ProgramError(f"section {name} holds a micro-op whose reserved bits are set")


def micro_op_section(name: str, rows: MicroOps, offset: int, config: Config) -> Section:
    """A section of micro-ops ``[n, 3]``; ProgramError for an index that does not fit."""
    data = codec(config).encode_micro_ops(rows).astype("<u4").tobytes()
    return Section(name, "micro-ops", offset, len(data), data)


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the instructions begin."""
    if len(data) < _HEAD.size + _DIGEST or data[: len(MAGIC)] != MAGIC:
        raise ProgramError("this is not a program of the accelerator, or it is truncated")
    _, version, length = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ProgramError(
            f"the program's file has version {version}, this release reads {_VERSION}; "
            "compile it again"
        )
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ProgramError("the program's file is truncated or was altered; compile it again")
    at = _HEAD.size + length
    try:
        header = json.loads(data[_HEAD.size : at])
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"the program's header is not JSON: {error}") from error
    if at > len(data) or not isinstance(header, dict):
        raise ProgramError("the program's header is malformed")
    return header, at


def _section_of(name: Any, role: Any, offset: Any, size: Any) -> Section:
    if not (isinstance(name, str) and isinstance(role, str)):
        raise ProgramError("the program's header is malformed: a section has no name or role")
    if type(offset) is not int or type(size) is not int:
        raise ProgramError(f"section {name!r:.40} has no whole numbers as offset and size")
    return Section(name, role, offset, size)


def _with_data(sections: Iterable[Section], data: bytes, at: int) -> Iterable[Section]:
    """The sections, those with contents filled from ``data``."""
    for s in sections:
        if s.role in WITH_DATA:
            yield Section(s.name, s.role, s.offset, s.size, data[at : at + s.size])
            at += s.size
        else:
            yield s
