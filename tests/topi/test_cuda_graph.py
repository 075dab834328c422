"""Which layers become CUDA kernels, and what their source is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import CUDATarget, cuda
from tvm_shiftadd.topi.schedules.cuda.graph import FuseLayers
from tvm_shiftadd.topi.schedules.fusion.chains import name_of
from tvm_shiftadd.topi.schedules.fusion.function import COMPUTED_BY

BATCH = tirx.Var("n", "int64")
WINDOW = {"kernel_size": (3, 3), "strides": (1, 1), "padding": (1, 1, 1, 1)}
CONV = {**WINDOW, "dilation": (1, 1), "groups": 1}


def constant(values: Any) -> Any:
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(values)))


def weights(reduction: int, outputs: int, terms: int) -> tuple[Any, Any]:
    values = np.resize(codes.representable(terms), (reduction, outputs))
    packed = packing.pack(codes.encode(values, terms))
    return constant(packed), constant(np.zeros(outputs, np.int32))


def fused(make: Callable[..., Any], *inputs: tuple[tuple[int, ...], str], arch: int = 80) -> Any:
    """What the pass makes of a main function with these inputs, of any batch."""
    data = [
        relax.Var(f"x{index}", relax.TensorType((BATCH, *shape), dtype))
        for index, (shape, dtype) in enumerate(inputs)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", data):
        with builder.dataflow():
            output = builder.emit_output(make(builder.emit, *data))
        builder.emit_func_output(output)
    return FuseLayers(arch)(builder.get())


def kernels(mod: Any) -> dict[str, Any]:
    return {
        var.name_hint: func
        for var, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc) and COMPUTED_BY in (func.attrs or {})
    }


def operators(mod: Any) -> list[str]:
    """The operators of the dialect that are left in ``main``."""
    names = [name_of(b.value) for block in mod["main"].body.blocks for b in block.bindings]
    return [name for name in names if name.startswith("shiftadd.")]


def source(func: Any, arch: int = 80) -> str:
    return cuda.source(func, CUDATarget(arch=f"sm_{arch}"))


def residual_block(emit: Callable[[Any], Any], x: Any, y: Any) -> Any:
    packed, bias = weights(3 * 3 * 16, 24, 1)
    shift = constant(np.full(24, 5, np.int32))
    z = emit(ops.conv2d(x, packed, bias, **CONV))
    z = emit(ops.scale(z, constant(np.full((2, 24), [[5], [1]], np.uint8))))
    z = emit(ops.add(y, z, constant(np.full(24, 3, np.int32)), constant(np.zeros(24, np.int32))))
    return emit(ops.requantize(z, shift, lo=0, hi=255, dtype="uint8"))


def test_a_layer_and_all_behind_it_is_one_kernel() -> None:
    mod = fused(residual_block, ((8, 8, 16), "uint8"), ((8, 8, 24), "int8"))
    assert len(kernels(mod)) == 1
    assert operators(mod) == []


def test_constant_weights_are_brought_into_order_at_build() -> None:
    mod = fused(residual_block, ((8, 8, 16), "uint8"), ((8, 8, 24), "int8"))
    assert {var.name_hint for var in mod.functions} == {"main", "shiftadd_cuda_matrix"}


@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_an_adder_layer_adds_differences(channels: int) -> None:
    def make(emit: Callable[[Any], Any], x: Any) -> Any:
        weight = constant(np.ones((9 * channels, 8), np.int8))
        return emit(ops.adder_conv2d(x, weight, constant(np.zeros(8, np.int32)), **WINDOW))

    mod = fused(make, ((8, 8, channels), "int8"))
    assert list(kernels(mod)) == ["shiftadd_cuda_tile_adder"]


def test_more_groups_than_a_launch_has_blocks_are_left_to_the_schedule_of_all_else() -> None:
    groups = 65536

    def make(emit: Callable[[Any], Any], x: Any) -> Any:
        packed, bias = weights(2, groups, 1)
        window = {"kernel_size": (1, 1), "strides": (1, 1), "padding": (0, 0, 0, 0)}
        return emit(ops.conv2d(x, packed, bias, **window, dilation=(1, 1), groups=groups))

    mod = fused(make, ((1, 1, 2 * groups), "int8"))
    assert not kernels(mod) and operators(mod) == ["shiftadd.conv2d"]


@pytest.mark.parametrize(("dtype", "instruction"), [("int8", "__dp4a("), ("uint8", "dp4a.u32.s32")])
def test_products_are_those_of_four_bytes(dtype: str, instruction: str) -> None:
    def make(emit: Callable[[Any], Any], x: Any) -> Any:
        packed, bias = weights(3 * 3 * 3, 8, 2)
        return emit(ops.conv2d(x, packed, bias, **CONV))

    (kernel,) = kernels(fused(make, ((8, 8, 3), dtype), arch=61)).values()
    text = source(kernel, 61)
    assert instruction in text
    assert "float" not in text[text.index("__global__") :]


@pytest.mark.parametrize(("dtype", "kind"), [("int8", "s8"), ("uint8", "u8")])
def test_whole_pieces_of_channels_go_to_tensor_cores(dtype: str, kind: str) -> None:
    def make(emit: Callable[[Any], Any], x: Any) -> Any:
        packed, bias = weights(3 * 3 * 32, 40, 1)
        return emit(ops.conv2d(x, packed, bias, **CONV))

    (kernel,) = kernels(fused(make, ((8, 8, 32), dtype))).values()
    text = source(kernel)
    body = text[text.index("__global__") :]
    assert f"mma.sync.aligned.m16n8k32.row.col.s32.{kind}.s8.s32" in text
    assert "ldmatrix.sync" in text and "cp.async" in text
    # Codes of one term are decoded in registers; copies are waited for once in each turn.
    assert "shiftadd_asm_prmt(" in body
    assert body.count("__syncthreads") == 1
    older = kernels(fused(make, ((8, 8, 32), dtype), arch=75))
    assert list(older) == ["shiftadd_cuda_tile_dot"]
