"""A coverage-guided fuzzer: byte strings that reach new code are kept and changed further.

Decoder, functional simulator, checker and timing model take every one of them; nothing but a
program error may come out, and nothing outside the simulator's arrays may change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

from tests.vta_ext.programs import TINY
from tests.vta_ext.test_fuzzed_programs import Guarded
from tvm_shiftadd.errors import ProgramError
from vta_ext import checker
from vta_ext.isa import access, table
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.isa.layout import instruction_layout
from vta_ext.program import Program, Section
from vta_ext.sim.timing import simulate

MANY = int(os.environ.get("TVM_SHIFTADD_FUZZ_INPUTS", "10000"))
FINISH = codec(TINY).encode_all([isa.finish()])
SECTIONS = (
    Section("in", "input", 0, 256),
    Section("micro-ops", "micro-ops", 256, 32, bytes(32)),
    Section("out", "output", 288, 224),
)
SEEDS = [
    [isa.load("inp", sram_base=0, dram_base=0, x_size=4)],
    [isa.load("uop", sram_base=0, dram_base=64, x_size=8), isa.gemm("shift", uops=(0, 1))],
    [isa.load("code", sram_base=0, dram_base=0, x_size=2), isa.gemm("adder", uops=(0, 1))],
    [isa.alu("add", uops=(0, 1), imm=1), isa.store(sram_base=0, dram_base=72, x_size=1)],
]


class Coverage:
    """Pairs of lines that ran one after the other, in this project's accelerator."""

    def __init__(self) -> None:
        self.pairs: set[tuple[CodeType, int, int]] = set()
        self._last = 0

    def run(self, work: Callable[[], None]) -> int:
        """Run ``work``; how many pairs were new."""
        before = len(self.pairs)
        traced = sys.gettrace()
        sys.settrace(self._enter)
        try:
            work()
        finally:
            sys.settrace(traced)
        return len(self.pairs) - before

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if "vta_ext" in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.pairs.add((frame.f_code, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._line


def changed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A byte string like ``data``, with a bit, a field, an instruction or an end changed."""
    words = [data[start : start + 16] for start in range(0, len(data), 16)]
    place = int(rng.integers(len(words)))
    word = int.from_bytes(words[place], "little")
    choice = int(rng.integers(5))
    if choice == 0:
        word ^= 1 << int(rng.integers(128))
    elif choice <= 2:
        kind = table.INSTRUCTIONS[rng.integers(len(table.INSTRUCTIONS))]
        if choice == 1:
            kind = table.KIND_BY_OPCODE.get(word & 7, kind)
        fields = list(instruction_layout(kind, TINY).fields)
        bits = fields[rng.integers(len(fields))]
        value = int(rng.choice([0, 1, 2, 3, (1 << bits.width) - 1, rng.integers(1 << bits.width)]))
        word = (word & ~bits.mask) | bits.put(value)
    elif choice == 3:
        return (data + other)[: 16 * 6]
    else:
        return b"".join(words[:place] + words[place + 1 :]) or data
    words[place] = word.to_bytes(16, "little")
    return b"".join(words)


def count_of(instruction: isa.Instruction) -> int:
    """Micro-ops of an instruction."""
    computes = instruction.kind.mode is not None or instruction.kind.name == "ALU"
    return access.micro_op_count(instruction) if computes else 0


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Try ``count`` byte strings; sizes of the first coverage and of the last."""
    rng = np.random.default_rng(seed)
    guarded, coverage = Guarded(), Coverage()

    def try_all(data: bytes) -> None:
        try:
            instructions = codec(TINY).decode_all(data + FINISH)
            # Watched line by line, many micro-ops that depend on each other take minutes.
            if sum(count_of(i) for i in instructions) > 200:
                return
            program = Program(TINY, instructions, SECTIONS)
        except ProgramError:
            return
        found = checker.check(program, {})
        for work in (lambda: guarded.simulator.run(instructions), lambda: simulate(program)):
            try:
                work()
            except ProgramError:
                assert found

    corpus = [codec(TINY).encode_all(seed) for seed in SEEDS]
    for data in corpus:
        coverage.run(lambda d=data: try_all(d))
    first = len(coverage.pairs)
    for number in range(count):
        data = changed(*(corpus[rng.integers(len(corpus))] for _ in range(2)), rng)
        if coverage.run(lambda d=data: try_all(d)):
            corpus.append(data)
        if number % 100 == 0:
            assert guarded.intact(), data.hex()
    assert guarded.intact()
    return first, len(coverage.pairs)


def test_fuzzing_finds_new_ways_and_no_harm() -> None:
    first, last = fuzz(150, 1)
    assert last > 1.05 * first


@pytest.mark.slow
def test_long_fuzzing() -> None:
    first, last = fuzz(MANY, 2)
    assert last > 1.2 * first
