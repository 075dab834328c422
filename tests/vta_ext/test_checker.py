"""Each rule of the checker: a program that breaks it is refused with position and text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vta_ext import kernels
from tvm_shiftadd.errors import ProgramError
from vta_ext import checker, presets
from vta_ext.builder import ProgramBuilder
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import TOKENS, Instruction, Tokens
from vta_ext.program import Program

SHIFT, BASE, MIXED = presets.SHIFT, presets.BASE, presets.SHIFT_ADDER
GEMM = kernels.blocked_gemm(SHIFT, "shift", 40, 6, 4).program
DEPTHWISE = kernels.depthwise(SHIFT).program


def changed(program: Program, position: int, instruction: Instruction) -> Program:
    instructions = list(program.instructions)
    instructions[position] = instruction
    return replace(program, instructions=tuple(instructions))


@pytest.mark.parametrize("program", [GEMM, DEPTHWISE], ids=["gemm", "depthwise"])
def test_no_token_can_be_left_out_or_added(program: Program) -> None:
    """A missing token is a deadlock, a race or an imbalance; an added one too."""
    for position, instruction in enumerate(program.instructions):
        for name in TOKENS:
            flipped = instruction.replace(**{name: 1 - getattr(instruction, name)})
            found = checker.check(changed(program, position, flipped))
            assert found, (position, str(instruction), name)
            assert {v.rule for v in found} <= {"deadlock", "race", "token balance"}


def test_a_pair_of_tokens_that_protects_a_buffer_cannot_be_left_out() -> None:
    """Both ends of the token by which compute gives an input buffer back to load."""
    push = next(n for n, i in enumerate(GEMM.instructions) if i.push_prev)
    pop = next(n for n, i in enumerate(GEMM.instructions) if i.pop_next)
    program = changed(GEMM, push, GEMM.instructions[push].replace(push_prev=0))
    program = changed(program, pop, GEMM.instructions[pop].replace(pop_next=0))
    found = checker.check(program)
    assert found
    assert {v.rule for v in found} == {"race"}
    assert "load.inp" in str(found[0])
    assert "is used while compute may still read it" in str(found[0])
    with pytest.raises(ProgramError, match=r"not safe to run: instruction \d+ \(load.inp"):
        checker.require(program)


def small(*instructions: Instruction, rows: object = ((0, 0, 0),)) -> Program:
    """A program that loads ``rows`` of micro-ops, one input, one code, one accumulator."""
    b = ProgramBuilder(MIXED)
    x = b.input("x", 64 * 16)
    b.output("y", 64 * 16)
    codes = b.constant("codes", np.full(128, 0x11, np.uint8))
    b.constant("wide", np.ones(256, np.int8))
    b.kernel(rows)
    b.load_kernels()
    b.append(
        kernels.load(b, "inp", x, 8),
        kernels.load(b, "code", codes, 1, tokens=Tokens(push_next=True)),
        kernels.load(b, "acc8", x, 64, tokens=Tokens(pop_prev=True)),
        *instructions,
        isa.finish(),
    )
    return b.build()


START = 4
Y = 1024 // 16


def store(**values: int) -> Instruction:
    fields = {"sram_base": 0, "dram_base": Y, "x_size": 1} | values
    return isa.store(**fields)  # type: ignore[arg-type]


def test_the_frame_of_the_small_programs_is_sound() -> None:
    assert checker.check(small(), {}) == []
    assert checker.check(small(isa.gemm("shift", uops=(0, 1))), {}) == []


WRONG = {
    "input buffer": (
        isa.load("inp", sram_base=2047, dram_base=0, x_size=2),
        "bounds",
        "entries 2047 to 2048 of buffer inp are used, but it has 2048",
    ),
    "end of DRAM": (
        isa.load("inp", sram_base=0, dram_base=10**6, x_size=1),
        "bounds",
        "bytes 16000000 to 16000015 of DRAM are used",
    ),
    "end of a section": (
        isa.load("inp", sram_base=0, dram_base=63, x_size=2, tokens=Tokens()),
        "bounds",
        "lie in section x in part",
    ),
    "store to an input": (store(dram_base=0), "bounds", "section x is input and may not be"),
    "load of an output": (
        isa.load("inp", sram_base=9, dram_base=Y, x_size=1),
        "uninitialised read",
        "DRAM byte 1024 of y is read, but nothing has written it",
    ),
    "micro-ops from an input": (
        isa.load("uop", sram_base=9, dram_base=0, x_size=1),
        "bounds",
        "micro-ops may not come from input section x",
    ),
    "unknown micro-ops": (
        isa.gemm("shift", uops=(1, 2)),
        "uninitialised read",
        "entry 1 of uop is read, but nothing has written it",
    ),
    "unknown input": (
        isa.gemm("shift", uops=(0, 1), loops=(1, 4), src=(0, 3), dst=(0, 1)),
        "uninitialised read",
        "entry 9 of inp is read",
    ),
    "unknown weight": (
        isa.gemm("shift", uops=(0, 1), loops=(1, 4), wgt=(0, 1), dst=(0, 1)),
        "uninitialised read",
        "entry 1 of wgt is read",
    ),
    "unknown accumulator": (
        isa.alu("add", uops=(0, 1), loops=(1, 65), dst=(0, 1), imm=1),
        "uninitialised read",
        "entry 64 of acc is read",
    ),
    "unknown result": (store(), "uninitialised read", "entry 0 of out is read"),
    "codes as integers": (
        isa.gemm("adder", uops=(0, 1)),
        "data",
        "entry 0 of wgt holds term codes, but gemm.adder reads integer weights",
    ),
    "one accumulator again and again": (
        isa.gemm("shift", uops=(0, 1), loops=(1, 2)),
        "pipeline hazard",
        "dst of micro-op 1 reads accumulator 0, which micro-op 0 writes; there must be 4",
    ),
    "a result as operand": (
        isa.alu("add", uops=(0, 1), loops=(1, 8), dst=(0, 1), src=(0, 0)),
        "pipeline hazard",
        "src of micro-op 1 reads accumulator 0, which micro-op 0 writes",
    ),
    "too many micro-ops": (
        isa.gemm("shift", uops=(0, 1), loops=(16383, 16383)),
        "bounds",
        "268402689 micro-ops in one instruction",
    ),
    "accumulator buffer": (
        isa.gemm("shift", uops=(0, 1), loops=(1, 3), dst=(0, 1024)),
        "bounds",
        "dst reaches entry 2048 of buffer acc, which has 2048",
    ),
    "rows of codes": (
        isa.alu("lsa", uops=(0, 1), row=16384, from_inp=True),
        "bounds",
        "wgt reaches entry 16384 of buffer wgt (rows of codes)",
    ),
    "no module before load": (
        isa.load("inp", sram_base=0, dram_base=0, x_size=0, tokens=Tokens(pop_prev=True)),
        "deadlock",
        "load has no module before it",
    ),
    "no module after store": (
        store().replace(push_next=1),
        "deadlock",
        "store has no module after it",
    ),
    "a token that never comes": (
        isa.gemm("shift", uops=(0, 1), tokens=Tokens(pop_next=True)),
        "deadlock",
        "compute waits for a token from store that never comes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_are_found_out(name: str) -> None:
    instruction, rule, message = WRONG[name]
    found = checker.check(small(instruction))
    assert found, "nothing was found"
    matching = [v for v in found if v.rule == rule and message in v.message]
    assert matching, [str(v) for v in found]
    assert matching[0].position == START
    assert matching[0].text == str(instruction)


def test_what_an_instruction_replaces_it_need_not_have_read() -> None:
    replace_all = isa.gemm("shift", uops=(0, 1), loops=(1, 2), accumulate="replace", dst=(0, 64))
    assert checker.check(small(replace_all)) == []
    first = isa.gemm(
        "shift", uops=(0, 1), loops=(2, 5), dst=(0, 64), src=(1, 0), accumulate="replace-first"
    )
    assert checker.check(small(first)) == []
    short = first.replace(iter_in=3)
    assert [v.rule for v in checker.check(small(short))] == ["pipeline hazard"]


def test_tokens_left_over_are_reported_for_the_program() -> None:
    (found,) = checker.check(small(isa.gemm("shift", uops=(0, 1), tokens=Tokens(push_next=True))))
    assert (found.rule, found.position) == ("token balance", None)
    assert str(found).startswith("program: 1 token(s) from compute to store are left")


def test_prefetched_micro_ops_are_ordered_by_tokens() -> None:
    """The load module may not change a kernel that compute may still run, or has not had."""
    first = isa.gemm("shift", uops=(0, 1))
    then = isa.gemm("shift", uops=(0, 1))
    kernels_at = next(s.offset for s in small().sections if s.role == "micro-ops") // 4
    load = isa.load("uop", sram_base=0, dram_base=kernels_at, x_size=1, prefetch=True)
    unordered = small(first, load, then)
    found = checker.check(unordered)
    assert {v.rule for v in found} == {"race"}
    assert "entry 0 of uop is used while compute may still" in found[0].message
    ordered = small(
        first.replace(push_prev=1),
        load.replace(pop_next=1, push_next=1),
        then.replace(pop_prev=1),
    )
    assert checker.check(ordered) == []


def test_full_queues_can_be_a_deadlock() -> None:
    """Sixty-five loads wait for tokens of a compute instruction that cannot be fetched."""
    waiting = isa.load("inp", sram_base=0, dram_base=0, x_size=0, tokens=Tokens(pop_next=True))
    giving = isa.gemm("shift", uops=(0, 0), tokens=Tokens(push_prev=True))
    count = SHIFT.queue_depth
    assert checker.check(small(*[waiting] * count, *[giving] * count)) == []
    found = checker.check(small(*[waiting] * (count + 1), *[giving] * (count + 1)))
    assert {v.rule for v in found} == {"deadlock"}
    many = checker.check(small(*[giving] * (count + 1), *[waiting] * (count + 1)))
    assert many == []


def test_minus_zero_in_weights_is_found() -> None:
    sections = [
        replace(s, data=b"\x81" + s.data[1:]) if s.name == "w" and s.data else s
        for s in GEMM.sections
    ]
    found = checker.check(replace(GEMM, sections=tuple(sections)))
    assert [v.rule for v in found] == ["data"]
    assert "minus zero" in found[0].message


def test_overflow_is_proved_from_weights_and_ranges() -> None:
    """The accumulator starts near its end; whether it leaves depends on the inputs' range."""

    def program(start: int) -> Program:
        b = ProgramBuilder(SHIFT)
        x, y = b.input("x", 16), b.output("y", 64)
        codes = b.constant("codes", np.full(128, 0x77, np.uint8))
        first = b.constant("acc", np.full(16, start, np.int32))
        b.kernel([[0, 0, 0]])
        b.load_kernels()
        b.append(
            kernels.load(b, "inp", x, 1),
            kernels.load(b, "code", codes, 1, tokens=Tokens(push_next=True)),
            kernels.load(b, "acc", first, 1, tokens=Tokens(pop_prev=True)),
            isa.gemm("shift", uops=(0, 1), tokens=Tokens(push_next=True)),
            kernels.store(b, y, 1, memory="acc", tokens=Tokens(pop_prev=True, push_prev=True)),
            isa.finish(Tokens(pop_next=True)),
        )
        return b.build()

    top = 2**31 - 1
    most = 127 * 64 * 16
    assert checker.check(program(top - most), {}) == []
    (found,) = checker.check(program(top - most + 1), {})
    assert (found.rule, found.position) == ("overflow", 4)
    assert "can reach [2147222528, 2147483648], which does not fit 32 bits" in found.message
    assert checker.check(program(top - most + 1), {"x": (0, 126)}) == []
    assert checker.check(program(top - most + 1)) == []
    with pytest.raises(ProgramError, match="section codes is constant"):
        checker.check(program(0), {"codes": (0, 1)})


def test_results_that_lose_bits_are_found() -> None:
    (found,) = checker.check(
        kernels.vector_add(BASE).program, {"a": (-64, 63), "b": (-64, 64 + 64)}
    )
    assert found.rule == "overflow"
    assert "results of -128 to 191 are stored in 8 bits" in found.message


@pytest.mark.parametrize("seed", range(3))
def test_ranges_hold_for_random_inputs(seed: int) -> None:
    """Bounds of the adder and the multiplying program hold what really comes out."""
    for mode, config in (("adder", MIXED), ("multiply", BASE), ("shift", SHIFT)):
        case = kernels.blocked_gemm(config, mode, 8, 4, 4, seed)
        assert checker.check(case.program, {}) == []


def test_the_number_of_violations_is_limited() -> None:
    bad = [isa.gemm("shift", uops=(1, 2))] * 50
    assert len(checker.check(small(*bad))) == 20
    assert len(checker.check(small(*bad), limit=3)) == 3
