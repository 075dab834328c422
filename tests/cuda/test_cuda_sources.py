"""What the compiled kernels are made of: the instructions that must be there, and those not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.dialect.conftest import Case, build_module
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats.codes import encode, representable
from tvm_shiftadd.formats.packing import pack
from tvm_shiftadd.target import CUDATarget, cuda, nvrtc

WINDOW = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
_ENTRY = re.compile(r"\.entry (\w+)\((.*?)^}", re.M | re.S)
_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.]*)\s+([^;]+);", re.M)
_REGISTER = re.compile(r"%(?!p\d)[a-z]+\d+")
_ANY_REGISTER = re.compile(r"%(?:p|r|rd|rs|f|fd|h|hh|b)\d+\b")
_WITHOUT_RESULT = re.compile(r"(st|red|cp|bar|bra|ret|membar|fence)\b")
_PRODUCT = re.compile(r"(mul|mad|fma|div|rem|dp4a|dp2a|mma)\b")


def layer(name: str) -> tvm.IRModule:
    """One layer and its requantisation, as ``main``."""
    rng = np.random.default_rng(0)
    size = 28 if "large" in name else 8
    x, bias = np.zeros((8, size, size, 64), np.int8), np.zeros(32, np.int32)
    terms = 2 if name.endswith("two terms") else 1
    codes = pack(encode(rng.choice(representable(terms), (9 * 64, 32)), terms))
    weights = rng.integers(-128, 128, (9 * 64, 32)).astype(np.int8)
    if name.startswith("adder"):
        operands = (weights, bias)
        made = lambda x, w, b, s: requantized(ops.adder_conv2d(x, w, b, **WINDOW), s)  # noqa: E731
    else:
        operands = (codes, bias)
        made = lambda x, c, b, s: requantized(ops.conv2d(x, c, b, **WINDOW), s)  # noqa: E731
    return main_of(Case(made, (x,), (*operands, np.full(1, 7, np.int32))))


def dense_layer(images: int, symbolic: bool = False) -> tvm.IRModule:
    """A dense layer of codes and its requantisation, as ``main``."""
    packed = pack(encode(np.resize(representable(1), (256, 40)), 1))
    constants = packed, np.zeros(40, np.int32), np.full(1, 7, np.int32)
    x = np.zeros((images, 256), np.int8)
    return main_of(
        Case(lambda x, c, b, s: requantized(ops.dense(x, c, b), s), (x,), constants, symbolic)
    )


def depthwise_layer() -> tvm.IRModule:
    """A depthwise convolution, as ``main``."""
    packed = pack(encode(np.resize(representable(1), (9, 24)), 1))
    x = np.zeros((2, 8, 8, 24), np.uint8)
    return main_of(
        Case(
            lambda x, c, b: ops.conv2d(x, c, b, groups=24, **WINDOW),
            (x,),
            (packed, np.zeros(24, np.int32)),
        )
    )


def main_of(case: Case) -> tvm.IRModule:
    """The module of one computation, as ``main``."""
    module = build_module([case])
    (var,) = module.get_global_vars()
    main = module[var].with_attr("global_symbol", "main")
    return tvm.IRModule({"main": main})


def requantized(total: object, shift: object) -> object:
    return ops.requantize(total, shift, lo=-128, hi=127)


def products_of_data(ptx: str) -> Iterator[str]:
    """Instructions of PTX that multiply or divide what was loaded from memory."""
    for name, body in _ENTRY.findall(ptx):
        data: set[str] = set()
        steps = [
            (code, *_split(operands), operands) for code, operands in _INSTRUCTION.findall(body)
        ]
        before = -1
        while before != len(data):  # loops carry data backwards
            before = len(data)
            for code, results, sources, _ in steps:
                loads = code.startswith("ld.") and not code.startswith("ld.param")
                if loads or data & sources:
                    data |= results
        for code, _, sources, operands in steps:
            if _PRODUCT.match(code) and data & sources:
                yield f"{name}: {code} {operands}"


def _split(operands: str) -> tuple[set[str], set[str]]:
    """Registers that an instruction writes and reads; addresses are not data."""
    first, _, rest = operands.partition("}," if operands.startswith("{") else ",")
    return set(_REGISTER.findall(first)), set(_REGISTER.findall(re.sub(r"\[.*?\]", "", rest)))


def unwritten(ptx: str) -> Iterator[str]:
    """Registers that a kernel reads and no instruction of it writes."""
    for name, body in _ENTRY.findall(ptx):
        written: set[str] = set()
        for code, operands in _INSTRUCTION.findall(body):
            if not _WITHOUT_RESULT.match(code):
                first = operands.partition("}" if operands.startswith("{") else ",")[0]
                written |= set(_ANY_REGISTER.findall(first))
        instructions = "\n".join(line for line in body.splitlines() if ".reg" not in line)
        for register in sorted(set(_ANY_REGISTER.findall(instructions)) - written):
            yield f"{name}: {register}"


def test_registers_that_nothing_writes_are_found() -> None:
    ptx = """
.visible .entry k(
)
{
  .reg .b32 %r<9>;
  mov.u32 %r1, %tid.x;
  @%p1 st.global.u32 [%rd1], %r2;
  ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r3, %r4}, [%r1];
}
"""
    assert list(unwritten(ptx)) == ["k: %p1", "k: %r2", "k: %rd1"]


#: Layers of every kernel, the GPU it is for, and the instruction that it is known by.
KERNELS: dict[str, tuple[Callable[[], tvm.IRModule], str, str]] = {
    "matrix": (lambda: layer("conv2d, large"), "sm_80", "ldmatrix"),
    "matrix, two terms": (lambda: layer("conv2d, large, two terms"), "sm_80", "ldmatrix"),
    "dense": (lambda: dense_layer(9, symbolic=True), "sm_80", "ldmatrix"),
    "gemv": (lambda: dense_layer(1), "sm_80", "cp.async"),
    "gemv, images": (lambda: dense_layer(8), "sm_80", "mma.sync"),
    "gemv, without copies": (lambda: dense_layer(3), "sm_75", "dp4a.s32"),
    "tile": (lambda: layer("conv2d"), "sm_75", "dp4a.s32"),
    "tile, adder": (lambda: layer("adder_conv2d"), "sm_75", "vabsdiff4"),
    "depthwise": (depthwise_layer, "sm_75", "dp4a.u32.s32"),
}


@pytest.mark.skipif(not nvrtc.available(), reason=f"needs NVRTC: {nvrtc.INSTALL}")
@pytest.mark.parametrize("name", KERNELS)
def test_every_register_that_is_read_is_written(name: str) -> None:
    # NVRTC drops what an instruction reads or writes beyond the end of an array.
    make, arch, instruction = KERNELS[name]
    ptx = cuda.code(cuda.build(make(), CUDATarget(arch=arch)))
    assert instruction in ptx
    assert list(unwritten(ptx)) == []


@pytest.mark.skipif(not nvrtc.available(), reason=f"needs NVRTC: {nvrtc.INSTALL}")
def test_products_and_sums_of_floats_are_rounded_each() -> None:
    case = Case(relax.op.matmul, (np.zeros((2, 8), np.float32), np.zeros((8, 4), np.float32)))
    ptx = cuda.code(cuda.build(main_of(case), CUDATarget()))
    assert "mul.f32" in ptx or "mul.rn.f32" in ptx
    assert "fma." not in ptx


def test_products_of_data_are_found() -> None:
    ptx = """
.visible .entry k(
)
{
  ld.param.u64 %rd1, [k_param_0];
  mul.wide.s32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.v2.u32 {%r2, %r3}, [%rd3];
  shl.b32 %r4, %r3, 2;
  mad.lo.s32 %r5, %r6, %r4, %r6;
}
"""
    assert list(products_of_data(ptx)) == ["k: mad.lo.s32 %r5, %r6, %r4, %r6"]


@pytest.mark.skipif(not nvrtc.available(), reason=f"needs NVRTC: {nvrtc.INSTALL}")
@pytest.mark.parametrize("name", ["conv2d", "conv2d, two terms", "adder_conv2d"])
def test_the_shift_build_holds_no_product_of_data(name: str) -> None:
    built = cuda.build(layer(name), CUDATarget(kernels="shift"))
    ptx = cuda.code(built)
    assert "shl.b32" in ptx or "adder" in name
    assert list(products_of_data(ptx)) == []


@pytest.mark.skipif(not nvrtc.available(), reason=f"needs NVRTC: {nvrtc.INSTALL}")
def test_the_fastest_build_is_assembled_from_those_instructions() -> None:
    ptx = cuda.code(cuda.build(layer("conv2d"), CUDATarget()))
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx
    assert "prmt.b32" in ptx
    assert not re.search(r"\.(f16|f32|f64)\b", ptx)
