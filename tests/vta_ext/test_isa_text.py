"""Instructions through bits and through text, and back."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.programs import TINY, valid_instructions
from tvm_shiftadd.errors import ProgramError
from vta_ext import presets
from vta_ext.config import Config
from vta_ext.isa import assembly
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Tokens

CONFIGS = [TINY, *(p.config for p in presets.PRESETS.values())]


@given(st.data(), st.sampled_from(CONFIGS))
def test_any_instruction_survives_bits_and_text(data: st.DataObject, config: Config) -> None:
    instruction = data.draw(valid_instructions(config))
    word = codec(config).encode(instruction)
    assert codec(config).decode(word) == instruction
    text = assembly.format_instruction(instruction)
    again = assembly.parse_instruction(text)
    assert again == instruction
    assert codec(config).encode(again) == word


@given(st.integers(0, 2**128 - 1), st.sampled_from(CONFIGS))
def test_what_decodes_encodes_to_the_same_bits(word: int, config: Config) -> None:
    try:
        instruction = codec(config).decode(word)
    except ProgramError:
        return
    assert codec(config).encode(instruction) == word
    assert assembly.parse_instruction(str(instruction)) == instruction


TEXTS = {
    "load.inp pop_next push_next sram_base=16 dram_base=64 y_size=4 x_size=14 x_stride=14": (
        isa.load(
            "inp",
            sram_base=16,
            dram_base=64,
            y_size=4,
            x_size=14,
            tokens=Tokens(pop_next=True, push_next=True),
        )
    ),
    "gemm.shift uop_end=4 iter_out=3 iter_in=14 fresh dst_in=1 src_in=1": isa.gemm(
        "shift", uops=(0, 4), loops=(3, 14), dst=(0, 1), src=(0, 1), accumulate="replace"
    ),
    "alu.req uop_end=4 iter_out=1 iter_in=14 dst_in=1 hi=127": isa.alu(
        "req", uops=(0, 4), loops=(1, 14), dst=(0, 1), lo=0, hi=127
    ),
    "alu.shr uop_end=1 iter_out=1 iter_in=1 use_imm imm=-3": isa.alu("shr", uops=(0, 1), imm=-3),
    "alu.sha uop_end=1 iter_out=1 iter_in=1 shift=8 replace": isa.alu(
        "sha", uops=(0, 1), shift=8, replace=1
    ),
    "finish": isa.finish(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_known_text(text: str) -> None:
    assert str(TEXTS[text]) == text
    assert assembly.parse_instruction(text) == TEXTS[text]


def test_comments_blank_lines_and_hexadecimal() -> None:
    text = "\n; a comment\n  load.wgt sram_base=0x10 x_size=1 y_size=1 ; more\n\nfinish\n"
    load, finish = assembly.parse_instructions(text)
    assert load.sram_base == 16
    assert finish == isa.finish()
    assert assembly.parse_instructions(assembly.format_instructions([load, finish])) == (
        load,
        finish,
    )


BAD = {
    "jump": "no instruction 'jump'; known are alu, finish, gemm, load, store",
    "alu.xor": "no instruction 'alu.xor'; known are alu.min",
    "load.inp x_size": "expected field=value with a whole number, got 'x_size'",
    "load.inp x_size=two": "expected field=value",
    "load.inp x_size=1 x_size=1": "field 'x_size' is given twice",
    "load.inp memory=2": "field 'memory' is given twice",
    "load.inp fresh": "expected field=value|LOAD has no field 'fresh'",
    "finish uop_bgn=1": "FINISH has no field 'uop_bgn'",
    "alu.req imm=3": "req has no imm and use_imm; give its parameters by name",
    "alu.req lo=-129": "lo of req must be -128 to 127, not -129",
    "alu.add color=3": "ALU has no field 'color'",
    "finish pop_prev=" + "9" * 5000: "too large for any field",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_text_names_line_and_fault(text: str) -> None:
    with pytest.raises(ProgramError, match=BAD[text]):
        assembly.parse_instruction(text)
    with pytest.raises(ProgramError, match="line 2: "):
        assembly.parse_instructions(f"finish\n{text}\n")


@given(st.text(max_size=60))
def test_any_text_is_an_instruction_or_a_program_error(text: str) -> None:
    try:
        found = assembly.parse_instruction(text)
    except ProgramError:
        return
    assert assembly.parse_instruction(str(found)) == found


def test_micro_ops_as_text() -> None:
    assert assembly.parse_micro_op(assembly.format_micro_op([1, 2, 3])).tolist() == [[1, 2, 3]]
    for text in ("1 2", "1 2 -3", "a b c", "1 2 3 4"):
        with pytest.raises(ProgramError, match="three whole numbers dst src wgt"):
            assembly.parse_micro_op(text)


def test_copies_share_the_entries_of_the_table() -> None:
    instruction = TEXTS["finish"]
    for again in (copy.deepcopy(instruction), pickle.loads(pickle.dumps(instruction))):
        assert again == instruction
        assert again.kind is instruction.kind
