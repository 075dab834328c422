"""Programs as files and as text: round trips, and damage of every kind."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.programs import TINY, valid_instructions
from tvm_shiftadd.errors import ProgramError
from vta_ext import listing, presets
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.program import Label, Program, Section, micro_op_section

FINISH = isa.finish()


@st.composite
def programs(draw: st.DrawFn) -> Program:
    kinds = valid_instructions(TINY).filter(lambda i: i.kind.name != "FINISH")
    instructions = (*draw(st.lists(kinds, max_size=5)), FINISH)
    sections, at = [], 0
    for number, role in enumerate(draw(st.lists(st.sampled_from("ioscu"), max_size=4))):
        at += draw(st.integers(0, 9))
        size = draw(st.integers(1, 50))
        if role == "u":
            rows = draw(st.lists(st.tuples(*[st.integers(0, 7)] * 3), min_size=1, max_size=4))
            sections.append(micro_op_section(f"s{number}", isa.micro_ops(rows), at, TINY))
        elif role == "c":
            data = draw(st.binary(min_size=size, max_size=size))
            sections.append(Section(f"s{number}", "constant", at, size, data))
        else:
            name = {"i": "input", "o": "output", "s": "scratch"}[role]
            sections.append(Section(f"s{number}", name, at, size))
        at = sections[-1].end
    labels = draw(st.lists(st.integers(0, len(instructions) - 1), max_size=3))
    return Program(
        TINY, instructions, tuple(sections), tuple(Label(p, f"l{p}") for p in sorted(labels))
    )


@given(programs())
def test_any_program_survives_file_and_text(program: Program) -> None:
    assert Program.from_bytes(program.to_bytes()) == program
    again = listing.from_text(listing.to_text(program))
    assert again == program
    assert again.to_bytes() == program.to_bytes()


@given(programs(), st.data())
def test_any_damage_is_noticed(program: Program, data: st.DataObject) -> None:
    raw = bytearray(program.to_bytes())
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ProgramError):
        Program.from_bytes(bytes(raw[:cut]))
    raw[cut] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProgramError):
        Program.from_bytes(bytes(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_program_or_an_error(raw: bytes) -> None:
    with pytest.raises(ProgramError):
        Program.from_bytes(raw)


def seal(header: object, body: bytes = b"") -> bytes:
    """A file with a right digest and any header."""
    text = json.dumps(header).encode()
    raw = struct.pack("<8sII", b"VTAXPROG", 1, len(text)) + text + body
    return raw + hashlib.sha256(raw).digest()


GOOD = {
    "config": TINY.to_dict(),
    "hash": TINY.hash,
    "instructions": 1,
    "sections": [["a", "constant", 0, 4]],
    "labels": [],
}
CODE = codec(TINY).encode_all([FINISH])


def test_a_sealed_file_loads() -> None:
    program = Program.from_bytes(seal(GOOD, CODE + b"abcd"))
    assert program.section("a").data == b"abcd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"LOG_BLOCK": 99}}, "header is malformed: LOG_BLOCK must be"),
        ({"config": 3}, "header is malformed"),
        ({"hash": "0" * 16}, "made for configuration '0000000000000000'"),
        ({"instructions": 10**12}, "asks for 16000000"),
        ({"instructions": -1}, "header asks for"),
        ({"instructions": None}, "header is malformed"),
        ({"sections": [["a", "constant", 0, -4]]}, "header asks for"),
        ({"sections": [["a", "constant", 0]]}, "header is malformed"),
        ({"sections": [[1, "constant", 0, 4]]}, "no name or role"),
        ({"sections": [["a", "constant", 0.5, 4]]}, "no whole numbers"),
        ({"sections": [["a", "constant", 2**40, 4]]}, "must lie in the first 4294967296 bytes"),
        ({"sections": [["a", "code", 0, 4]], "instructions": 1}, "header asks for"),
        ({"labels": [[1, "x"]]}, "label 'x' at 1"),
        ({"labels": [["x"]]}, "header is malformed"),
    ],
)
def test_well_sealed_nonsense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program.from_bytes(seal({**GOOD, **changes}, CODE + b"abcd"))


def test_a_header_without_a_key_is_refused() -> None:
    for key in GOOD:
        header = {name: value for name, value in GOOD.items() if name != key}
        with pytest.raises(ProgramError):
            Program.from_bytes(seal(header, CODE + b"abcd"))
    with pytest.raises(ProgramError, match="header is malformed"):
        Program.from_bytes(seal([1], CODE))


def test_a_version_that_is_not_known_is_named() -> None:
    raw = bytearray(seal(GOOD, CODE + b"abcd"))
    raw[8] = 2
    with pytest.raises(ProgramError, match="has version 2, this release reads 1"):
        Program.from_bytes(bytes(raw))


def test_files_on_disk(tmp_path: Path) -> None:
    program = Program(TINY, (FINISH,))
    program.save(tmp_path / "p.vta")
    assert Program.load(tmp_path / "p.vta") == program
    with pytest.raises(ProgramError, match=r"cannot read the program .*none"):
        Program.load(tmp_path / "none")
    (tmp_path / "bad.vta").write_bytes(b"nonsense")
    with pytest.raises(ProgramError, match=r"bad.vta: this is not a program"):
        Program.load(tmp_path / "bad.vta")


def constant(name: str, offset: int, data: bytes) -> Section:
    return Section(name, "constant", offset, len(data), data)


@pytest.mark.parametrize(
    ("instructions", "sections", "message"),
    [
        ((), (), "one FINISH, its last instruction"),
        ((FINISH, FINISH), (), r"FINISH is at \[0, 1\] of 2"),
        ((isa.gemm("shift", uops=(0, 99)), FINISH), (), "instruction 0: uop_end of GEMM_SHIFT"),
        ((FINISH,), (constant("a", 0, b"ab"), constant("b", 1, b"c")), "a and b overlap"),
        ((FINISH,), (constant("a", 0, b"a"), constant("a", 1, b"c")), "two sections have one name"),
        ((FINISH,), (Section("a b", "input", 0, 1),), "names are letters"),
        ((FINISH,), (Section("a", "inputs", 0, 1),), "roles input, output"),
        ((FINISH,), (Section("a", "input", 0, 1, b"x"),), "must have no bytes of contents, not 1"),
        ((FINISH,), (Section("a", "constant", 0, 1),), "must have 1 bytes of contents, not none"),
        ((FINISH,), (Section("a", "input", 0, 0),), "hold at least one, not 0 from 0"),
        ((FINISH,), (Section("u", "micro-ops", 0, 3, b"abc"),), "whole micro-ops"),
        ((FINISH,), (Section("u", "micro-ops", 0, 4, b"\xff" * 4),), "reserved bits are set"),
    ],
)
def test_malformed_programs_are_refused(
    instructions: tuple[isa.Instruction, ...], sections: tuple[Section, ...], message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        Program(TINY, instructions, sections)


def test_a_program_belongs_to_one_configuration() -> None:
    program = Program(TINY, (FINISH,))
    program.require(TINY)
    with pytest.raises(ProgramError, match="compile it for this device"):
        program.require(presets.BASE)


def test_labels_and_sections_are_found() -> None:
    load = isa.load("inp", sram_base=0, dram_base=0, x_size=1)
    program = Program(TINY, (load, load, FINISH), (), (Label(1, "one"), Label(2, "two")))
    assert [program.label_of(n) for n in range(3)] == ["", "one", "two"]
    with pytest.raises(ProgramError, match="no section 'x'; it has none"):
        program.section("x")


BAD_TEXT = {
    "finish": "names no configuration",
    ".config {": "line 1: .config takes a JSON object",
    ".config 3": "line 1: .config takes a JSON object",
    '.config {"LOG": 1}': "line 1: a configuration has no 'LOG'",
    ".config {}\n.section a input": "line 2: expected .section NAME ROLE OFFSET BYTES",
    ".config {}\n.section a input 0 " + "9" * 13: "line 2: offset or size of section",
    ".config {}\n.hex 00": "line 2: contents must follow",
    ".config {}\n.section a input 0 4\n.hex 00": "line 3: contents must follow",
    ".config {}\n.section a constant 0 4\n.hex 0": "line 3: expected pairs of hexadecimal digits",
    ".config {}\n.section a micro-ops 0 4\n.uop 0 0 1024": "line 3: micro-op 0: wgt must be",
    ".config {}\nfinish\n.config {}": "line 3: .config must come before",
    ".config {}\n.what": "line 2: no directive '.what'",
    ".config {}\njump": "line 2: no instruction 'jump'",
}


@pytest.mark.parametrize("text", BAD_TEXT)
def test_bad_text_names_the_line(text: str) -> None:
    with pytest.raises(ProgramError, match=BAD_TEXT[text]):
        listing.from_text(text)


def test_a_configuration_may_come_from_outside() -> None:
    assert listing.from_text("finish ; done\n", TINY) == Program(TINY, (FINISH,))
