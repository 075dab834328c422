"""Hand-written programs compute what NumPy computes, and the checker finds nothing in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vta_ext import kernels
from tests.vta_ext.kernels import Case
from tests.vta_ext.programs import TINY
from vta_ext import checker, listing, presets
from vta_ext.isa import semantics
from vta_ext.isa.codec import codec
from vta_ext.isa.machine import Machine
from vta_ext.program import Program
from vta_ext.sim.functional import FunctionalSimulator

LARGER = replace(
    TINY, log_uop_buff_size=8, log_inp_buff_size=9, log_acc_buff_size=12, log_wgt_buff_size=9
)
SMALL_MIXED = replace(presets.SMALL, gemm_modes=("shift", "adder"), log_wgt_buff_size=16)

CASES = {
    "gemm, VTA": lambda: kernels.blocked_gemm(presets.BASE, "multiply", 40, 6, 4),
    "gemm, multiply, extended": lambda: kernels.blocked_gemm(LARGER, "multiply", 9, 3, 5),
    "gemm, shift": lambda: kernels.blocked_gemm(presets.SHIFT, "shift", 40, 6, 4),
    "gemm, adder": lambda: kernels.blocked_gemm(presets.SHIFT_ADDER, "adder", 40, 6, 4),
    "gemm, 8 x 8": lambda: kernels.blocked_gemm(presets.SMALL, "shift", 17, 5, 4),
    "gemm, 8 x 8 adder": lambda: kernels.blocked_gemm(SMALL_MIXED, "adder", 17, 4, 4),
    "gemm, 32 x 32": lambda: kernels.blocked_gemm(presets.LARGE, "shift", 17, 3, 4),
    "vector add, VTA": lambda: kernels.vector_add(presets.BASE),
    "vector add, shift": lambda: kernels.vector_add(presets.SHIFT),
    "depthwise": lambda: kernels.depthwise(presets.SHIFT),
    "depthwise, one term": lambda: kernels.depthwise(presets.SMALL, 5, 3, 1),
    "residual and pooling": lambda: kernels.residual_pool(presets.SHIFT),
}


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = CASES[request.param]()
    return made


def test_results_equal_numpy(case: Case) -> None:
    found = case.run()
    for name, values in case.expected.items():
        assert np.array_equal(found[name], values), name


def test_the_checker_finds_nothing(case: Case) -> None:
    # Vector add keeps the low eight bits only: it is for inputs whose sum fits.
    narrow = case.inputs.get("a", np.zeros(0)).dtype == np.int32
    ranges = dict.fromkeys(case.inputs, (-64, 63)) if narrow else {}
    assert checker.check(case.program, ranges) == []


def test_files_and_text_keep_the_program(case: Case) -> None:
    assert Program.from_bytes(case.program.to_bytes()) == case.program
    assert listing.from_text(listing.to_text(case.program)) == case.program


def test_a_program_of_vta_runs_from_its_bytes() -> None:
    """In the base configuration a driver hands over VTA's encoding, and that is what runs."""
    case: Case = CASES["gemm, VTA"]()
    simulator = FunctionalSimulator(presets.BASE, case.program.dram_bytes)
    simulator.place(case.program)
    simulator.write(case.program.section("x").offset, case.inputs["x"])
    simulator.run_bytes(codec(presets.BASE).encode_all(case.program.instructions))
    y = case.program.section("y")
    assert simulator.read(y.offset, y.size) == case.expected["y"].tobytes()


@pytest.mark.parametrize("name", ["gemm, 8 x 8", "residual and pooling", "depthwise, one term"])
def test_the_definition_computes_the_same(name: str) -> None:
    case: Case = CASES[name]()
    machine = Machine(case.program.config, case.program.dram_bytes)
    for section in case.program.sections:
        data = section.data or b"\0" * section.size
        machine.dram[section.offset : section.end] = np.frombuffer(data, np.uint8)
    for name, values in case.inputs.items():
        at = case.program.section(name).offset
        machine.dram[at : at + values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
    for instruction in case.program.instructions:
        semantics.execute(machine, instruction)
    for name, values in case.expected.items():
        section = case.program.section(name)
        assert machine.dram[section.offset : section.end].tobytes() == values.tobytes()
