"""Known instructions, spelled out bit by bit; VTA's own in the base configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tvm_shiftadd.errors import ProgramError
from vta_ext import presets
from vta_ext.isa import instruction as isa
from vta_ext.isa import table
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction, Tokens
from vta_ext.isa.layout import instruction_layout, micro_op_layout
from vta_ext.isa.schema import InstructionKind

BASE, SHIFT, MIXED = presets.BASE, presets.SHIFT, presets.SHIFT_ADDER


def bits(*parts: tuple[int, int]) -> int:
    """The word that (value, width) pairs make from bit 0 up, 128 bits in all."""
    word = position = 0
    for value, width in parts:
        assert -(1 << (width - 1)) <= value < 1 << width
        word |= (value & ((1 << width) - 1)) << position
        position += width
    assert position == 128
    return word


# What the original's header says, field by field, in its order: opcode, four dependency bits, ...
VTA_INSTRUCTIONS = {
    "load of inputs with padding": (
        isa.load(
            "inp",
            sram_base=0x123,
            dram_base=0xDEADBEEF,
            y_size=14,
            x_size=28,
            x_stride=56,
            y_pad=(1, 2),
            x_pad=(3, 15),
            tokens=Tokens(pop_next=True, push_next=True),
        ),
        [(0, 3), (0, 1), (1, 1), (0, 1), (1, 1), (2, 3), (0x123, 16), (0xDEADBEEF, 32), (0, 6)]
        + [(14, 16), (28, 16), (56, 16), (1, 4), (2, 4), (3, 4), (15, 4)],
    ),
    "load of micro-ops": (
        isa.load("uop", sram_base=8191, dram_base=7, x_size=1),
        [(0, 3), (0, 4), (0, 3), (8191, 16), (7, 32), (0, 6), (1, 16), (1, 16), (1, 16), (0, 16)],
    ),
    "store": (
        isa.store(sram_base=2047, dram_base=5, x_size=2, y_size=3, x_stride=9),
        [(1, 3), (0, 4), (4, 3), (2047, 16), (5, 32), (0, 6), (3, 16), (2, 16), (9, 16), (0, 16)],
    ),
    "gemm": (
        isa.gemm(
            "multiply",
            uops=(5, 8192),
            loops=(16383, 9),
            dst=(2047, 1),
            src=(2, 2046),
            wgt=(1023, 3),
            tokens=Tokens(pop_prev=True, push_prev=True),
        ),
        [(2, 3), (1, 1), (0, 1), (1, 1), (0, 1), (0, 1), (5, 13), (8192, 14), (16383, 14), (9, 14)]
        + [(0, 1), (2047, 11), (1, 11), (2, 11), (2046, 11), (1023, 10), (3, 10)],
    ),
    "gemm that resets": (
        isa.gemm("multiply", uops=(0, 1), loops=(2, 3), dst=(4, 5), accumulate="clear"),
        [(2, 3), (0, 4), (1, 1), (0, 13), (1, 14), (2, 14), (3, 14), (0, 1)]
        + [(4, 11), (5, 11), (0, 22), (0, 20)],
    ),
    "alu with immediate": (
        isa.alu("shr", uops=(1, 3), loops=(4, 5), dst=(6, 7), src=(8, 9), imm=-2),
        [(4, 3), (0, 4), (0, 1), (1, 13), (3, 14), (4, 14), (5, 14), (0, 1)]
        + [(6, 11), (7, 11), (8, 11), (9, 11), (3, 3), (1, 1), (-2, 16)],
    ),
    "alu of two vectors": (
        isa.alu("mul", uops=(0, 1), src=(0, 1)),
        [(4, 3), (0, 4), (0, 1), (0, 13), (1, 14), (1, 14), (1, 14), (0, 1)]
        + [(0, 33), (1, 11), (4, 3), (0, 1), (0, 16)],
    ),
    "finish": (isa.finish(Tokens(pop_next=True)), [(3, 3), (0, 1), (1, 1), (0, 123)]),
}


@pytest.mark.parametrize("name", VTA_INSTRUCTIONS)
def test_base_configuration_has_the_encoding_of_vta(name: str) -> None:
    instruction, parts = VTA_INSTRUCTIONS[name]
    word = codec(BASE).encode(instruction)
    assert word == bits(*parts)
    assert codec(BASE).decode(word) == instruction


def test_a_known_instruction_as_bytes() -> None:
    data = codec(BASE).encode_all([isa.load("wgt", sram_base=2, dram_base=3, x_size=4)])
    assert data.hex() == "8008000c000000000100040004000000"


def test_a_micro_op_is_vtas() -> None:
    (word,) = codec(BASE).encode_micro_ops(isa.micro_ops([[0x7FE, 0x401, 0x203]]))
    assert int(word) == 0x7FE | 0x401 << 11 | 0x203 << 22


EXTENSIONS = {
    "shift": (isa.gemm("shift", uops=(0, 1)), {(0, 3): 5, (63, 1): 0}),
    "adder": (isa.gemm("adder", uops=(0, 1)), {(0, 3): 6}),
    "fresh": (
        isa.gemm("shift", uops=(0, 1), accumulate="replace"),
        {(0, 3): 5, (7, 1): 0, (63, 1): 1},
    ),
    "fresh in the first iteration": (
        isa.gemm("shift", uops=(0, 1), accumulate="replace-first"),
        {(7, 1): 1, (63, 1): 1},
    ),
    "codes": (isa.load("code", sram_base=0, dram_base=0, x_size=1), {(0, 3): 0, (7, 3): 6}),
    "store of accumulators": (
        isa.store("acc", sram_base=0, dram_base=0, x_size=1),
        {(0, 3): 1, (7, 3): 3},
    ),
    "pad_least": (
        isa.load("inp", sram_base=0, dram_base=0, x_size=1, pad_least=True),
        {(58, 5): 0, (63, 1): 1},
    ),
    "prefetched micro-ops": (
        isa.load("uop", sram_base=0, dram_base=0, x_size=1, prefetch=True),
        {(58, 3): 0, (61, 1): 1, (62, 2): 0},
    ),
    "unsigned inputs": (
        isa.load("inp", sram_base=0, dram_base=0, x_size=1, unsigned=True),
        {(58, 4): 0, (62, 1): 1, (63, 1): 0},
    ),
    "unsigned requantise": (
        isa.alu("requ", uops=(0, 1), lo=0, hi=255),
        {(63, 1): 1, (108, 3): 7, (111, 1): 0, (112, 16): 0xFF00},
    ),
    "requantise": (
        isa.alu("req", uops=(0, 1), lo=-128, hi=127),
        {(63, 1): 1, (108, 3): 5, (111, 1): 0, (112, 8): 0x80, (120, 8): 0x7F},
    ),
    "clip": (
        isa.alu("clip", uops=(0, 1), lo=0, hi=-1),
        {(108, 3): 4, (111, 1): 1, (112, 16): 0xFF00},
    ),
    "shift and add": (
        isa.alu("sha", uops=(0, 1), shift=31, subtract=1, replace=1, from_inp=True),
        {(7, 1): 1, (63, 1): 1, (108, 3): 1, (112, 16): 0x7F},
    ),
    "lane shift accumulate": (
        isa.alu("lsa", uops=(0, 1), row=0x7FFF, replace=1, from_inp=True),
        {(108, 3): 3, (112, 16): 0xFFFF},
    ),
    "rounding shift": (
        isa.alu("rshr", uops=(0, 1), imm=7),
        {(63, 1): 1, (108, 3): 0, (112, 16): 7},
    ),
    "absolute difference": (isa.alu("absd", uops=(0, 1)), {(63, 1): 1, (108, 3): 2, (111, 1): 0}),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_use_reserved_bits_and_codes(name: str) -> None:
    instruction, expected = EXTENSIONS[name]
    word = codec(MIXED).encode(instruction)
    for (low, width), value in expected.items():
        assert (word >> low) & ((1 << width) - 1) == value
    assert codec(MIXED).decode(word) == instruction
    with pytest.raises(ProgramError):
        codec(BASE).decode(word)


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize("kind", table.INSTRUCTIONS, ids=lambda kind: kind.name)
def test_every_bit_is_accounted_for(preset: str, kind: InstructionKind) -> None:
    layout = instruction_layout(kind, presets.preset(preset).config)
    covered = [bit for part in layout.bits for bit in range(part.low, part.low + part.width)]
    assert covered == list(range(128))
    assert micro_op_layout(presets.preset(preset).config).bits[-1].high == 31


def test_codes_and_ids_are_unique() -> None:
    for entries, key in (
        (table.INSTRUCTIONS, "opcode"),
        (table.MEMORIES, "id"),
        (table.ALU_OPERATIONS, "code"),
    ):
        values = [getattr(entry, key) for entry in entries]
        assert len(set(values)) == len(values)
        assert max(values) < (16 if key == "code" else 8)


def test_what_vta_has_is_not_an_extension_and_the_rest_has_a_reason() -> None:
    for operation in table.ALU_OPERATIONS:
        assert operation.extension == (operation.code >= 8) == bool(operation.reason)
    for kind in table.INSTRUCTIONS:
        assert bool(kind.reason) == (kind.opcode > 4)


BAD = {
    "memory id 7": (0 | 7 << 7, "memory id 7 is reserved"),
    "opcode 7": (7, "opcode 7 is reserved"),
    "load of out": (0 | 4 << 7, "cannot load memory out"),
    "store of inputs": (1 | 2 << 7, "cannot store memory inp"),
    "reserved bit": (3 | 1 << 100, "reserved bits of FINISH are set"),
    "store with padding": (1 | 4 << 7 | 1 << 112, "STORE has no padding"),
    "alu operation 5": (4 | 5 << 108, "ALU operation 5 is reserved"),
    "mul": (4 | 4 << 108, "no ALU operation mul"),
    "multiply": (2, "this machine has no gemm"),
    "immediate vector": (4 | 1 << 63 | 1 << 108 | 1 << 111, "use_imm of sha must be 0"),
    "reserved immediate": (4 | 1 << 63 | 1 << 108 | 1 << 127, "reserved bits of the immediate"),
    "inputs as rows": (4 | 1 << 63 | 5 << 108 | 1 << 7, "from_inp of req must be 0"),
    "pad_least of codes": (6 << 7 | 1 << 63, "pad_least of code must be 0"),
    "prefetched inputs": (2 << 7 | 1 << 61, "prefetch of inp must be 0"),
    "unsigned codes": (6 << 7 | 1 << 62, "unsigned of code must be 0"),
    "unsigned accumulators": (3 << 7 | 1 << 62, "unsigned of acc must be 0"),
    "unsigned and least": (2 << 7 | 3 << 62, "exclude each other"),
    "wide weights": (1 << 7, "lacks wide-weights"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_words_are_refused(name: str) -> None:
    word, message = BAD[name]
    with pytest.raises(ProgramError, match=message):
        codec(SHIFT).decode(word)
    with pytest.raises(ProgramError, match="instruction 0: "):
        codec(SHIFT).decode_all(word.to_bytes(16, "little"))


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (isa.load("inp", sram_base=65536, dram_base=0, x_size=1), "sram_base of LOAD must be 0"),
        (isa.load("inp", sram_base=0, dram_base=-1, x_size=1), "dram_base of LOAD must be 0"),
        (isa.load("inp", sram_base=0, dram_base=0, x_size=1, x_pad=(16, 0)), "x_pad_0 of LOAD"),
        (isa.gemm("multiply", uops=(0, 1), dst=(2048, 0)), "dst_out of GEMM must be 0 to 2047"),
        (isa.gemm("multiply", uops=(0, 1), accumulate="replace"), "a feature that this machine"),
        (isa.alu("add", uops=(0, 1), from_inp=True), "a feature that this machine lacks"),
    ],
)
def test_values_that_do_not_fit_are_refused(instruction: Instruction, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        codec(BASE).encode(instruction)


def test_constructors_name_what_they_do_not_know() -> None:
    with pytest.raises(ProgramError, match="memories are uop, wgt"):
        isa.load("dram", sram_base=0, dram_base=0, x_size=1)
    with pytest.raises(ProgramError, match="modes are multiply, shift, adder"):
        isa.gemm("xor", uops=(0, 1))
    with pytest.raises(ProgramError, match="they are min, max"):
        isa.alu("xor", uops=(0, 1))
    with pytest.raises(ProgramError, match="req has no parameter 'imm'; it takes lo, hi"):
        isa.alu("req", uops=(0, 1), imm=3)
    with pytest.raises(ProgramError, match="hi of clip must be -128 to 127, not 128"):
        isa.alu("clip", uops=(0, 1), lo=0, hi=128)
    with pytest.raises(ProgramError, match="no field 'color'"):
        isa.finish().replace(color=1)
    with pytest.raises(AttributeError, match="FINISH has no field 'uop_bgn'"):
        isa.finish().uop_bgn  # noqa: B018


def test_micro_ops_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProgramError, match="micro-op 1: wgt must be 0 to 1023, not 1024"):
        codec(BASE).encode_micro_ops(isa.micro_ops([[0, 0, 0], [0, 0, 1024]]))
    with pytest.raises(ProgramError, match=r"micro-ops must be integers \[n, 3\]"):
        isa.micro_ops([[1, 2]])


def test_truncated_code_is_refused() -> None:
    with pytest.raises(ProgramError, match="truncated"):
        codec(BASE).decode_all(b"\0" * 17)


def test_smaller_buffers_leave_reserved_bits() -> None:
    small = codec(presets.SMALL)
    word = small.encode(isa.gemm("shift", uops=(0, 1), accumulate="replace"))
    assert word >> 63 & 1
    layout = instruction_layout(table.KIND_BY_NAME["GEMM_SHIFT"], presets.SMALL)
    assert layout.by_name["uop_bgn"].width == 10
    assert layout.reserved == 0b111111 << 57 | 0b1111 << 124


def test_equal_configurations_share_a_codec() -> None:
    assert codec(BASE) is codec(replace(BASE))
    words = codec(BASE).encode_micro_ops(isa.micro_ops([[1, 2, 3], [4, 5, 6]]))
    assert np.array_equal(codec(BASE).decode_micro_ops(words), [[1, 2, 3], [4, 5, 6]])
