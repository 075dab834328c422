"""The search for multiplications of data finds them all, and no address arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm.script import tirx as T

from tvm_shiftadd._compat import relax, te, tirx
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.purity import multiplications

FLOATS = te.placeholder((4, 8), "float32", name="A")
INTS = te.placeholder((4, 8), "int32", name="A")


def function(source: Any, body: Callable[..., Any]) -> Any:
    return te.create_prim_func([source, te.compute((4, 8), body, name="B")])


IMPURE = {
    "product of data": (FLOATS, lambda i, j: FLOATS[i, j] * FLOATS[j % 4, i], "*"),
    "by a constant": (FLOATS, lambda i, j: FLOATS[i, j] * 2.0, "*"),
    "of integers": (INTS, lambda i, j: INTS[i, j] * 3, "* 3"),
    "by an index": (INTS, lambda i, j: INTS[i, j] * i, "*"),
    "deep inside": (INTS, lambda i, j: tirx.max((INTS[i, j] * 3) >> 2, 0) + i, "* 3"),
    "float quotient": (FLOATS, lambda i, j: FLOATS[i, j] / 3.0, "/"),
    "integer quotient": (INTS, lambda i, j: tirx.floordiv(INTS[i, j], 3), "//"),
    "truncated quotient": (INTS, lambda i, j: tirx.truncdiv(INTS[i, j], 3), "3"),
    "remainder": (INTS, lambda i, j: tirx.floormod(INTS[i, j], 3), "%"),
    "power": (FLOATS, lambda i, j: tirx.pow(FLOATS[i, j], 2.0), "pow"),
    "sigmoid": (FLOATS, lambda i, j: tirx.sigmoid(FLOATS[i, j]), "sigmoid"),
    "foreign function": (INTS, lambda i, j: tirx.call_extern("int32", "f", INTS[i, j]), "f"),
    "foreign function of an address": (
        INTS,
        lambda i, j: tirx.call_extern("int32", "f", i),
        "call_extern",
    ),
    "fused multiply-add": (
        FLOATS,
        lambda i, j: tirx.call_llvm_pure_intrin(
            "float32", "llvm.fma", FLOATS[i, j], FLOATS[i, j], FLOATS[i, j]
        ),
        "llvm.fma",
    ),
    "in a condition": (
        FLOATS,
        lambda i, j: tirx.Select(FLOATS[i, j] * FLOATS[i, j] > 1.0, FLOATS[i, j], 0.0),
        "*",
    ),
    "in a branch": (
        INTS,
        lambda i, j: tirx.if_then_else(i > 1, INTS[i, j], INTS[i, j] * 5),
        "* 5",
    ),
    "of a bound variable": (
        INTS,
        lambda i, j: tirx.Let(_V, INTS[i, j] + 1, _V * 7),
        "* 7",
    ),
}
_V = tirx.Var("v", "int32")

PURE = {
    "addressing": (INTS, lambda i, j: INTS[(i * 3) % 4, j] + i * j),
    "look-up by data": (INTS, lambda i, j: INTS[i, tirx.floormod(INTS[i, j] * 2, 8)]),
    "shifts": (INTS, lambda i, j: (INTS[i, j] << 3) - (INTS[i, j] >> i)),
    "selects": (INTS, lambda i, j: tirx.Select(INTS[i, j] > i * 4, tirx.max(INTS[i, j], 0), 0)),
    "casts and bits": (
        FLOATS,
        lambda i, j: tirx.reinterpret("float32", tirx.reinterpret("int32", FLOATS[i, j]) + 1),
    ),
    "a bound index": (INTS, lambda i, j: tirx.Let(_V, i * 2, _V * 3) + INTS[i, j]),
    "a shifting intrinsic": (
        INTS,
        lambda i, j: tirx.call_llvm_pure_intrin("int32", "llvm.fshl", *([INTS[i, j]] * 3)),
    ),
}


@pytest.mark.parametrize("name", IMPURE)
def test_multiplication_is_found(name: str) -> None:
    source, body, part = IMPURE[name]
    found = multiplications(function(source, body))
    assert len(found) == 1
    assert part in found[0]


@pytest.mark.parametrize("name", PURE)
def test_addresses_and_shifts_are_no_multiplication(name: str) -> None:
    assert multiplications(function(*PURE[name])) == []


def test_dot_product_of_vectors_is_found() -> None:
    source, result = (tirx.decl_buffer((1,), "int32x16", name) for name in "AB")
    name = "llvm.x86.avx512.vpdpbusd.512"
    value = tirx.call_llvm_pure_intrin("int32x16", name, *([source[0]] * 3))
    (text,) = multiplications(tirx.PrimFunc([], tirx.BufferStore(result, value, [0])))
    assert "vpdpbusd" in text


def test_block_is_named() -> None:
    (text,) = multiplications(function(INTS, lambda i, j: INTS[i, j] * 3))
    assert text.startswith("B: ")


def test_statement_level_functions_are_walked() -> None:
    @T.prim_func
    def scaled(a: T.handle, b: T.handle) -> None:
        A = T.match_buffer(a, (8,), "int32")
        B = T.match_buffer(b, (8,), "int32")
        for i in T.parallel(4):
            for j in T.vectorized(2):
                if A[i * 2 + j] > 0:
                    B[i * 2 + j] = A[i * 2 + j] * A[i * 2 + j]
                else:
                    B[i * 2 + j] = A[i * 2 + j] + i * 2

    found = multiplications(scaled)
    assert len(found) == 1 and "A[i * 2 + j] * A[i * 2 + j]" in found[0]


def test_bound_address_counts_only_where_it_is_used_as_data() -> None:
    @T.prim_func
    def gather(
        starts: T.Buffer((8,), "int32"), x: T.Buffer((64,), "int32"), y: T.Buffer((8,), "int32")
    ) -> None:
        for i in range(8):
            at: T.let = starts[i] * 8
            for j in range(T.max(at // 3, 1)):
                y[i] = y[i] + x[at + j]

    @T.prim_func
    def scatter(starts: T.Buffer((8,), "int32"), y: T.Buffer((64,), "int32")) -> None:
        for i in range(8):
            at: T.let = starts[i] * 8
            y[at] = at

    assert multiplications(gather) == []
    (found,) = multiplications(scatter)
    assert "starts[i] * 8" in found


def test_shared_expression_counts_where_it_is_used_as_data() -> None:
    source, result = (tirx.decl_buffer((4,), "int32", name) for name in "AB")
    shared = source[0] * 3
    address = tirx.Var("at", "int32")
    body = tirx.SeqStmt([tirx.Bind(address, shared), tirx.BufferStore(result, shared, [address])])
    assert len(multiplications(tirx.PrimFunc([], body))) == 1


def legalized() -> dict[str, Any]:
    """Every operator's TensorIR function, by name."""
    rng = np.random.default_rng(0)

    def constant(dtype: str, *shape: int) -> Any:
        return relax.const(rng.integers(0, 4, shape).astype(dtype))

    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 7, 7, 4), "int8"))
    shift = constant("int32", 4)
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(
                ops.conv2d(
                    x, constant("uint8", 2, 18, 4), shift, kernel_size=(3, 3), padding=(1, 1, 1, 1)
                )
            )
            y = builder.emit(ops.requantize(y, shift))
            y = builder.emit(
                ops.conv2d_transpose(y, constant("uint8", 2, 18, 4), shift, kernel_size=(3, 3))
            )
            y = builder.emit(ops.requantize(y, shift))
            y = builder.emit(ops.requantize(ops.add(y, y, shift, shift), shift))
            y = builder.emit(ops.avg_pool2d(y, pool_size=(3, 3), padding=(1, 1, 1, 1)))
            y = builder.emit(ops.requantize(y, shift))
            y = builder.emit(ops.max_pool2d(y, pool_size=(3, 3), padding=(1, 1, 1, 1)))
            y = builder.emit(ops.concat([y, ops.clip(y, lo=0, hi=5)], axis=1))
            y = builder.emit(
                ops.upsample2d(ops.pad(y, pad_width=[0, 0, 1, 1, 0, 2, 0, 0]), scale=(2, 2))
            )
            y = builder.emit(ops.quantize(ops.dequantize(y, shift), 3))
            y = builder.emit(
                ops.adder_conv2d(y, constant("int8", 36, 4), shift, kernel_size=(3, 3))
            )
            y = builder.emit(ops.requantize(ops.scale(y, constant("uint8", 1, 4)), shift))
            y = builder.emit(
                ops.requantize(ops.adder_dense(y, constant("int8", 4, 4), shift), shift)
            )
            y = builder.emit(ops.dense(y, constant("uint8", 2, 2, 4), shift))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    module = relax.transform.LegalizeOps()(builder.get())
    return {
        str(variable.name_hint): kernel
        for variable, kernel in module.functions_items()
        if isinstance(kernel, tirx.PrimFunc)
    }


def test_every_legalized_operator_is_free_of_multiplications() -> None:
    kernels = legalized()
    assert len(kernels) >= 16
    assert {
        name: found for name, kernel in kernels.items() if (found := multiplications(kernel))
    } == {}
