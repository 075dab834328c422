"""Operators written in TE, scheduled and lowered by the visitor, against NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from tests.vta_ext.kernels import requantized, weights
from tvm_shiftadd.errors import CompileError, DataError
from tvm_shiftadd.formats.codes import DECODE_TABLE
from vta_ext import checker
from vta_ext.presets import BASE, SHIFT, SHIFT_ADDER, SMALL
from vta_ext.tensorir.build import build
from vta_ext.tensorir.environment import Environment

ROWS_OF_INPUTS = replace(BASE, log_batch=1)
ENVIRONMENTS = {
    "VTA": lambda: Environment(BASE),
    "VTA, batch 2": lambda: Environment(ROWS_OF_INPUTS),
    "shift": lambda: Environment(SHIFT),
    "shift, 8 x 8": lambda: Environment(SMALL),
    "adder": lambda: Environment(SHIFT_ADDER, "adder"),
    "shift, uint8": lambda: Environment(SHIFT, inp_dtype="uint8"),
}


@pytest.fixture(params=ENVIRONMENTS)
def env(request: pytest.FixtureRequest) -> Environment:
    made: Environment = ENVIRONMENTS[request.param]()
    return made


def numbers(shape: tuple[int, ...], dtype: str = "int8", limit: int = 128) -> np.ndarray[Any, Any]:
    least = 0 if dtype == "uint8" else -limit
    values = np.random.default_rng(len(shape)).integers(least, least + 2 * limit, shape)
    return values.astype(dtype)


def elementwise(
    env: Environment,
    shape: tuple[int, ...],
    body: Callable[..., Any],
    dtypes: tuple[str, ...] = ("int32", "int32"),
    scope: str | None = None,
) -> Any:
    """``int8(body(a, b, ...))``, every operand in accumulators or in ``scope``."""
    given = [te.placeholder(shape, dtype, name=f"in{n}") for n, dtype in enumerate(dtypes)]
    acc = te.compute(shape, lambda *i: body(*(tensor(*i) for tensor in given)), name="result")
    out = te.compute(shape, lambda *i: acc(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([*given, out]))
    block = sch.get_sblock("result")
    sch.set_scope(block, 0, env.acc_scope)
    for access in sch.get(block).reads:
        sch.cache_read(block, str(access.source.name), scope or env.acc_scope)
    return sch


def vectors(env: Environment, *sizes: int) -> tuple[int, ...]:
    return (*sizes, env.BATCH, env.BLOCK_OUT)


def test_vector_add(env: Environment) -> None:
    shape = vectors(env, 4, 6)
    # The loaded operand that nothing else reads becomes the sum.
    schedule = elementwise(env, shape, lambda a, b: a + b)
    operator = build(schedule, env)
    a, b = numbers(shape, "int32", 30), numbers(shape, "int32", 20)
    (found,) = operator(a, b)
    np.testing.assert_array_equal(found, (a + b).astype(np.int8))
    kinds = [i.kind.name for i in operator.program.instructions]
    assert sorted(kinds) == ["ALU", "FINISH", "LOAD", "LOAD", "LOAD", "STORE"]
    assert operator.simulate().cycles > 100


BODIES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "shift, scale, clip": (
        lambda a, b: tirx.max(tirx.min(((a * 3 + b) >> 2) + 5, 127), -128),
        lambda a, b: np.clip(((a * 3 + b) >> 2) + 5, -128, 127),
    ),
    "difference": (lambda a, b: a - b, lambda a, b: a - b),
    "of a constant": (lambda a, b: tirx.const(7, "int32") + a, lambda a, b: 7 + a),
    "both compound": (
        lambda a, b: (a + 1) * (b - 2) + tirx.max(a, b),
        lambda a, b: (a + 1) * (b - 2) + np.maximum(a, b),
    ),
    "the same twice": (lambda a, b: (a + b) * (a - b), lambda a, b: (a + b) * (a - b)),
    "left shift": (lambda a, b: a + (b << 2), lambda a, b: a + (b << 2)),
    "the first operand again": (
        lambda a, b: tirx.max(a, 0) + (a << 1) + b,
        lambda a, b: np.maximum(a, 0) + (a << 1) + b,
    ),
    "ReLU": (lambda a, b: tirx.max(a, 0), lambda a, b: np.maximum(a, 0)),
}
# Machines without a multiplier in the ALU do without these.
PRODUCTS = ("shift, scale, clip", "both compound", "the same twice")


@pytest.mark.parametrize("name", BODIES)
def test_expressions(env: Environment, name: str) -> None:
    body, wanted = BODIES[name]
    shape = vectors(env, 3, 5)
    schedule = elementwise(env, shape, body)
    if name in PRODUCTS and "mul" not in env.config.alu_ops:
        with pytest.raises(CompileError, match="ALU has no operation mul"):
            build(schedule, env)
        return
    a, b = numbers(shape, "int32", 50), numbers(shape, "int32", 50)[::-1].copy()
    (found,) = build(schedule, env)(a, b)
    np.testing.assert_array_equal(found, wanted(a, b).astype(np.int8))


def test_operands_in_the_input_buffer() -> None:
    env = Environment(SHIFT)
    shape = vectors(env, 40)

    def body(a: Any, b: Any) -> Any:
        total = a.astype("int32") + (b.astype("int32") << 3)
        return tirx.max(tirx.min(total, 127), -128)

    operator = build(elementwise(env, shape, body, ("int8", "uint8"), env.inp_scope), env)
    a, b = numbers(shape), numbers(shape, "uint8")
    (found,) = operator(a, b)
    wanted = np.clip(a.astype(int) + (b.astype(int) << 3), -128, 127)
    np.testing.assert_array_equal(found, wanted)
    # A copy, a shifted sum, a clip.
    assert [i.kind.name for i in operator.program.instructions].count("ALU") == 3


def matrix_product(env: Environment, rows: int, outputs: int, inputs: int) -> Any:
    """A blocked GEMM with its input loop outside, so that loads and products overlap."""
    x = te.placeholder((rows, inputs, env.BATCH, env.BLOCK_IN), env.inp_dtype, name="x")
    w = te.placeholder((outputs, inputs, env.BLOCK_OUT, env.BLOCK_IN), env.wgt_dtype, name="w")
    ko, ki = te.reduce_axis((0, inputs), "ko"), te.reduce_axis((0, env.BLOCK_IN), "ki")
    shape = (rows, outputs, env.BATCH, env.BLOCK_OUT)
    y = te.compute(
        shape,
        lambda m, n, b, o: te.sum(env.product(x[m, ko, b, ki], w[n, ko, o, ki]), axis=[ko, ki]),
        name="y",
    )
    limited = te.compute(shape, lambda *i: tirx.max(tirx.min(y(*i) >> 6, 127), 0), name="limited")
    out = te.compute(shape, lambda *i: limited(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, w, out]))
    block = sch.get_sblock("y")
    sch.set_scope(block, 0, env.acc_scope)
    sch.set_scope(sch.get_sblock("limited"), 0, env.acc_scope)
    data = sch.cache_read(block, "x", env.inp_scope)
    filters = sch.cache_read(block, "w", env.wgt_scope)
    m, n, b, o, outer, inner = sch.get_loops(block)
    sch.reorder(outer, m, n, b, o, inner)
    sch.compute_at(data, outer)
    sch.compute_at(filters, outer)
    sch.decompose_reduction(block, outer)
    env.tensorize(sch, sch.get_sblock("y_update"))
    return sch


def combined(env: Environment, x: Any, w: Any) -> Any:
    """``[..., I]`` and ``[O, I]`` as the matrix unit combines them, ``[..., O]``."""
    wide = (DECODE_TABLE[w] if env.mode == "shift" else w).astype(np.int64)
    if env.mode == "adder":
        return -np.abs(x[..., None, :].astype(np.int64) - wide).sum(axis=-1)
    return x.astype(np.int64) @ wide.T


def test_blocked_matrix_product(env: Environment) -> None:
    rows, outputs, inputs, block = 6, 3, 5, env.BLOCK_IN
    operator = build(matrix_product(env, rows, outputs, inputs), env)
    x = numbers((rows, inputs, env.BATCH, block), env.inp_dtype)
    w = weights(env.mode, (outputs, inputs, block, block), np.random.default_rng(1))
    (found,) = operator(x, w)
    flat = x.transpose(0, 2, 1, 3).reshape(rows * env.BATCH, -1)
    acc = combined(env, flat, w.transpose(0, 2, 1, 3).reshape(outputs * block, -1))
    wanted = np.clip(acc >> 6, 0, 127).reshape(rows, env.BATCH, outputs, block)
    np.testing.assert_array_equal(found, wanted.transpose(0, 2, 1, 3))
    # Inputs alternate between two places, so kernels do too.
    loads = [i for i in operator.program.instructions if i.kind.name == "LOAD"]
    places = [i.sram_base for i in loads if i.memory_type.name == "inp"]
    assert len(set(places)) == 2
    assert operator.counters.hits > 0 and operator.counters.loads == 1


def convolution(env: Environment, size: int, ci: int, co: int, stride: int, tile: int) -> Any:
    """3 x 3, padding 1; tiles of rows, the padding made by the load; requantised in one pass."""
    out_size = (size - 1) // stride + 1
    x = te.placeholder((ci, size, size, env.BATCH, env.BLOCK_IN), "int8", name="x")
    w = te.placeholder((co, ci, 3, 3, env.BLOCK_OUT, env.BLOCK_IN), env.wgt_dtype, name="w")
    p = te.placeholder((co, 2, env.BATCH, env.BLOCK_OUT), "int32", name="p")
    padded = te.compute(
        (ci, size + 2, size + 2, env.BATCH, env.BLOCK_IN),
        lambda c, h, v, b, i: tirx.if_then_else(
            tirx.all(h >= 1, h < size + 1, v >= 1, v < size + 1),
            x[c, h - 1, v - 1, b, i],
            tirx.const(0, "int8"),
        ),
        name="padded",
    )
    axes = [te.reduce_axis((0, n), name) for n, name in ((ci, "c"), (3, "dy"), (3, "dx"))]
    lane = te.reduce_axis((0, env.BLOCK_IN), "i")
    c, dy, dx = axes
    shape = (co, out_size, out_size, env.BATCH, env.BLOCK_OUT)
    y = te.compute(
        shape,
        lambda o, h, v, b, j: te.sum(
            env.product(
                padded[c, h * stride + dy, v * stride + dx, b, lane], w[o, c, dy, dx, j, lane]
            ),
            axis=[*axes, lane],
        ),
        name="y",
    )
    z = te.compute(
        shape,
        lambda o, h, v, b, j: env.alu(
            "req", y[o, h, v, b, j], p[o, 0, b, j], p[o, 1, b, j], lo=-100, hi=127
        ),
        name="z",
    )
    out = te.compute(shape, lambda *i: z(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, w, p, out]))
    block, final, last = (sch.get_sblock(name) for name in ("y", "z", "out"))
    sch.set_scope(sch.get_sblock("padded"), 0, env.inp_scope)
    sch.set_scope(block, 0, env.acc_scope)
    sch.set_scope(final, 0, env.acc_scope)
    filters = sch.cache_read(block, "w", env.wgt_scope)
    parameters = sch.cache_read(final, "p", env.acc_scope)
    rows, _ = sch.split(sch.get_loops(last)[1], [None, tile])
    sch.reorder(rows, sch.get_loops(last)[0])
    sch.compute_at(final, rows)
    sch.compute_at(block, rows)
    channel, dy, dx, lane = sch.get_loops(block)[-4:]
    sch.reorder(channel, dy, dx, *sch.get_loops(block)[1:-4], lane)
    sch.compute_at(sch.get_sblock("padded"), channel)
    sch.compute_at(filters, channel)
    sch.compute_at(parameters, rows)
    sch.decompose_reduction(block, channel)
    env.tensorize(sch, sch.get_sblock("y_update"))
    return sch


@pytest.mark.parametrize(("stride", "tile"), [(1, 4), (2, 3), (1, 12)])
def test_convolution_with_padding(stride: int, tile: int) -> None:
    env = Environment(SHIFT)
    size, ci, co, block = 12, 2, 3, env.BLOCK_IN
    operator = build(convolution(env, size, ci, co, stride, tile), env)
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (ci, size, size, 1, block)).astype(np.int8)
    w = weights("shift", (co, ci, 3, 3, block, block), rng)
    bias = rng.integers(-1000, 1000, (co, block)).astype(np.int32)
    shift = rng.integers(4, 10, (co, block)).astype(np.int32)
    (found,) = operator(x, w, np.stack([bias, shift], axis=1)[:, :, None])
    wide = np.pad(x[:, :, :, 0].astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    decoded = DECODE_TABLE[w].astype(np.int64)
    count = (size - 1) // stride + 1
    acc = np.zeros((co, count, count, block), np.int64)
    for dy in range(3):
        for dx in range(3):
            rows, columns = (slice(d, d + stride * count, stride) for d in (dy, dx))
            part = wide[:, rows, columns][:, :count, :count]
            acc += np.einsum("chvi,ocji->ohvj", part, decoded[:, :, dy, dx])
    wanted = requantized(acc, bias[:, None, None], shift[:, None, None], -100, 127)
    np.testing.assert_array_equal(found[:, :, :, 0], wanted)


def test_maxima_of_windows() -> None:
    """A reduction on the ALU, over inputs."""
    env = Environment(SHIFT)
    x = te.placeholder((2, 8, 8, 1, 16), "int8", name="x")
    dy, dx = te.reduce_axis((0, 2), "dy"), te.reduce_axis((0, 2), "dx")
    y = te.compute(
        (2, 4, 4, 1, 16),
        lambda c, h, v, b, i: te.max(
            x[c, 2 * h + dy, 2 * v + dx, b, i].astype("int32"), axis=[dy, dx]
        ),
        name="y",
    )
    out = te.compute((2, 4, 4, 1, 16), lambda *i: y(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, out]))
    block = sch.get_sblock("y")
    sch.set_scope(block, 0, env.acc_scope)
    sch.cache_read(block, "x", env.inp_scope)
    sch.decompose_reduction(block, sch.get_loops(block)[0])
    data = numbers((2, 8, 8, 1, 16))
    (found,) = build(sch, env)(data)
    np.testing.assert_array_equal(found, data.reshape(2, 4, 2, 4, 2, 1, 16).max(axis=(2, 4)))


def test_depthwise_by_rows_of_codes() -> None:
    env = Environment(SHIFT)
    x = te.placeholder((6, 9, 1, 16), "int8", name="x")
    codes = te.placeholder((1, 16, 16), "uint8", name="codes")
    shape = (6, 7, 1, 16)
    steps = [te.compute(shape, lambda *i: tirx.const(0, "int32"), name="zero")]

    def add_tap(total: Any, tap: int) -> Any:
        return te.compute(
            shape,
            lambda h, v, b, i: env.alu(
                "lsa", total[h, v, b, i], x[h, v + tap, b, i], codes[0, tap, i], row=0, replace=0
            ),
            name=f"tap{tap}",
        )

    for tap in range(3):
        steps.append(add_tap(steps[-1], tap))
    out = te.compute(shape, lambda *i: steps[-1](*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, codes, out]))
    for name in ("zero", "tap0", "tap1", "tap2"):
        sch.set_scope(sch.get_sblock(name), 0, env.acc_scope)
    taps = [sch.get_sblock(f"tap{tap}") for tap in range(3)]
    sch.cache_read(taps[0], "x", env.inp_scope, taps)
    sch.cache_read(taps[0], "codes", env.wgt_scope, taps)
    operator = build(sch, env)
    values, w = (
        numbers((6, 9, 1, 16), limit=8),
        weights("shift", (1, 16, 16), np.random.default_rng(0)),
    )
    (found,) = operator(values, w)
    factor = DECODE_TABLE[w].astype(int)[0]
    wanted = sum(values[:, tap : tap + 7] * factor[tap] for tap in range(3))
    np.testing.assert_array_equal(found, wanted.astype(np.int8))


def test_a_last_tile_that_is_smaller() -> None:
    """Tiles that do not divide the rows: what lies beyond is neither loaded nor stored."""
    env = Environment(SHIFT)
    shape = vectors(env, 11, 3)
    schedule = elementwise(env, shape, lambda a, b: a + b)
    last = schedule.get_sblock("out")
    rows, _ = schedule.split(schedule.get_loops(last)[0], [None, 4])
    for name in ("result", "in0_local.acc_buffer", "in1_local.acc_buffer"):
        schedule.compute_at(schedule.get_sblock(name), rows)
    a, b = numbers(shape, "int32", 60), numbers(shape, "int32", 60)[::-1].copy()
    operator = build(schedule, env)
    np.testing.assert_array_equal(operator(a, b)[0], (a + b).astype(np.int8))
    stores = [i for i in operator.program.instructions if i.kind.name == "STORE"]
    assert sum(i.x_size * i.y_size for i in stores) == 33


def test_accumulators_of_32_bits_leave_where_the_machine_can() -> None:
    def copy(config: Any) -> Any:
        env = Environment(config)
        a = te.placeholder((5, 1, 16), "int32", name="a")
        doubled = te.compute((5, 1, 16), lambda *i: a(*i) + a(*i), name="doubled")
        sch = s_tir.Schedule(te.create_prim_func([a, doubled]))
        block = sch.get_sblock("doubled")
        sch.cache_read(block, "a", env.acc_scope)
        sch.cache_write(block, 0, env.acc_scope)
        return build(sch, env)

    a = numbers((5, 1, 16), "int32", 1 << 20)
    np.testing.assert_array_equal(copy(SHIFT)(a)[0], 2 * a)
    with pytest.raises(CompileError, match="this machine stores 8 bits only; clip and cast"):
        copy(BASE)


def test_a_load_that_is_stored_passes_the_alu() -> None:
    """A LOAD fills accumulators, not the output buffer that STORE reads."""
    env = Environment(BASE)
    a = te.placeholder((7, 1, 16), "int8", name="a")
    wide = te.compute((7, 1, 16), lambda *i: a(*i).astype("int32"), name="wide")
    out = te.compute((7, 1, 16), lambda *i: wide(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([a, out]))
    sch.set_scope(sch.get_sblock("wide"), 0, env.acc_scope)
    operator = build(sch, env)
    data = numbers((7, 1, 16))
    np.testing.assert_array_equal(operator(data)[0], data)
    kinds = [i.kind.name for i in operator.program.instructions]
    assert kinds == ["LOAD", "LOAD", "ALU", "STORE", "FINISH"]


def plain(env: Environment, body: Any, dtype: str = "int32", shape: Any = (4, 1, 16)) -> Any:
    return elementwise(env, shape, body, (dtype,))


def unscheduled(env: Environment) -> Any:
    a = te.placeholder((4, 1, 16), "int32", name="a")
    return te.create_prim_func([a, te.compute((4, 1, 16), lambda *i: a(*i) + 1, name="out")])


def shifted_lanes(env: Environment) -> Any:
    a = te.placeholder((4, 32), "int32", name="a")
    acc = te.compute((4, 16), lambda i, j: a[i, j + 3] + 1, name="acc")
    out = te.compute((4, 16), lambda *i: acc(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([a, out]))
    sch.set_scope(sch.get_sblock("acc"), 0, env.acc_scope)
    sch.cache_read(sch.get_sblock("acc"), "a", env.acc_scope)
    return sch


def wrong_scope(env: Environment) -> Any:
    sch = unscheduled(env)
    sch = s_tir.Schedule(sch)
    sch.cache_read(sch.get_sblock("out"), "a", "local")
    return sch


def wide_padding(env: Environment) -> Any:
    a = te.placeholder((4, 1, 16), "int32", name="a")
    acc = te.compute(
        (40, 1, 16),
        lambda i, b, j: tirx.if_then_else(
            tirx.all(i >= 20, i < 24), a[i - 20, b, j], tirx.const(0, "int32")
        ),
        name="acc",
    )
    out = te.compute((40, 1, 16), lambda *i: acc(*i).astype("int8"), name="out")
    sch = s_tir.Schedule(te.create_prim_func([a, out]))
    sch.set_scope(sch.get_sblock("acc"), 0, env.acc_scope)
    return sch


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (unscheduled, "what is written to DRAM must be a plain copy of accumulators"),
        (shifted_lanes, "does not read or write whole elements of a_local.acc_buffer, of 16"),
        (wrong_scope, "buffer a_local has scope 'local'; the accelerator's are"),
        (wide_padding, "it pads with 20 elements, but a load pads 15 at most"),
        (lambda env: plain(env, lambda a: a // 3), "the ALU has no operation for `"),
        (lambda env: plain(env, lambda a: env.alu("rshr", a, a)), "ALU has no operation rshr"),
        (
            lambda env: plain(env, lambda a: a + 1, "int16"),
            "in0_local.acc_buffer of int16 is in scope local.acc_buffer, which holds int32",
        ),
        (
            lambda env: plain(env, lambda a: a + 1, shape=(3000, 1, 16)),
            "needs 3000 entries of buffer acc, which has 2048, of which 0 are in use; compute in",
        ),
        (
            lambda env: plain(env, lambda a: a + 1, shape=(5, 1, 10)),
            "of shape [5, 1, 10] in scope local.acc_buffer does not hold whole elements of 16",
        ),
    ],
)
def test_what_cannot_run_is_quoted(make: Any, sentence: str) -> None:
    with pytest.raises(CompileError, match=re.escape(sentence)) as caught:
        build(make(Environment(BASE)), Environment(BASE))
    assert "`" in str(caught.value) or "buffer" in str(caught.value)


def test_wrong_calls_are_refused() -> None:
    env = Environment(SHIFT)
    operator = build(plain(env, lambda a: a + 1), env)
    with pytest.raises(DataError, match=r"expected in0 of int32\[4, 1, 16\], got int8"):
        operator(np.zeros((4, 1, 16), np.int8))
    with pytest.raises(DataError, match=r"expected 1 inputs \(in0\), got 0"):
        operator()
    with pytest.raises(CompileError, match="no GEMM mode adder; it has shift"):
        Environment(SHIFT, "adder")
    with pytest.raises(CompileError, match="no inputs of uint8; use int8"):
        Environment(BASE, inp_dtype="uint8")


@pytest.mark.parametrize("threads", ["vthread.x", "parallel", "unroll"])
def test_kinds_of_loops_are_loops(threads: str) -> None:
    """Virtual threads too: buffers take turns in any loop."""
    env = Environment(SHIFT)
    shape = vectors(env, 8, 3)
    schedule = elementwise(env, shape, lambda a, b: a + b)
    tile, _ = schedule.split(schedule.get_loops(schedule.get_sblock("out"))[0], [None, 4])
    for name in ("result", "in0_local.acc_buffer", "in1_local.acc_buffer"):
        schedule.compute_at(schedule.get_sblock(name), tile)
    if threads == "vthread.x":
        schedule.bind(tile, threads)
    else:
        getattr(schedule, threads)(tile)
    a, b = numbers(shape, "int32", 60), numbers(shape, "int32", 50)
    np.testing.assert_array_equal(build(schedule, env)(a, b)[0], (a + b).astype(np.int8))


def test_programs_are_proved_safe() -> None:
    env = Environment(SHIFT)
    operator = build(matrix_product(env, 4, 2, 3), env)
    assert checker.check(operator.program) == []
