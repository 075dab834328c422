"""Random operators and random schedules, lowered by the visitor, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import s_tir, te, tirx

from tests.vta_ext.kernels import weights
from tvm_shiftadd.formats.codes import DECODE_TABLE
from vta_ext.presets import BASE, SHIFT, SMALL
from vta_ext.tensorir.build import build
from vta_ext.tensorir.environment import Environment

Pair = tuple[Callable[..., Any], Callable[..., Any]]

#: Each operation in TensorIR and in NumPy, on 32-bit numbers that wrap.
BINARY: dict[str, Pair] = {
    "add": (lambda a, b: a + b, np.add),
    "subtract": (lambda a, b: a - b, np.subtract),
    "max": (tirx.max, np.maximum),
    "min": (tirx.min, np.minimum),
}


def leaf(number: int) -> Pair:
    return (lambda *x: x[number]), (lambda *x: x[number])


def constant(value: int) -> Pair:
    return (lambda *x: tirx.const(value, "int32")), (lambda *x: np.int32(value))


def binary(name: str, a: Pair, b: Pair) -> Pair:
    ours, theirs = BINARY[name]
    return (
        (lambda *x: ours(a[0](*x), b[0](*x))),
        (lambda *x: theirs(a[1](*x), b[1](*x))),
    )


def shifted(a: Pair, by: int) -> Pair:
    if by < 0:
        return (lambda *x: a[0](*x) << -by), (lambda *x: np.left_shift(a[1](*x), np.int32(-by)))
    return (lambda *x: a[0](*x) >> by), (lambda *x: np.right_shift(a[1](*x), np.int32(by)))


TENSORS = st.sampled_from([leaf(n) for n in range(3)])
#: An operand that is read again after an expression of its own has been made in its place.
TWICE = binary("add", binary("max", leaf(0), constant(0)), shifted(leaf(0), -1))
EXPRESSIONS = st.recursive(
    TENSORS,
    lambda inner: st.one_of(
        st.builds(binary, st.sampled_from(sorted(BINARY)), inner, inner),
        st.builds(
            binary,
            st.sampled_from(sorted(BINARY)),
            inner,
            st.builds(constant, st.integers(-300, 300)),
        ),
        st.builds(shifted, inner, st.integers(-4, 9)),
    ),
    max_leaves=6,
)


@settings(max_examples=30)
@given(st.one_of(EXPRESSIONS, st.just(TWICE)), st.sampled_from([SHIFT, BASE, SMALL]), st.data())
def test_expressions_in_tiles(expression: Pair, config: Any, data: st.DataObject) -> None:
    env = Environment(config)
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    shape = (rows, columns, env.BATCH, env.BLOCK_OUT)
    given_tensors = [te.placeholder(shape, "int32", name=f"in{n}") for n in range(3)]
    acc = te.compute(
        shape, lambda *i: expression[0](*(t(*i) for t in given_tensors)) + 0, name="result"
    )
    out = te.compute(shape, lambda *i: acc(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([*given_tensors, out]))
    block, last = sch.get_sblock("result"), sch.get_sblock("out")
    sch.set_scope(block, 0, env.acc_scope)
    loads = [
        sch.cache_read(block, str(access.source.name), env.acc_scope)
        for access in sch.get(block).reads
    ]
    if data.draw(st.booleans()):
        tile, _ = sch.split(sch.get_loops(last)[0], [None, data.draw(st.integers(1, rows))])
        sch.compute_at(block, tile)
        if data.draw(st.booleans()):
            for one in loads:
                sch.compute_at(one, tile)
    operator = build(sch, env)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-200, 200, shape).astype(np.int32) for _ in range(3)]
    with np.errstate(over="ignore"):
        wanted = np.broadcast_to(expression[1](*arrays), shape).astype(np.int32).astype(np.int8)
    np.testing.assert_array_equal(operator(*arrays)[0], wanted)


@settings(max_examples=12)
@given(st.data())
def test_products_in_tiles(data: st.DataObject) -> None:
    """Any tile sizes, any order of the loops around the intrinsic."""
    env = Environment(data.draw(st.sampled_from([SHIFT, BASE, SMALL])))
    # TVM drops loops of one iteration, so tiles have two at least.
    sizes = [data.draw(st.integers(1 + (n > 2), 3)) for n in range(6)]
    rows, outputs, inputs = (sizes[n] * sizes[n + 3] for n in range(3))
    block = env.BLOCK_IN
    x = te.placeholder((rows, inputs, env.BATCH, block), "int8", name="x")
    w = te.placeholder((outputs, inputs, block, block), env.wgt_dtype, name="w")
    ko, ki = te.reduce_axis((0, inputs), "ko"), te.reduce_axis((0, block), "ki")
    shape = (rows, outputs, env.BATCH, block)
    y = te.compute(
        shape,
        lambda m, n, b, o: te.sum(env.product(x[m, ko, b, ki], w[n, ko, o, ki]), axis=[ko, ki]),
        name="y",
    )
    out = te.compute(shape, lambda *i: y(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, w, out]))
    gemm, last = sch.get_sblock("y"), sch.get_sblock("out")
    sch.set_scope(gemm, 0, env.acc_scope)
    reads = [sch.cache_read(gemm, "x", env.inp_scope), sch.cache_read(gemm, "w", env.wgt_scope)]
    m, n = sch.get_loops(last)[:2]
    (mo, mi), (no, ni) = sch.split(m, [None, sizes[3]]), sch.split(n, [None, sizes[4]])
    sch.reorder(*data.draw(st.permutations([mo, no])), mi, ni)
    outer = sch.get_loops(last)[1]
    sch.compute_at(gemm, outer)
    _, _, *own, reduction, lane = sch.get_loops(gemm)
    step, rest = sch.split(reduction, [None, sizes[5]])
    spatial, lanes = own[:-1], own[-1]
    sch.reorder(step, *data.draw(st.permutations([rest, *spatial])), lanes, lane)
    for one in reads:
        sch.compute_at(one, data.draw(st.sampled_from([step, outer])))
    sch.decompose_reduction(gemm, step)
    env.tensorize(sch, sch.get_sblock("y_update"))
    operator = build(sch, env)
    rng = np.random.default_rng(1)
    data_in = rng.integers(-128, 128, (rows, inputs, env.BATCH, block)).astype(np.int8)
    filters = weights(env.mode, (outputs, inputs, block, block), rng)
    wide = DECODE_TABLE[filters] if env.mode == "shift" else filters
    wanted = np.einsum("mkbi,nkoi->mnbo", data_in.astype(np.int64), wide.astype(np.int64))
    np.testing.assert_array_equal(operator(data_in, filters)[0], wanted.astype(np.int8))
