"""Statements of TensorIR give what the same text gives when Python runs it, or are refused."""

from __future__ import annotations

import itertools
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import from_source
from tvm.script import tirx as T

from tvm_shiftadd.errors import CompileError
from vta_ext.presets import SHIFT
from vta_ext.tensorir.build import build
from vta_ext.tensorir.environment import Environment

#: C and D are accumulators; the statements at hand come before both are stored.
OPERATOR = """
@T.prim_func(s_tir=True)
def main(
    A: T.Buffer((8, 1, 16), "int32"),
    first: T.Buffer((8, 1, 16), "int32"),
    second: T.Buffer((8, 1, 16), "int32"),
):
    C = T.sblock_alloc_buffer((8, 1, 16), "int32", scope="local.acc_buffer")
    D = T.sblock_alloc_buffer((8, 1, 16), "int32", scope="local.acc_buffer")
    for i, j, k in T.grid(8, 1, 16):
        C[i, j, k] = A[i, j, k]
    for i, j, k in T.grid(8, 1, 16):
        D[i, j, k] = A[7 - i, j, k]
"""
STORED = """
    for i, j, k in T.grid(8, 1, 16):
        first[i, j, k] = C[i, j, k]
    for i, j, k in T.grid(8, 1, 16):
        second[i, j, k] = D[i, j, k]
"""
#: What the statements call, for Python.
PYTHON = SimpleNamespace(
    grid=lambda *sizes: itertools.product(*map(range, sizes)),
    serial=range,
    max=max,
    min=min,
    if_then_else=lambda condition, yes, no: yes if condition else no,
    sblock_alloc_buffer=lambda shape, dtype, scope: np.zeros(shape, dtype),
)


def same(text: str) -> None:
    """What the machine makes of C and D is what Python does. Raises what ``build`` raises."""
    text = textwrap.dedent(text)
    source = OPERATOR + textwrap.indent(text, "    ") + STORED
    operator = build(from_source(source, {"T": T}), Environment(SHIFT))
    a = np.random.default_rng(5).integers(-300, 300, (8, 1, 16)).astype(np.int32)
    memory = {"A": a, "C": a.copy(), "D": a[::-1].copy()}
    exec(text, {"T": PYTHON}, memory)
    for found, name in zip(operator(a), "CD", strict=True):
        np.testing.assert_array_equal(found, memory[name], text)


def over(statement: str, size: int = 7) -> str:
    return f"for i, j, k in T.grid({size}, 1, 16):\n    {statement}\n"


@pytest.mark.parametrize(
    "statement",
    [
        "C[i, j, k] = C[i + 1, j, k]",
        "C[i, j, k] = C[i + 1, j, k] + D[i, j, k]",
        "C[i, j, k] = T.max(C[i + 1, j, k], 0) + C[i, j, k]",
        "C[i, j, k] = D[i, j, k] - C[i, j, k]",
        "C[i, j, k] = T.max(D[i, j, k], 3) - T.min(C[i, j, k], C[i + 1, j, k])",
        "C[i, j, k] = (C[i, j, k] << 2) + 5",
        "D[0, j, k] = D[0, j, k] + C[i, j, k]",
    ],
)
def test_iterations_read_before_any_writes(statement: str) -> None:
    same(over(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "C[i + 1, j, k] = C[i + 1, j, k] + C[i, j, k]",
        "C[i + 1, j, k] = C[i, j, k] + D[i, j, k]",
        "C[i + 1, j, k] = C[i, j, k]",
        "C[i, j, k] = C[0, j, k] + C[i, j, k]",
        "C[0, j, k] = C[0, j, k] + C[i, j, k]",
        "C[7 - i, j, k] = C[i, j, k] + 1",
    ],
)
def test_what_depends_on_the_order_of_iterations_is_refused(statement: str) -> None:
    with pytest.raises(CompileError, match="iteration") as caught:
        same(over(statement, 7 if "+ 1," in statement else 8))
    assert "`C[" in str(caught.value)


def test_a_loop_needs_again_what_its_last_statement_reads() -> None:
    same("""
        G = T.sblock_alloc_buffer((8, 1, 16), "int32", scope="local.acc_buffer")
        H = T.sblock_alloc_buffer((8, 1, 16), "int32", scope="local.acc_buffer")
        for i, j, k in T.grid(8, 1, 16):
            G[i, j, k] = D[i, j, k] * 2
        for t in T.serial(2):
            if t == 1:
                for i, j, k in T.grid(8, 1, 16):
                    H[i, j, k] = G[i, j, k] + 1
            else:
                for i, j, k in T.grid(8, 1, 16):
                    H[i, j, k] = G[i, j, k] + 2
        for i, j, k in T.grid(8, 1, 16):
            C[i, j, k] = H[i, j, k]
        """)


def test_loops_with_steps_are_refused() -> None:
    with pytest.raises(CompileError, match="loop i has a step of 2; multiply the index"):
        same("""
            for i in T.serial(0, 8, step=2):
                for j, k in T.grid(1, 16):
                    C[i, j, k] = C[i, j, k] + 1
            """)


def where(condition: str, statement: str) -> str:
    return over(f"if {condition}:\n        {statement}")


@pytest.mark.parametrize(
    "text",
    [
        where("i < 5", "C[i, j, k] = T.if_then_else(i < 3, A[i + 1, j, k], 0)"),
        where("i % 2 == 0", "C[i, j, k] = T.if_then_else(2 <= i, A[i - 2, j, k], 0)"),
        where("2 <= i", "C[i, j, k] = A[i - 2, j, k]"),
        where("i != 4", "C[i, j, k] = C[i + 1, j, k] + D[i, j, k]"),
        over("C[7 - i, j, k] = A[i, j, k]"),
        over("C[0, j, k] = A[3, j, k]"),
    ],
)
def test_where_a_condition_fails_nothing_is_written(text: str) -> None:
    same(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (where("k < 8", "C[i, j, k] = D[i, j, k] + 1"), "its condition divides an element"),
        (where("k < 8", "first[i, j, k] = C[i, j, k]"), "its condition divides an element"),
        (over("C[i // 2, j, k] = A[i, j, k]"), "several iterations copy different elements"),
        (over("second[i // 2, j, k] = C[i, j, k]"), "several iterations copy different elements"),
        (over("C[0, j, k] = D[i, j, k]"), "several iterations write one accumulator"),
        (over("C[i, j, k] = D[i + 1, j, k]", 8), "elements 1 to 8 of D, which has 8"),
        (over("C[6 - i, j, k] = D[i, j, k]", 8), "elements -1 to 6 of C, which has 8"),
        (over("C[i, j, k] = A[i + 1, j, k]", 8), "elements 1 to 8 of A, which has 8"),
        (over("first[i + 1, j, k] = C[i, j, k]", 8), "elements 1 to 8 of first, which has 8"),
        (over('C[T.Cast("int8", i * 9), j, k] = D[i, j, k]'), "is no index or condition"),
    ],
)
def test_what_no_instruction_does_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(CompileError, match=sentence):
        same(text)


INDICES = st.sampled_from(["i", "i + 1", "7 - i", "2", "i // 2", "i % 3"])


@settings(max_examples=15)
@given(INDICES, st.lists(st.tuples(st.sampled_from("CD"), INDICES), min_size=2, max_size=3))
def test_any_indices(written: str, read: list[tuple[str, str]]) -> None:
    first, second, *more = (f"{name}[{index}, j, k]" for name, index in read)
    value = f"T.max({first}, 9) - {second}" if more else f"{first} + {second}"
    value = f"{value} + {more[0]}" if more else value
    try:
        same(over(f"C[{written}, j, k] = {value}"))
    except CompileError as error:
        assert "iteration" in str(error)
