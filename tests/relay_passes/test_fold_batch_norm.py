"""Batch norms, and constant factors, go into the layers next to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from relay_passes.base import FOLDED_ATTR
from relay_passes.fold_batch_norm import FoldBatchNorm
from tests.relay_passes.programs import (
    Program,
    assert_same_numbers,
    assert_unchanged,
    constant,
    conv2d,
    names,
    operators,
    program,
    random,
)
from tvm_shiftadd._compat import constant_array, relax
from tvm_shiftadd.errors import ModelError

FOLD = FoldBatchNorm()
W = random(6, 4, 3, 3)
EPSILON = 0.01


def batch_norm(p: Program, name: str, x: Any, channels: int, **options: Any) -> Any:
    gamma, beta, mean = (random(channels, seed=seed) for seed in (1, 2, 3))
    variance = np.abs(random(channels, seed=4)) + np.float32(0.5)
    statistics = relax.op.nn.batch_norm(
        x,
        *(constant(v) for v in (gamma, beta, mean, variance)),
        axis=options.pop("axis", 1),
        epsilon=EPSILON,
        training=False,
        **options,
    )
    return p(name, relax.TupleGetItem(p(f"{name}.statistics", statistics), 0))


def folded(mod: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in (mod["main"].attrs or {}).get(FOLDED_ATTR, {}).items()}


def bound(mod: Any, name: str) -> Any:
    """The expression bound to a variable."""
    (value,) = (
        b.value for block in mod["main"].body.blocks for b in block.bindings if b.var.name == name
    )
    return value


def test_behind_a_convolution_it_scales_the_weight() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W, padding=1))
    biased = p("conv.bias", relax.op.add(conv, constant(random(1, 6, 1, 1, seed=9))))
    mod = p.module(p("relu", relax.op.clip(batch_norm(p, "bn", biased, 6), 0.0, math.inf)))
    after = FOLD(mod)
    assert names(after) == ["conv", "conv.bias", "relu", "gv"]
    assert folded(after) == {"bn": "batch norm folded into conv"}
    gamma, beta, mean = (random(6, seed=seed).astype(np.float64) for seed in (1, 2, 3))
    scale = gamma / np.sqrt(np.abs(random(6, seed=4)) + 0.5 + EPSILON)
    weight = constant_array(bound(after, "conv").args[1])
    bias = constant_array(bound(after, "conv.bias").args[1])
    np.testing.assert_allclose(weight, W * scale.reshape(6, 1, 1, 1), rtol=1e-6)
    expected = beta + scale * (random(6, seed=9) - mean)
    np.testing.assert_allclose(bias, expected.reshape(1, 6, 1, 1), rtol=1e-5)
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("layer", ["depthwise", "transposed", "dense", "strided"])
def test_every_layer_takes_one(layer: str, options: dict[str, Any]) -> None:
    p, x = program(("N", 4) if layer == "dense" else ("N", 4, 5, 5))
    if layer == "dense":
        y = relax.op.matmul(x, constant(random(4, 6)))
    elif layer == "transposed":
        y = relax.op.nn.conv2d_transpose(x, constant(random(4, 6, 3, 3)), strides=2)
    elif layer == "depthwise":
        y = conv2d(x, random(8, 1, 3, 3), groups=4)
    else:
        y = conv2d(x, W, strides=2)
    mod = p.module(batch_norm(p, "bn", p("layer", y), 8 if layer == "depthwise" else 6, **options))
    after = FOLD(mod)
    assert names(after) == ["layer", "layer.bias", "gv"]
    shape = [3 if d == "N" else int(d) for d in (("N", 4) if layer == "dense" else ("N", 4, 5, 5))]
    assert_same_numbers(FOLD, mod, random(*shape))


def test_a_constant_behind_it_joins_the_bias() -> None:
    p, x = program()
    normal = batch_norm(p, "bn", p("conv", conv2d(x, W)), 6)
    mod = p.module(p("more", relax.op.add(normal, constant(random(1, 6, 1, 1)))))
    assert operators(FOLD(mod)) == ["nn.conv2d", "add"]
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


def test_two_in_a_row() -> None:
    p, x = program()
    first = batch_norm(p, "first", p("conv", conv2d(x, W)), 6)
    mod = p.module(batch_norm(p, "second", first, 6))
    assert operators(FOLD(mod)) == ["nn.conv2d", "add"]
    assert set(folded(FOLD(mod))) == {"first", "second"}
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


@pytest.mark.parametrize("reader", ["layer", "bias"])
def test_a_layer_that_something_else_reads_stays(reader: str) -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    bias = p("bias", relax.op.add(conv, constant(random(1, 6, 1, 1))))
    mod = p.module(batch_norm(p, "bn", bias, 6), conv if reader == "layer" else bias)
    after = FOLD(mod)
    assert operators(after) == ["nn.conv2d", "add", "nn.conv2d", "add"]
    assert folded(after) == {"bn": "batch norm as a 1x1 depthwise convolution"}
    assert np.array_equal(constant_array(bound(after, "conv").args[1]), W)
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


def test_parameters_that_are_no_constants_stay() -> None:
    p = Program(x=("N", 4, 8, 8), gamma=(6,))
    x, gamma = p.inputs
    statistics = relax.op.nn.batch_norm(
        p("conv", conv2d(x, W)),
        gamma,
        *(constant(np.ones(6)) for _ in range(3)),
        axis=1,
        training=False,
    )
    whole = p("bn.statistics", statistics)
    assert_unchanged(FOLD, p.module(p("bn", relax.TupleGetItem(whole, 0))))


def test_another_axis_stays() -> None:
    p, x = program(("N", 6, 8, 6))
    assert_unchanged(FOLD, p.module(batch_norm(p, "bn", x, 6, axis=3)))


def test_a_product_of_three_axes_does_not_take_one_over_its_rows() -> None:
    p, x = program(("N", 6, 4))
    dense = p("dense", relax.op.matmul(x, constant(random(4, 6))))
    mod = p.module(batch_norm(p, "bn", dense, 6))
    assert operators(FOLD(mod)) == ["matmul", "multiply", "add"]
    assert_same_numbers(FOLD, mod, random(2, 6, 4))


def test_an_offset_along_the_width_is_no_bias() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    wide = p("wide", relax.op.add(conv, constant(random(6))))
    mod = p.module(batch_norm(p, "bn", wide, 6))
    assert operators(FOLD(mod)) == ["nn.conv2d", "add", "nn.conv2d", "add"]
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


def test_alone_it_is_a_depthwise_convolution() -> None:
    p, x = program()
    relu = p("relu", relax.op.clip(batch_norm(p, "bn", x, 4), 0.0, math.inf))
    mod = p.module(p("conv", conv2d(relu, W)))
    after = FOLD(mod)
    assert names(after) == ["bn", "bn.bias", "relu", "conv", "gv"]
    assert bound(after, "bn").attrs["groups"] == 4
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


@pytest.mark.parametrize(
    ("attrs", "absorbed"),
    [({}, True), ({"strides": 2}, True), ({"padding": 1}, False), ({"groups": 2}, False)],
)
def test_in_front_of_a_convolution(attrs: dict[str, Any], absorbed: bool) -> None:
    p, x = program()
    weight = random(6, 2, 3, 3) if "groups" in attrs else W
    conv = p("conv", conv2d(batch_norm(p, "bn", x, 4), weight, **attrs))
    mod = p.module(p("conv.bias", relax.op.add(conv, constant(random(1, 6, 1, 1)))))
    layers = ["nn.conv2d", "add"]
    assert operators(FOLD(mod)) == (layers if absorbed else layers * 2)
    assert folded(FOLD(mod))["bn"].endswith("folded into conv") == absorbed
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


def test_in_front_of_two_convolutions_it_stays() -> None:
    p, x = program()
    normal = batch_norm(p, "bn", x, 4)
    mod = p.module(*(p(name, conv2d(normal, W)) for name in ("left", "right")))
    assert operators(FOLD(mod)) == ["nn.conv2d", "add", "nn.conv2d", "nn.conv2d"]
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


@pytest.mark.parametrize("op", [relax.op.multiply, relax.op.divide])
@pytest.mark.parametrize("shape", [(), (1, 6, 1, 1)])
def test_a_factor_goes_into_the_layer_before(op: Any, shape: tuple[int, ...]) -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    bias = p("bias", relax.op.add(conv, constant(random(1, 6, 1, 1))))
    mod = p.module(p("scaled", op(bias, constant(random(*shape, seed=6)))))
    assert operators(FOLD(mod)) == ["nn.conv2d", "add"]
    assert folded(FOLD(mod)) == {"scaled": "constant factor folded into conv"}
    assert_same_numbers(FOLD, mod, random(2, 4, 8, 8))


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_factor_behind_a_product_of_three_axes(with_bias: bool) -> None:
    p, x = program(("N", 7, 4))
    y = p("dense", relax.op.matmul(x, constant(random(4, 6))))
    if with_bias:
        y = p("bias", relax.op.add(y, constant(random(6))))
    mod = p.module(p("scaled", relax.op.multiply(constant(random(6, seed=3)), y)))
    assert operators(FOLD(mod)) == ["matmul", "add"]
    assert_same_numbers(FOLD, mod, random(2, 7, 4))


@pytest.mark.parametrize(
    "factor", [random(8), random(1, 6, 8, 1), np.zeros((1, 6, 1, 1)), random(2, 6, 1, 1)]
)
def test_a_factor_that_is_not_one_a_channel_stays(factor: Any) -> None:
    op = relax.op.divide if not factor.any() else relax.op.multiply
    p, x = program((2, 4, 8, 8))
    conv = p("conv", conv2d(x, W, padding=1))
    assert_unchanged(FOLD, p.module(p("scaled", op(conv, constant(factor)))))


@pytest.mark.parametrize("weight", [random(8, 4, 6), random(4)])
def test_a_product_with_anything_but_a_matrix_stays(weight: Any) -> None:
    p, x = program((8, 5, 4))
    dense = p("dense", relax.op.matmul(x, constant(weight)))
    assert_unchanged(FOLD, p.module(p("scaled", relax.op.multiply(dense, constant(2)))))


def test_a_grouped_transposed_convolution_stays() -> None:
    p, x = program()
    layer = relax.op.nn.conv2d_transpose(x, constant(random(4, 3, 3, 3)), groups=2)
    mod = p.module(p("scaled", relax.op.multiply(p("layer", layer), constant(2))))
    assert_unchanged(FOLD, mod)


def test_a_number_divided_by_a_layer_stays() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    assert_unchanged(FOLD, p.module(p("inverse", relax.op.divide(constant(1), conv))))


def test_a_factor_behind_an_activation_stays() -> None:
    p, x = program()
    relu = p("relu", relax.op.clip(p("conv", conv2d(x, W)), 0.0, math.inf))
    assert_unchanged(FOLD, p.module(p("scaled", relax.op.multiply(relu, constant(2)))))


def test_a_batch_norm_without_finite_factors_is_refused() -> None:
    p, x = program(("N", 4, 5, 5))
    ones = constant(np.ones(4))
    spread = constant(np.full(4, -2 * EPSILON))
    statistics = relax.op.nn.batch_norm(x, ones, ones, ones, spread, axis=1, epsilon=EPSILON)
    y = p("bn", relax.TupleGetItem(p("bn.statistics", statistics), 0))
    with pytest.raises(ModelError, match="expected batch norm bn to have finite factors"):
        FOLD(p.module(y))


def test_a_factor_that_makes_a_weight_infinite_is_refused() -> None:
    p, x = program(("N", 4, 5, 5))
    y = p("y", relax.op.multiply(p("conv", conv2d(x, W)), constant(np.float32(3e38))))
    with pytest.raises(ModelError, match="finite weights after constant factors"):
        FOLD(p.module(y))
