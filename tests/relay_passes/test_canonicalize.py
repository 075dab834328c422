"""One spelling for each layer, bias, clip, pooling and reshape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from relay_passes.canonicalize import Canonicalize
from tests.relay_passes.programs import (
    Program,
    assert_becomes,
    assert_same_numbers,
    assert_unchanged,
    constant,
    conv2d,
    program,
    random,
)
from tvm_shiftadd._compat import relax

W = random(6, 4, 3, 3)
BIAS = random(6, seed=1)
CANONICAL = Canonicalize()


def one(build: Callable[[Any], Any], shape: tuple[Any, ...] = ("N", 4, 8, 8)) -> Any:
    """A program with the one operator ``y``."""
    p, x = program(shape)
    return p.module(p("y", build(x)))


@pytest.mark.parametrize(
    ("build", "bounds"),
    [
        (relax.op.nn.relu, (0.0, math.inf)),
        (lambda x: relax.op.minimum(x, constant(2)), (-math.inf, 2.0)),
        (lambda x: relax.op.minimum(constant([2]), x), (-math.inf, 2.0)),
        (lambda x: relax.op.maximum(x, constant([[[[-1]]]])), (-1.0, math.inf)),
    ],
)
def test_activations_are_clips(build: Callable[[Any], Any], bounds: tuple[float, float]) -> None:
    assert_becomes(CANONICAL, one(build), one(lambda x: relax.op.clip(x, *bounds)))


def test_clips_in_a_row_are_one_in_their_order() -> None:
    p, x = program()
    low = p("low", relax.op.maximum(x, constant(3)))
    before = p.module(p("high", relax.op.minimum(low, constant(1))))
    q, x = program()
    # max(x, 3) is at least 3, so that min(., 1) is 1 everywhere.
    assert_becomes(CANONICAL, before, q.module(q("high", relax.op.clip(x, 1.0, 1.0))))


def test_a_clip_that_is_read_twice_stays() -> None:
    p, x = program()
    first = p("first", relax.op.clip(x, 0.0, 4.0))
    assert_unchanged(CANONICAL, p.module(p("second", relax.op.clip(first, 1.0, 2.0)), first))


def test_a_clip_without_bounds_is_nothing() -> None:
    p, x = program()
    open_ = p("open", relax.op.clip(x, -math.inf, math.inf))
    before = p.module(p("y", relax.op.nn.relu(open_)))
    assert_becomes(CANONICAL, before, one(lambda x: relax.op.clip(x, 0.0, math.inf)))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: relax.op.minimum(x, constant(random(4, 1, 1))),
        lambda x: relax.op.maximum(x, constant(np.zeros((1, 1, 1, 1, 1)))),
        lambda x: relax.op.add(x, constant(random(8))),
        lambda x: relax.op.add(x, constant(random(1, 4, 8, 1))),
        lambda x: relax.op.mean(x, axis=[1]),
        lambda x: relax.op.mean(x, axis=[1, 2]),
        lambda x: relax.op.mean(x),
        lambda x: relax.op.nn.adaptive_avg_pool2d(x, (2, 2)),
        lambda x: relax.op.astype(x, "float16"),
        lambda x: relax.op.permute_dims(x, [0, 2, 1, 3]),
    ],
)
def test_what_has_no_other_spelling_stays(build: Callable[[Any], Any]) -> None:
    assert_unchanged(CANONICAL, one(build))


@pytest.mark.parametrize("op", [relax.op.nn.relu, lambda x: relax.op.add(x, constant(1, "int32"))])
def test_integers_of_the_host_stay(op: Callable[[Any], Any]) -> None:
    p = Program({"x": "int32"}, x=("N", 4))
    assert_unchanged(CANONICAL, p.module(p("y", op(p.inputs[0]))))


def test_a_bias_stands_right_with_one_value_a_channel() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    before = p.module(p("bias", relax.op.add(constant(0.5), conv)))
    q, x = program()
    conv = q("conv", conv2d(x, W))
    expected = q.module(q("bias", relax.op.add(conv, constant(np.full((1, 6, 1, 1), 0.5)))))
    assert_becomes(CANONICAL, before, expected)


def test_constants_behind_a_layer_are_one_bias() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    bias = p("bias", relax.op.add(conv, constant(BIAS.reshape(6, 1, 1))))
    before = p.module(p("less", relax.op.subtract(bias, constant(2))))
    q, x = program()
    conv = q("conv", conv2d(x, W))
    offset = (BIAS - np.float32(2)).reshape(1, 6, 1, 1)
    assert_becomes(CANONICAL, before, q.module(q("less", relax.op.add(conv, constant(offset)))))
    assert_same_numbers(CANONICAL, before, random(2, 4, 8, 8))


def test_a_bias_that_is_read_twice_is_not_merged() -> None:
    p, x = program()
    bias = p("bias", relax.op.add(p("conv", conv2d(x, W)), constant(BIAS.reshape(1, 6, 1, 1))))
    more = p("more", relax.op.add(bias, constant(np.ones((1, 6, 1, 1)))))
    assert_unchanged(CANONICAL, p.module(more, bias))


def test_constants_along_different_axes_are_not_added() -> None:
    p, x = program(("N", 8, 8, 8))
    rows = p("rows", relax.op.add(x, constant(random(8))))
    mod = p.module(p("channels", relax.op.add(rows, constant(random(1, 8, 1, 1)))))
    assert_unchanged(CANONICAL, mod)


def test_the_bias_of_a_product_is_along_its_last_axis() -> None:
    p, x = program(("N", 5, 4))
    dense = p("dense", relax.op.matmul(x, constant(random(4, 5))))
    bias = p("bias", relax.op.add(dense, constant(random(1, 1, 5))))
    before = p.module(p("more", relax.op.add(bias, constant(1))))
    q, x = program(("N", 5, 4))
    dense = q("dense", relax.op.matmul(x, constant(random(4, 5))))
    offset = random(5) + np.float32(1)
    assert_becomes(CANONICAL, before, q.module(q("more", relax.op.add(dense, constant(offset)))))


def test_a_constant_that_widens_the_result_is_no_bias() -> None:
    assert_unchanged(CANONICAL, one(lambda x: relax.op.add(x, constant(random(1, 5))), ("N", 1)))


@pytest.mark.parametrize(
    "build",
    [
        relax.op.flatten,
        lambda x: relax.op.squeeze(x, [2]),
        lambda x: relax.op.expand_dims(x, [1]),
    ],
)
def test_reshapes_have_one_name(build: Callable[[Any], Any]) -> None:
    shape = (2, 4, 1, 8)
    before = one(build, shape)
    target = [int(d) for d in before["main"].ret_ty.shape]
    assert_becomes(CANONICAL, before, one(lambda x: relax.op.reshape(x, target), shape))


def test_reshapes_in_a_row_are_one_and_back_again_none() -> None:
    p, x = program((2, 4, 6))
    a = p("a", relax.op.reshape(x, (2, 24)))
    b = p("b", relax.op.reshape(a, (2, 6, 4)))
    c = p("c", relax.op.reshape(b, (2, 4, 6)))
    before = p.module(b, p("y", relax.op.nn.relu(c)))
    q, x = program((2, 4, 6))
    b = q("b", relax.op.reshape(x, (2, 6, 4)))
    assert_becomes(CANONICAL, before, q.module(b, q("y", relax.op.clip(x, 0.0, math.inf))))


def test_a_reshape_between_two_unknown_dimensions_stays() -> None:
    p = Program(x=("N", "M", 4))
    (x,) = p.inputs
    n, m, _ = x.ty.shape
    assert_unchanged(CANONICAL, p.module(p("y", relax.op.reshape(x, (m, n, 4)))))


def test_constants_are_moved_at_compile_time() -> None:
    p, x = program(("N", 4))
    turned = p("turned", relax.op.permute_dims(constant(random(5, 4))))
    flat = p("flat", relax.op.reshape(constant(BIAS[:5].reshape(1, 5)), (5,)))
    dense = p("dense", relax.op.matmul(x, turned))
    before = p.module(p("bias", relax.op.add(dense, flat)))
    q, x = program(("N", 4))
    dense = q("dense", relax.op.matmul(x, constant(random(5, 4).T)))
    expected = q.module(q("bias", relax.op.add(dense, constant(BIAS[:5]))))
    assert_becomes(CANONICAL, before, expected)


def test_a_global_average_keeps_its_axes() -> None:
    p, x = program()
    before = p.module(p("mean", relax.op.mean(x, axis=[-1, -2])))
    q, x = program()
    kept = q("mean.mean", relax.op.mean(x, axis=[2, 3], keepdims=True))
    n = x.ty.shape[0]
    assert_becomes(CANONICAL, before, q.module(q("mean", relax.op.reshape(kept, (n, 4)))))
    adaptive = one(lambda x: relax.op.nn.adaptive_avg_pool2d(x, (1, 1)))
    expected = one(lambda x: relax.op.mean(x, axis=[2, 3], keepdims=True))
    assert_becomes(CANONICAL, adaptive, expected)


@pytest.mark.parametrize(
    ("sections", "second"), [(2, (3, 5)), ([1, 3], (1, 3)), (3, (2, 4)), (5, (1, 2))]
)
def test_a_split_is_slices(sections: Any, second: tuple[int, int]) -> None:
    p, x = program(("N", 5, 8, 8))
    parts = p("parts", relax.op.split(x, sections, axis=-3))
    before = p.module(p("second", relax.TupleGetItem(parts, 1)))
    begin, end = second
    q, x = program(("N", 5, 8, 8))
    part = q("second", relax.op.strided_slice(x, [1], [begin], [end]))
    assert_becomes(CANONICAL, before, q.module(part))
    assert_same_numbers(CANONICAL, before, random(2, 5, 8, 8))


def test_a_conversion_to_the_same_type_is_nothing() -> None:
    p, x = program()
    before = p.module(p("y", relax.op.nn.relu(p("same", relax.op.astype(x, "float32")))))
    assert_becomes(CANONICAL, before, one(lambda x: relax.op.clip(x, 0.0, math.inf)))
