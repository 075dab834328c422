"""An ALU operation is added in two places: the table and its meaning. All software follows.

A copy of the package gets one entry and one function; encoder, assembler, generators, both
simulators, the checker and the tensor operators then know it. In hardware it takes its unit in
``vta_ext/rtl/alu.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ENTRY = """ALU_OPERATIONS: Final = (
    AluOperation(
        "avg",
        5,
        Source.OPERAND,
        "dst = (dst + y) >> 1, rounding down",
        arithmetic.average,
        extension=True,
        reason="Interpolation.",
    ),
"""
FUNCTION = '''

def average(x: Lanes, y: Lanes) -> Int64:
    """Half the sum, rounding down."""
    return (x.astype(np.int64) + y) >> 1
'''
PROGRAM = """
from dataclasses import replace

import numpy as np
from tvm import s_tir, te

from tvm_shiftadd.errors import ProgramError
from vta_ext import checker, listing, presets
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa import semantics
from vta_ext.isa.assembly import format_instruction, parse_instruction
from vta_ext.isa.codec import codec
from vta_ext.isa.generators import decoder, header, page
from vta_ext.isa.machine import Machine
from vta_ext.tensorir.build import build
from vta_ext.tensorir.environment import Environment

config = presets.SHIFT
without = replace(config, alu_ops=tuple(set(config.alu_ops) - {"avg"}))
assert Config.from_dict(config.to_dict()) == config and config.hash != without.hash

one = isa.alu("avg", uops=(0, 1), imm=-7)
assert codec(config).decode(codec(config).encode(one)) == one
assert parse_instruction(format_instruction(one)) == one
try:
    codec(without).encode(one)
    raise SystemExit("a machine without the operation takes it")
except ProgramError as error:
    assert "avg" in str(error), error
for generate in (header.c_header, page.markdown, decoder.rtl_json):
    assert "avg" in generate(config).lower(), generate

env = Environment(config)
shape = (4, env.BATCH, env.BLOCK_OUT)
a, b = (te.placeholder(shape, "int32", name=name) for name in "ab")
half = te.compute(shape, lambda *i: env.alu("avg", a(*i), b(*i)), name="half")
out = te.compute(shape, lambda *i: half(*i).astype("int8"), name="out")
sch = s_tir.Schedule(te.create_prim_func([a, b, out]))
sch.set_scope(sch.get_sblock("half"), 0, env.acc_scope)
for name in "ab":
    sch.cache_read(sch.get_sblock("half"), name, env.acc_scope)
operator = build(sch, env)
assert checker.check(operator.program, {"a": (-100, 100), "b": (-100, 100)}) == []
assert listing.from_text(listing.to_text(operator.program)) == operator.program

rng = np.random.default_rng(0)
x, y = rng.integers(-100, 101, (2, *shape)).astype(np.int32)
wanted = ((x + y) >> 1).astype(np.int8)
assert np.array_equal(operator(x, y)[0], wanted)
assert operator.simulate().cycles > 100

# The definition, one micro-op at a time.
program = operator.program
machine = Machine(config, program.dram_bytes)
given = {"a": x.tobytes(), "b": y.tobytes()}
for section in program.sections:
    data = given.get(section.name, section.data) or bytes(section.size)
    machine.dram[section.offset : section.end] = np.frombuffer(data, np.uint8)
for instruction in program.instructions:
    semantics.execute(machine, instruction)
found = program.section("out")
assert machine.dram[found.offset : found.end].tobytes() == wanted.tobytes()
print("known")
"""


def test_an_entry_and_a_function_are_enough(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "rtl")
    shutil.copytree(ROOT / "vta_ext", tmp_path / "vta_ext", ignore=ignored)
    table, meaning = (tmp_path / "vta_ext/isa" / name for name in ("table.py", "arithmetic.py"))
    text = table.read_text()
    assert text.count("ALU_OPERATIONS: Final = (\n") == 1
    table.write_text(text.replace("ALU_OPERATIONS: Final = (\n", ENTRY))
    meaning.write_text(meaning.read_text() + FUNCTION)
    (tmp_path / "program.py").write_text(PROGRAM)
    run = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "known\n"
