"""Every instruction set of the fused kernels gives the reference's integers, to the bit."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.topi.dot_workloads import (
    Arrays,
    all_codes,
    any_layer,
    built,
    extreme_products,
    layer,
    probe,
    sums_to_narrow,
)
from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd.target import CPUTarget, cpu, parse
from tvm_shiftadd.topi.schedules.cpu.dot.arm import DOTPROD, I8MM
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import ANY, ONE_TERM, InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.sets import SETS, choose
from tvm_shiftadd.topi.schedules.cpu.dot.space import candidates, problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.topi.schedules.cpu.dot.x86 import (
    AVX2,
    AVX512,
    AVX512_VBMI,
    AVX512_VNNI,
    AVX_VNNI,
)
from tvm_shiftadd.tune import check

#: Sets of this processor: all others are compiled only.
HERE = [isa for isa in SETS if vector_names(isa.features) <= vector_names(vector_features() or ())]
X86 = [isa for isa in SETS if isa not in (I8MM, DOTPROD)]


def named(isa: InstructionSet) -> str:
    return isa.name


def assembly(work: Workload, isa: InstructionSet) -> str:
    function = work.kernel(isa, work.plan(isa).parameters)
    return str(built(function, isa).mod.inspect_source("asm"))


def wrong(work: Workload, isa: InstructionSet, parameters: Any) -> str:
    """What is wrong with the results of a kernel on random numbers over their whole range."""
    assert problem_of(work.plan(isa, parameters)) == ""
    arrays = check.arguments(work, isa, parameters)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    built(work.kernel(isa, parameters), isa)["main"](*tensors)
    return check.problem(work, tensors[-1].numpy())


@pytest.mark.skipif(not HERE, reason="needs a processor with fused kernels")
@settings(deadline=None, max_examples=16)
@given(st.data())
def test_layers_of_any_shape(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    isa = data.draw(st.sampled_from(HERE))
    work = any_layer(draw, lambda *values: data.draw(st.sampled_from(values)))
    assume(work is not None)
    assert work is not None
    found = candidates(work.plan(isa), 2)
    assert wrong(work, isa, found[draw(0, 1) * draw(0, len(found) - 1)]) == ""


@pytest.mark.skipif(not HERE, reason="needs a processor with fused kernels")
def test_rows_of_the_border_are_not_read() -> None:
    """Of a map of seven rows they would be a tenth of the work."""
    isa, work = HERE[0], layer("conv", (7, 7, 16), 32, 2, 3)
    parameters = replace(work.plan(isa).parameters, rows=1, parts=1)
    arrays, source = check.arguments(work, isa, parameters), work.source
    rows = arrays[0][:, : source.rows * source.row].reshape(-1, source.rows, source.row)
    rows[:, [0, -1]] = 99
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    built(work.kernel(isa, parameters), isa)["main"](*tensors)
    assert check.problem(work, tensors[-1].numpy()) == ""


def operate(isa: InstructionSet, arrays: Arrays, made: Any) -> np.ndarray:
    """What ``made(registers)`` computes, as bytes; arrays are one register each."""
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, np.zeros(isa.vector, np.int8))]
    built(probe(isa, arrays, made), isa)["main"](*tensors)
    return tensors[-1].numpy()


@pytest.mark.parametrize("isa", HERE, ids=named)
@pytest.mark.parametrize("most", [ONE_TERM, ANY])
def test_no_sum_of_products_saturates(isa: InstructionSet, most: int) -> None:
    """Also where all bytes are as large as they can be: two products of bytes leave 16 bits."""
    for case in extreme_products(isa, most):
        got = operate(isa, case.arrays, lambda *registers: isa.dot(*registers, most))
        np.testing.assert_array_equal(got, case.expected)


@pytest.mark.parametrize("isa", HERE, ids=named)
def test_codes_are_decoded_in_registers(isa: InstructionSet) -> None:
    for half, case in enumerate(all_codes(isa)):
        got = operate(isa, case.arrays, lambda register, h=half: isa.decode(register)[h])
        np.testing.assert_array_equal(got, case.expected)


@pytest.mark.parametrize("isa", HERE, ids=named)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_sums_are_narrowed_in_order(isa: InstructionSet, kind: str) -> None:
    case = sums_to_narrow(isa, kind)
    got = operate(isa, case.arrays, lambda *sums: isa.narrow(sums, kind, natural=True))
    np.testing.assert_array_equal(got, case.expected)


#: What the assembly of a layer of one term and of two must have, and must not have.
INSTRUCTIONS = {
    AVX512_VBMI: ("vpdpbusd .*zmm", "vpermb .*zmm", "vpdpbusd .*zmm", "vpmadd"),
    AVX512_VNNI: ("vpdpbusd .*zmm", "vpshufb .*zmm", "vpdpbusd .*zmm", "vpmadd|vpermb"),
    AVX_VNNI: ("vpdpbusd .*ymm", "vpshufb .*ymm", "vpdpbusd .*ymm", "zmm|vpmadd"),
    AVX512: ("vpmaddubsw .*zmm", "vpshufb .*zmm", "vpmaddwd .*zmm", "vpdpbusd|vpermb"),
    AVX2: ("vpmaddubsw .*ymm", "vpshufb .*ymm", "vpmaddwd .*ymm", "vpdpbusd|zmm|%k1"),
    I8MM: (r"usdot .*\.16b", r"tbl .*\.16b", r"usdot .*\.16b", "sdot v.*.2d"),
    DOTPROD: (r"\bsdot .*\.4b\[\d\]", r"tbl .*\.16b", r"\bsdot .*\.4b\[\d\]", "usdot"),
}


@pytest.mark.parametrize("isa", SETS, ids=named)
def test_assembly_has_the_sets_instructions(isa: InstructionSet) -> None:
    dot, look_up, wide, never = INSTRUCTIONS[isa]
    one, two = (
        re.sub(r"\s+", " ", assembly(layer("conv", (8, 8, 16), 32, terms, 3), isa))
        for terms in (1, 2)
    )
    assert re.search(dot, one) and re.search(look_up, one) and re.search(wide, two)
    assert not re.search(look_up, two), "a sum of terms is a byte already"
    assert not re.search(f" (?:{never})", one + two)
    # Two products of bytes with the sum of two terms may leave 16 bits.
    assert "vpmaddubsw" not in two
    adder = assembly(layer("adder", (5, 6, 16), 20, 2, 3), isa)
    assert re.search("udot" if isa in (I8MM, DOTPROD) else isa.computed_by, adder)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86-64's")
def test_the_best_set_of_a_processor_is_taken() -> None:
    expected = {
        "x86-64-v3": AVX2,
        "haswell": AVX2,
        "znver3": AVX2,
        "alderlake": AVX_VNNI,
        "skylake-avx512": AVX512,
        "cascadelake": AVX512_VNNI,
        "znver4": AVX512_VBMI,
        "sapphirerapids": AVX512_VBMI,
    }
    for mcpu, isa in expected.items():
        assert cpu.instruction_set(CPUTarget(mcpu=mcpu)) is isa
    assert cpu.instruction_set(CPUTarget(mcpu="znver4", kernels="shift")) is None
    assert cpu.instruction_set(parse("cpu:generic")) is AVX2  # type: ignore[arg-type]
    assert choose({"neon", "dotprod"}.__contains__) is DOTPROD
    assert choose({"neon", "dotprod", "i8mm"}.__contains__) is I8MM
    assert choose({"neon", "i8mm"}.__contains__) is None, "differences are added up by udot"
    assert choose({"sse2"}.__contains__) is None


#: A vector register that is written to the stack or read from there.
STACK = re.compile(r"\(%r[sb]p\), %[yz]mm|%[yz]mm\d+, -?\d*\(%r[sb]p\)")


def innermost_loops(text: str) -> list[str]:
    """The loops of some assembly that nothing jumps into."""
    # Labels ".Ltmp" are for debuggers.
    pieces = re.split(r"^(\.L(?!tmp)\w+):", text, flags=re.M)
    labelled = zip(pieces[1::2], pieces[2::2], strict=True)
    return [body for name, body in labelled if re.search(rf"\bj\w+\s+{re.escape(name)}\b", body)]


@pytest.mark.parametrize("isa", X86, ids=named)
@pytest.mark.parametrize("terms", [1, 2])
def test_sums_stay_in_registers(isa: InstructionSet, terms: int) -> None:
    work = layer("conv", (28, 28, 128), 128, terms, 3)
    plan: Any = work.plan(isa)
    tile = plan.rows * plan.columns * plan.vectors
    assert isa.registers // 2 - 1 < tile + plan.vectors < isa.registers
    loops = [
        loop
        for loop in innermost_loops(assembly(work, isa))
        if len(re.findall(f"{isa.computed_by} ", loop.replace("\t", " "))) >= tile
    ]
    assert loops
    assert not any(STACK.search(loop) for loop in loops)


@pytest.mark.parametrize("isa", X86, ids=named)
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("images", [1, 4])
def test_sums_of_a_dense_layer_stay_in_registers(
    isa: InstructionSet, terms: int, images: int
) -> None:
    work = layer("dense", (1, 1, 512), 1000, terms, 1, images=images)
    plan: Any = work.plan(isa)
    assert problem_of(plan) == ""
    if isa.computed_by == "vpmaddwd" and terms == 2:
        assert 2 * plan.rows * plan.vectors <= isa.registers
        return
    assert plan.rows == images
    loops = [
        loop
        for loop in innermost_loops(assembly(work, isa))
        if len(re.findall(f"{isa.computed_by} ", loop.replace("\t", " "))) >= 2 * plan.vectors
    ]
    assert loops
    assert not any(STACK.search(loop) for loop in loops)
