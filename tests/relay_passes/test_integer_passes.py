"""RewriteToDialect, AlignResiduals and PlaceRequantize, each before and after."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from relay_passes.align_residuals import AlignResiduals
from relay_passes.place_requantize import PlaceRequantize
from relay_passes.rewrite_to_dialect import RewriteToDialect
from relay_passes.select_regions import SelectRegions
from tests.relay_passes.programs import (
    Program,
    assert_becomes,
    assert_unchanged,
    constant,
    conv2d_last,
    operators,
    program,
    random,
)
from tvm_shiftadd._compat import relax
from tvm_shiftadd.convert.plan import LayerPlan, Plan
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats import codes as term_codes
from tvm_shiftadd.formats.packing import pack

SHAPE = ("N", 8, 8, 4)


def int32(*values: int) -> Any:
    return constant(list(values), "int32")


def layer(seed: int, rows: int, exponent: list[int]) -> LayerPlan:
    values = np.random.default_rng(seed).integers(-6, 7, (rows, len(exponent)))
    bias = np.arange(len(exponent), dtype=np.int32) - 1
    return LayerPlan(term_codes.encode(values, 2), np.array(exponent, np.int32), bias)


def packed(plan: LayerPlan) -> tuple[Any, Any]:
    return constant(pack(plan.codes), "uint8"), constant(plan.bias, "int32")


CONV = layer(0, 36, [3, 4, 5, 3])
WINDOW = {"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}


def conv(x: Any, plan: LayerPlan = CONV) -> Any:
    return ops.conv2d(x, *packed(plan), kernel_size=(3, 3), **WINDOW)


def rewrite(plan: Plan) -> Any:
    return lambda mod: RewriteToDialect(plan)(SelectRegions()(mod))


def layer_with_relu() -> Any:
    p, x = program(SHAPE)
    c = p("conv", conv2d_last(x, random(4, 4, 3, 3), padding=1))
    b = p("conv.bias", relax.op.add(c, constant(random(4))))
    r = p("relu", relax.op.clip(b, 0.0, 2.0))
    return p.module(p("second", conv2d_last(r, random(4, 4, 3, 3), padding=1)))


def test_a_layer_takes_its_bias_in_and_each_stands_between_its_scales() -> None:
    plan = Plan({"conv": CONV, "second": CONV}, {"x": 5, "relu": 4})
    q, x = program(SHAPE)
    c = q("conv", conv(q("x.int8", ops.quantize(x, 5))))
    c = q("conv.wide", ops.dequantize(c, int32(8, 9, 10, 8)))
    r = q("relu.int8", ops.quantize(q("relu.wide", relax.op.clip(c, 0.0, 2.0)), 4))
    s = q("second", conv(r))
    expected = q.module(q("second.wide", ops.dequantize(s, int32(7, 8, 9, 7))))
    # The float form of the int8 relu, which nothing reads, is gone.
    assert_becomes(rewrite(plan), layer_with_relu(), expected)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({"conv": CONV, "second": CONV}, {"relu": 4}), "scale for the tensor x"),
        (Plan({"second": CONV}, {"x": 4, "relu": 4}), "plan for the layer conv"),
        (Plan({"conv": CONV, "second": CONV}, {"x": 4}), "scale for the tensor relu"),
    ],
)
def test_a_plan_of_another_network_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        rewrite(plan)(layer_with_relu())


def test_operators_that_move_data_and_pool() -> None:
    p, x = program(SHAPE)
    pooled = p("pool", relax.op.nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"))
    padded = p("pad", relax.op.nn.pad(pooled, [0, 0, 1, 0, 0, 1, 0, 0]))
    large = p("large", relax.op.image.resize2d(padded, (10, 10), layout="NHWC",
                                               method="nearest_neighbor"))  # fmt: skip
    joined = p("joined", relax.op.concat([large, large], axis=3))
    cut = p("cut", relax.op.strided_slice(joined, [3], [2], [6]))
    mean = p("mean", relax.op.mean(cut, axis=[1, 2], keepdims=True))
    flat = p("flat", relax.op.reshape(mean, (x.ty.shape[0], 4)))
    mod = p.module(p("dense", relax.op.matmul(flat, constant(random(4, 3)))))
    dense = layer(3, 4, [2, 2, 3])
    names = ["x", "pool", "pad", "large", "joined", "cut", "mean", "flat"]
    plan = Plan({"dense": dense}, dict.fromkeys(names, 5))
    after = PlaceRequantize()(AlignResiduals()(rewrite(plan)(mod)))
    found = operators(after)
    assert found == [
        "shiftadd.quantize",
        "shiftadd.max_pool2d",
        "shiftadd.pad",
        "shiftadd.upsample2d",
        "shiftadd.concat",
        "strided_slice",
        "shiftadd.avg_pool2d",
        "shiftadd.requantize",
        "reshape",
        "shiftadd.dense",
        "shiftadd.dequantize",
    ]


def two_wide() -> tuple[Program, Any, Any]:
    """Two accumulators on scales of their own."""
    p = Program({"p": "int32", "q": "int8"}, p=("N", 3), q=("N", 3))
    left = p("left", ops.dequantize(p.inputs[0], int32(4, 7, 5)))
    return p, left, p("right", ops.dequantize(p.inputs[1], int32(5)))


def test_a_residual_is_added_on_the_finer_scale_of_each_channel() -> None:
    p, left, right = two_wide()
    before = p.module(p("sum.wide", relax.op.add(left, right)))
    q = Program({"p": "int32", "q": "int8"}, p=("N", 3), q=("N", 3))
    total = q("sum", ops.add(*q.inputs, int32(1, 0, 0), int32(0, 2, 0)))
    expected = q.module(q("sum.wide", ops.dequantize(total, int32(5, 7, 5))))
    assert_becomes(AlignResiduals(), before, expected)
    feeds = {"p": np.array([[3, -9, 100]], np.int32), "q": np.array([[-5, 7, 2]], np.int8)}
    (got,) = run_reference(expected, feeds).values()
    exact = feeds["p"] * 0.5 ** np.array([4, 7, 5]) + feeds["q"] * 0.5**5
    np.testing.assert_array_equal(got, exact.astype(np.float32))


def test_additions_with_a_float_stay() -> None:
    p, left, right = two_wide()
    host = p("host", relax.op.exp(left))
    assert_unchanged(AlignResiduals(), p.module(p("sum", relax.op.add(left, host)), right))


def placed(before: Any, after: Any, dtype: str = "int32") -> None:
    """PlaceRequantize turns what ``before`` makes of integers p into what ``after`` makes."""
    programs = []
    for build in (before, after):
        p = Program({"p": dtype}, p=("N", 3))
        programs.append(p.module(build(p, p.inputs[0])))
    assert_becomes(PlaceRequantize(), *programs)


def test_a_way_through_float_is_one_requantisation() -> None:
    def before(p: Program, x: Any) -> Any:
        return p("y", ops.quantize(p("f", ops.dequantize(x, int32(9, 4, 7))), 5))

    placed(before, lambda p, x: p("y", ops.requantize(x, int32(4, -1, 2), lo=-128, hi=127)))


def test_clips_on_the_way_are_its_bounds() -> None:
    def before(p: Program, x: Any) -> Any:
        f = p("f", ops.dequantize(x, int32(9)))
        f = p("inner", relax.op.clip(f, 0.0, math.inf))
        return p("y", ops.quantize(p("outer", relax.op.clip(f, -1.0, 1.51)), 4))

    # 1.51 * 2^4 = 24.16
    placed(before, lambda p, x: p("y", ops.requantize(x, int32(5), lo=0, hi=24)))


def test_the_later_clip_has_the_last_word() -> None:
    def before(p: Program, x: Any) -> Any:
        f = p("f", ops.dequantize(x, int32(9)))
        f = p("inner", relax.op.clip(f, 3.0, 4.0))
        return p("y", ops.quantize(p("outer", relax.op.clip(f, 0.0, 2.0)), 2))

    placed(before, lambda p, x: p("y", ops.requantize(x, int32(7), lo=8, hi=8)))


def test_int8_on_the_same_scale_passes_through() -> None:
    def before(p: Program, x: Any) -> Any:
        y = p("y", ops.quantize(p("f", ops.dequantize(x, int32(5))), 5))
        return p("z", ops.clip(y, lo=-3, hi=3))

    placed(before, lambda p, x: p("z", ops.clip(x, lo=-3, hi=3)), "int8")


def test_int8_clipped_on_the_same_scale_is_a_clip() -> None:
    def before(p: Program, x: Any) -> Any:
        f = p("relu", relax.op.clip(p("f", ops.dequantize(x, int32(5))), 0.0, math.inf))
        return p("y", ops.quantize(f, 5))

    placed(before, lambda p, x: p("y", ops.clip(x, lo=0, hi=127)), "int8")


def test_int8_on_another_scale_is_requantised() -> None:
    def before(p: Program, x: Any) -> Any:
        return p("y", ops.quantize(p("f", ops.dequantize(x, int32(5))), 3))

    placed(before, lambda p, x: p("y", ops.requantize(x, int32(2), lo=-128, hi=127)), "int8")


def test_floats_of_the_host_are_quantised() -> None:
    p = Program({"p": "int32"}, p=("N", 3))
    host = p("host", relax.op.exp(p("f", ops.dequantize(p.inputs[0], int32(9)))))
    clipped = p("clipped", relax.op.clip(host, 0.0, 1.0))
    mod = p.module(p("y", ops.quantize(clipped, 5)), p("z", ops.quantize(host, 3)))
    assert_unchanged(PlaceRequantize(), mod)


def test_host_values_enter_an_addition_through_int8() -> None:
    p, x = program(SHAPE)
    c = p("conv", conv2d_last(x, random(4, 4, 3, 3), padding=1))
    host = p("host", relax.op.sigmoid(x))
    before = p.module(p("sum", relax.op.add(c, host)))
    plan = Plan({"conv": CONV}, {"x": 5, "host": 6})
    q, x = program(SHAPE)
    c = q("conv", conv(q("x.int8", ops.quantize(x, 5))))
    h = q("host.int8", ops.quantize(q("host", relax.op.sigmoid(x)), 6))
    total = q("sum", ops.add(c, h, int32(0, 0, 0, 0), int32(2, 3, 4, 2)))
    expected = q.module(q("sum.wide", ops.dequantize(total, int32(8, 9, 10, 8))))
    assert_becomes(
        lambda mod: PlaceRequantize()(AlignResiduals()(rewrite(plan)(mod))), before, expected
    )
