"""Every instruction set of the fused kernels gives the reference's integers, to the bit."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm.script import tirx as T

from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd.formats.codes import DECODE_TABLE
from tvm_shiftadd.target import CPUTarget, cpu, parse
from tvm_shiftadd.topi.schedules.cpu.dot.arm import DOTPROD, I8MM
from tvm_shiftadd.topi.schedules.cpu.dot.function import kernel
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
from tvm_shiftadd.topi.schedules.cpu.geometry import conv_shape, round_up
from tvm_shiftadd.tune import check

#: Sets of this processor: all others are compiled only.
HERE = [isa for isa in SETS if vector_names(isa.features) <= vector_names(vector_features() or ())]
X86 = [isa for isa in SETS if isa not in (I8MM, DOTPROD)]


def named(isa: InstructionSet) -> str:
    return isa.name


def target_of(isa: InstructionSet) -> tvm.target.Target:
    """A processor that has the set and nothing better."""
    features = [f"+{feature}" for feature in isa.features]
    machine, mcpu = ("x86_64", "x86-64-v3") if isa in X86 else ("aarch64", "generic")
    triple = f"{machine}-unknown-linux-gnu"
    return tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "mattr": features})


def built(function: Any, isa: InstructionSet) -> Any:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=target_of(isa))


def assembly(work: Workload, isa: InstructionSet) -> str:
    function = work.kernel(isa, work.plan(isa).parameters)
    return str(built(function, isa).mod.inspect_source("asm"))


def layer(
    kind: Any,
    size: tuple[int, int, int],
    outputs: int,
    terms: int,
    window: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    **known: Any,
) -> Workload:
    reach = (window - 1) * dilation // 2
    shape = conv_shape(
        size, outputs, terms, (window,) * 2, (stride,) * 2, (reach,) * 4, (dilation,) * 2, groups
    )
    return Workload(kind, shape, round_up(size[2], 16), **known)


def prepared(mod: tvm.IRModule) -> Any:
    """What packs the weights, for any processor, so that only the kernel depends on the set.

    Networks have it scheduled for their target; the tests of whole layers cover that.
    """
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))


def wrong(work: Workload, isa: InstructionSet, parameters: Any) -> str:
    """What is wrong with the results of a kernel on random numbers over their whole range."""
    assert problem_of(work.plan(isa, parameters)) == ""
    arrays = check.arguments(work, isa, parameters, prepared)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    built(work.kernel(isa, parameters), isa)["main"](*tensors)
    return check.problem(work, tensors[-1].numpy())


@pytest.mark.skipif(not HERE, reason="needs a processor with fused kernels")
@settings(deadline=None, max_examples=16)
@given(st.data())
def test_layers_of_any_shape(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    def choice(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    isa, kind = choice(*HERE), choice("conv", "conv", "depthwise", "dense", "adder")
    groups = draw(2, 70) if kind == "depthwise" else choice(1, 1, 2, 3) if kind == "conv" else 1
    each = 1 if kind == "depthwise" else draw(1, 40)
    outputs = groups * (1 if kind == "depthwise" else draw(1, 40))
    size = (1, 1) if kind == "dense" else (draw(1, 9), draw(1, 9))
    window = 1 if kind == "dense" else draw(1, 3)
    stride = 1 if kind == "dense" else draw(1, 2)
    dilation = draw(1, 2) if kind in ("conv", "depthwise") else 1
    # Windows that are reached by padding alone have no centre here.
    assume((window - 1) * dilation % 2 == 0 or min(size) >= window * dilation)
    known = {"signed": choice(False, True), "scaled": choice(False, True)}
    if kind != "depthwise":
        known |= {"result": choice("bytes", "wide"), "residual": choice("", "bytes", "wide")}
    work = layer(
        kind,
        (*size, groups * each),
        outputs,
        2 if kind == "adder" else draw(1, 3),
        window,
        stride=stride,
        dilation=dilation,
        groups=groups,
        **known,
    )
    found = candidates(work.plan(isa), 2)
    assert wrong(work, isa, found[draw(0, 1) * draw(0, len(found) - 1)]) == ""


def operate(isa: InstructionSet, *arrays: np.ndarray, made: Any) -> np.ndarray:
    """What ``made(registers)`` computes, int32 or bytes; arrays are one register each."""
    tensors = {f"x{i}": (array.shape, str(array.dtype)) for i, array in enumerate(arrays)}
    with kernel("probe", {**tensors, "out": ((isa.vector,), "int8")}, None) as probe:
        registers = [
            probe[f"x{i}"].vload([0], dtype=isa.vector_of(str(array.dtype)))
            for i, array in enumerate(arrays)
        ]
        T.buffer_store(probe["out"], isa.as_bytes(made(*registers)), [T.ramp(0, 1, isa.vector)])
    out = tvm.runtime.tensor(np.zeros(isa.vector, np.int8))
    built(probe.function, isa)["main"](*map(tvm.runtime.tensor, arrays), out)
    return out.numpy()


@pytest.mark.parametrize("isa", HERE, ids=named)
@pytest.mark.parametrize("most", [ONE_TERM, ANY])
def test_no_sum_of_products_saturates(isa: InstructionSet, most: int) -> None:
    """Also where all bytes are as large as they can be: two products of bytes leave 16 bits."""
    random, largest = np.random.default_rng(most), min(most, 127)
    for x, w in [(255, largest), (255, -most), (128, -most), (None, None)]:
        unsigned = np.full(isa.vector, x or 0, np.uint8)
        signed = np.full(isa.vector, w or 0, np.int8)
        if x is None:
            unsigned = random.choice([0, 1, 127, 128, 254, 255], isa.vector).astype(np.uint8)
            signed = random.choice([-most, -1, 0, 1, largest], isa.vector).astype(np.int8)
        sums = random.integers(-(2**31), 2**31, isa.lanes).astype(np.int32)
        got = operate(isa, sums, unsigned, signed, made=lambda *r: isa.dot(*r, most))
        products = unsigned.astype(np.int64) * signed
        expected = sums + products.reshape(-1, 4).sum(1)
        np.testing.assert_array_equal(got.view(np.int32), expected.astype(np.int32))


@pytest.mark.parametrize("isa", HERE, ids=named)
def test_codes_are_decoded_in_registers(isa: InstructionSet) -> None:
    packed = np.random.default_rng(0).integers(0, 256, isa.vector).astype(np.uint8)
    for half, codes in enumerate((packed & 15, packed >> 4)):
        got = operate(isa, packed, made=lambda register, h=half: isa.decode(register)[h])
        np.testing.assert_array_equal(got, DECODE_TABLE[codes])


@pytest.mark.parametrize("isa", HERE, ids=named)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_sums_are_narrowed_in_order(isa: InstructionSet, kind: str) -> None:
    values = np.random.default_rng(1).integers(-400, 400, (4, isa.lanes)).astype(np.int32)
    values[:, 0] = [-(2**31), 2**31 - 1, -40_000, 70_000]
    got = operate(isa, *values, made=lambda *sums: isa.narrow(sums, kind, natural=True))
    limits = np.iinfo(kind)
    expected = values.clip(limits.min, limits.max).astype(kind).reshape(-1)
    np.testing.assert_array_equal(got.view(kind), expected)


#: What the assembly of a layer of one term and of two must have, and must not have.
INSTRUCTIONS = {
    AVX512_VBMI: ("vpdpbusd .*zmm", "vpermb .*zmm", "vpdpbusd .*zmm", "vpmadd"),
    AVX512_VNNI: ("vpdpbusd .*zmm", "vpshufb .*zmm", "vpdpbusd .*zmm", "vpmadd|vpermb"),
    AVX_VNNI: ("vpdpbusd .*ymm", "vpshufb .*ymm", "vpdpbusd .*ymm", "zmm|vpmadd"),
    AVX512: ("vpmaddubsw .*zmm", "vpshufb .*zmm", "vpmaddwd .*zmm", "vpdpbusd|vpermb"),
    AVX2: ("vpmaddubsw .*ymm", "vpshufb .*ymm", "vpmaddwd .*ymm", "vpdpbusd|zmm|%k1"),
    I8MM: (r"usdot .*\.16b", r"tbl .*\.16b", r"usdot .*\.16b", "sdot v.*.2d"),
    DOTPROD: (r"\bsdot .*\.16b", r"tbl .*\.16b", r"\bsdot .*\.16b", "usdot"),
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
