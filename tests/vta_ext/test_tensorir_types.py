"""Types of values: what the machine's 32 bits, and the 8 that it stores, do not do is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tvm.script import from_source
from tvm.script import tirx as T

from tvm_shiftadd.errors import CompileError
from vta_ext.presets import SHIFT
from vta_ext.tensorir.build import Operator, build
from vta_ext.tensorir.environment import Environment

BUFFERS = {"C": "acc_buffer", "D": "acc_buffer", "X": "inp_buffer", "O": "out_buffer"}


def operator(given: str, result: str, *statements: str, inputs: str = "int8") -> Operator:
    """Each statement in loops of its own. A: argument of ``given``, B: result; X of ``inputs``."""
    lines = [
        "@T.prim_func(s_tir=True)",
        f'def main(A: T.Buffer((4, 1, 16), "{given}"), B: T.Buffer((4, 1, 16), "{result}")):',
    ]
    for name, scope in BUFFERS.items():
        dtype = {"X": inputs, "O": "int8"}.get(name, "int32")
        if any(f"{name}[" in one for one in statements):
            shape = f'(4, 1, 16), "{dtype}", scope="local.{scope}"'
            lines.append(f"    {name} = T.sblock_alloc_buffer({shape})")
    for one in statements:
        lines += ["    for i, j, k in T.grid(4, 1, 16):", f"        {one}"]
    text = re.sub(r"\b([ABCDXO])\[\]", r"\1[i, j, k]", "\n".join(lines) + "\n")
    return build(from_source(text, {"T": T}), Environment(SHIFT))


@pytest.mark.parametrize(
    ("given", "result", "statements"),
    [
        (
            "int32",
            "int32",
            ("C[] = A[]", 'D[] = T.Cast("int32", T.Cast("int8", C[]))', "B[] = D[]"),
        ),
        ("int32", "int32", ('C[] = T.Cast("int32", T.Cast("int8", A[]))', "B[] = C[]")),
        ("int32", "int32", ("C[] = A[]", 'B[] = T.Cast("int32", T.Cast("int8", C[]))')),
        ("uint8", "int32", ('C[] = T.Cast("int32", T.Cast("int8", A[]))', "B[] = C[]")),
        (
            "uint8",
            "int32",
            ('X[] = T.Cast("int8", A[])', 'C[] = T.Cast("int32", X[])', "B[] = C[]"),
        ),
        (
            "int8",
            "int32",
            ("X[] = A[]", 'C[] = T.Cast("int32", T.Cast("uint8", X[]))', "B[] = C[]"),
        ),
        (
            "int32",
            "int32",
            ("C[] = A[]", 'D[] = T.Cast("int32", T.Cast("float32", C[]))', "B[] = D[]"),
        ),
        (
            "int32",
            "int32",
            (
                "C[] = A[]",
                'D[] = T.Cast("int32", T.max(T.Cast("uint32", C[]), T.uint32(5)))',
                "B[] = D[]",
            ),
        ),
        (
            "int32",
            "int32",
            ("C[] = A[]", 'D[] = T.Cast("int32", T.Cast("int64", C[]) + 1)', "B[] = D[]"),
        ),
    ],
)
def test_casts_that_change_values_are_refused(
    given: str, result: str, statements: tuple[str, ...]
) -> None:
    with pytest.raises(CompileError, match="may change a value, which only a store does"):
        operator(given, result, *statements)


@pytest.mark.parametrize(
    ("statements", "sentence"),
    [
        (("X[] = A[]", 'C[] = T.Cast("int32", X[] + X[])', "B[] = C[]"), "is int8; cast its oper"),
        (
            (
                'C[] = T.Cast("int32", A[])',
                'O[] = T.Cast("int8", C[])',
                'D[] = T.Cast("int32", O[]) + 1',
                "B[] = D[]",
            ),
            "the ALU does not read scope local.out_buffer",
        ),
        (
            (
                'C[] = T.Cast("int32", A[])',
                'O[] = T.Cast("int8", C[])',
                'B[] = T.Cast("int32", O[])',
            ),
            "O holds 8 bits; store int8",
        ),
    ],
)
def test_8_bits_are_not_computed_with(statements: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(CompileError, match=sentence):
        operator("int8", "int32", *statements)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "int64", "float32"])
def test_other_types_are_not_stored(dtype: str) -> None:
    with pytest.raises(CompileError, match=f"B is {dtype}, but a machine stores int32, int8"):
        operator("int32", dtype, "C[] = A[]", f'B[] = T.Cast("{dtype}", C[])')


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_maxima_of_8_bits_are_exact(dtype: str) -> None:
    """And casts that widen, and the low 8 bits of what is stored."""
    found = operator(
        dtype,
        "uint8",
        "X[] = A[]",
        'C[] = T.Cast("int32", T.max(X[], X[3 - i, j, k])) * 2',
        'B[] = T.Cast("uint8", T.Cast("int16", C[]))',
        inputs=dtype,
    )
    low = 0 if dtype == "uint8" else -128
    a = np.random.default_rng(0).integers(low, low + 256, (4, 1, 16)).astype(dtype)
    wanted = np.maximum(a, a[::-1]).astype(np.int32) * 2
    np.testing.assert_array_equal(found(a)[0], wanted.astype(np.uint8))
