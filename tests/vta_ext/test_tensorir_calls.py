"""Calls of the ALU's operations from TE, and term codes: what has no meaning is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import s_tir, te
from tvm.script import from_source
from tvm.script import tirx as T

from tvm_shiftadd.errors import CompileError
from vta_ext.presets import SHIFT
from vta_ext.tensorir.build import Operator, build
from vta_ext.tensorir.environment import Environment


def calling(body: Any) -> Operator:
    """``body(x, codes)`` on accumulators and term codes."""
    env = Environment(SHIFT)
    x = te.placeholder((4, 1, 16), "int32", name="x")
    codes = te.placeholder((1, 16, 16), "uint8", name="codes")
    y = te.compute((4, 1, 16), lambda *i: body(env, x(*i), codes[0, 2, i[2]]), name="y")
    out = te.compute((4, 1, 16), lambda *i: y(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, codes, out]))
    block = sch.get_sblock("y")
    sch.set_scope(block, 0, env.acc_scope)
    for access in sch.get(block).reads:
        name = str(access.source.name)
        sch.cache_read(block, name, env.wgt_scope if name == "codes" else env.acc_scope)
    return build(sch, env)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (lambda env, x, c: env.alu("rshr", x, 40), "rshr shifts by -32 to 31, not by 40"),
        (lambda env, x, c: env.alu("shr", x, -33), "shr shifts by -32 to 31, not by -33"),
        (
            lambda env, x, c: env.alu("lsa", x, x, c, row=3, replace=0),
            "lsa takes its row from the index of its codes",
        ),
    ],
)
def test_operations_outside_of_their_range_are_refused(body: Any, sentence: str) -> None:
    with pytest.raises(CompileError, match=sentence):
        calling(body)


def test_codes_are_nothing_else() -> None:
    """Two codes share a byte in DRAM, so nothing else can load them."""
    text = """
@T.prim_func(s_tir=True)
def main(
    A: T.Buffer((16, 16), "uint8"), B: T.Buffer((16, 16), "int32")
):
    C = T.sblock_alloc_buffer((16, 16), "int32", scope="local.acc_buffer")
    W = T.sblock_alloc_buffer((16, 16), "uint8", scope="local.wgt_buffer")
    for i, k in T.grid(16, 16):
        W[i, k] = A[i, k]
    for i, k in T.grid(16, 16):
        C[i, k] = T.Cast("int32", A[i, k])
    for i, k in T.grid(16, 16):
        B[i, k] = C[i, k]
"""
    with pytest.raises(CompileError, match="A holds term codes, two a byte in DRAM; only scope"):
        build(from_source(text, {"T": T}), Environment(SHIFT))
