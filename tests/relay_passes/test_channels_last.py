"""Feature maps become NHWC, with transpositions only where an operator asks for NCHW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from relay_passes.channels_last import ChannelsLast
from tests.relay_passes.programs import (
    Program,
    assert_becomes,
    assert_same_numbers,
    assert_unchanged,
    constant,
    conv2d,
    conv2d_last,
    operators,
    program,
    random,
)
from tvm_shiftadd._compat import relax

LAST = ChannelsLast()
W = random(6, 4, 3, 3)
IMAGES = random(2, 4, 8, 8)


def between(build: Callable[[Any], Any]) -> Any:
    """conv, the operator under test, conv."""
    p, x = program()
    y = p("op", build(p("first", conv2d(x, W, padding=1))))
    weight = random(3, int(y.ty.shape[1]), 1, 1)
    return p.module(p("second", conv2d(y, weight)))


def test_a_network_with_a_shortcut() -> None:
    p, x = program()
    first = p("first", conv2d(x, W, strides=2, padding=(0, 1, 1, 2)))
    bias = p("bias", relax.op.add(first, constant(random(1, 6, 1, 1))))
    deep = p("deep", conv2d(bias, random(6, 1, 3, 3), groups=6, padding=2, dilation=2))
    total = p("total", relax.op.add(deep, bias))
    before = p.module(p("relu", relax.op.clip(total, 0.0, math.inf)))
    q, x = program()
    x = q("x.nhwc", relax.op.permute_dims(x, [0, 2, 3, 1]))
    first = q("first", conv2d_last(x, W, strides=2, padding=(0, 1, 1, 2)))
    bias = q("bias", relax.op.add(first, constant(random(6))))
    deep = q("deep", conv2d_last(bias, random(6, 1, 3, 3), groups=6, padding=2, dilation=2))
    relu = q("relu", relax.op.clip(q("total", relax.op.add(deep, bias)), 0.0, math.inf))
    expected = q.module(q("relu.nchw", relax.op.permute_dims(relu, [0, 3, 1, 2])))
    assert_becomes(LAST, before, expected)
    assert_same_numbers(LAST, before, IMAGES)


def pool(kind: Any, **attrs: Any) -> Callable[[Any], Any]:
    return lambda x: kind(x, (3, 2), strides=(2, 1), padding=(1, 0, 1, 1), ceil_mode=True, **attrs)


def instance_norm(x: Any) -> Any:
    scale, offset = constant(random(6, seed=2)), constant(random(6, seed=3))
    return relax.op.nn.instance_norm(x, scale, offset, channel_axis=1, axes=[2, 3], epsilon=0.02)


def transposed(x: Any) -> Any:
    weight = constant(random(6, 4, 3, 3))
    return relax.op.nn.conv2d_transpose(
        x, weight, strides=(2, 3), padding=(1, 0, 0, 1), output_padding=(1, 2)
    )


def resize(method: str, **attrs: Any) -> Callable[[Any], Any]:
    return lambda x: relax.op.image.resize2d(x, (16, 24), method=method, **attrs)


FOLLOWING = {
    "max_pool2d": pool(relax.op.nn.max_pool2d),
    "avg_pool2d": pool(relax.op.nn.avg_pool2d, count_include_pad=True),
    "avg_pool2d without": pool(relax.op.nn.avg_pool2d, count_include_pad=False),
    "instance_norm": instance_norm,
    "conv2d_transpose": transposed,
    "sigmoid": relax.op.sigmoid,
    "leakyrelu": lambda x: relax.op.nn.leakyrelu(x, 0.2),
    "softmax": lambda x: relax.op.nn.softmax(x, axis=1),
    "softmax over rows": lambda x: relax.op.nn.log_softmax(x, axis=-2),
    "mean": lambda x: relax.op.mean(x, axis=[2, 3], keepdims=True),
    "mean of channels": lambda x: relax.op.mean(x, axis=[-3], keepdims=True),
    "variance": lambda x: relax.op.variance(x, axis=[2], keepdims=True),
    "max": lambda x: relax.op.max(x, axis=[2, 3], keepdims=True),
    "min": lambda x: relax.op.min(x, axis=[3], keepdims=True),
    "concat": lambda x: relax.op.concat([x, x], axis=1),
    "concat rows": lambda x: relax.op.concat([x, x], axis=-2),
    "pad": lambda x: relax.op.nn.pad(x, [0, 0, 1, 2, 3, 0, 0, 4]),
    "pad reflect": lambda x: relax.op.nn.pad(x, [0, 0, 0, 0, 2, 1, 1, 2], pad_mode="reflect"),
    "slice": lambda x: relax.op.strided_slice(x, [1, 2], [1, 0], [5, 8], [2, 3]),
    "resize": resize("nearest_neighbor"),
    "resize linear": resize("linear", coordinate_transformation_mode="asymmetric"),
    "resize cubic": resize("cubic", cubic_alpha=-0.5),
    "scalar": lambda x: relax.op.multiply(constant(2.0), x),
    "row": lambda x: relax.op.multiply(x, constant(random(8))),
    "channel": lambda x: relax.op.subtract(constant(random(6, 1, 1)), x),
    "map": lambda x: relax.op.add(x, constant(random(1, 6, 8, 8))),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_an_operator_takes_the_layout_it_is_given(name: str) -> None:
    mod = between(FOLLOWING[name])
    after = LAST(mod)
    assert operators(after).count("permute_dims") == 2  # of the network's input and its result
    if name != "conv2d_transpose":  # which TVM cannot compile in NHWC; a region always takes it
        assert_same_numbers(LAST, mod, IMAGES)


def test_a_choice_by_a_condition_takes_the_layout_it_is_given() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    large = p("large", relax.op.greater(conv, constant(random(6, 1, 1))))
    mod = p.module(p("chosen", relax.op.where(large, conv, constant(0.0))))
    assert operators(LAST(mod)).count("permute_dims") == 2
    assert_same_numbers(LAST, mod, IMAGES)


STAYING = {
    "flip": lambda x: relax.op.flip(x, axis=1),
    "grouped transposed": lambda x: relax.op.nn.conv2d_transpose(
        x, constant(random(6, 2, 3, 3)), groups=2
    ),
}


@pytest.mark.parametrize("name", STAYING)
def test_an_operator_without_a_rule_is_handed_channels_first(name: str) -> None:
    mod = between(STAYING[name])
    after = LAST(mod)
    assert operators(after).count("permute_dims") == 4
    assert_same_numbers(LAST, mod, IMAGES)


def test_a_joined_constant_keeps_channels_first() -> None:
    p, x = program((2, 4, 8, 8))
    conv = p("conv", conv2d(x, W, padding=1))
    mod = p.module(p("joined", relax.op.concat([conv, constant(random(2, 2, 8, 8))], axis=1)))
    assert_same_numbers(LAST, mod, IMAGES)


def test_one_pixel_flattens_without_a_transposition() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    mean = p("mean", relax.op.mean(conv, axis=[2, 3], keepdims=True))
    flat = p("flat", relax.op.reshape(mean, (x.ty.shape[0], 6)))
    mod = p.module(p("dense", relax.op.matmul(flat, constant(random(6, 5)))))
    found = operators(LAST(mod))
    assert found == ["permute_dims", "nn.conv2d", "mean", "reshape", "matmul"]
    assert_same_numbers(LAST, mod, IMAGES)


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [[2, 3], [1], [1, 3], [2]])
def test_reductions_that_drop_axes(axes: list[int], keepdims: bool) -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    mod = p.module(p("sum", relax.op.sum(conv, axis=axes, keepdims=keepdims)))
    assert_same_numbers(LAST, mod, IMAGES)


def test_flattening_a_map_transposes_first() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    mod = p.module(p("flat", relax.op.reshape(conv, (x.ty.shape[0], 216))))
    assert operators(LAST(mod)) == ["permute_dims", "nn.conv2d", "permute_dims", "reshape"]
    assert_same_numbers(LAST, mod, IMAGES)


def test_a_transposition_of_the_model_is_joined_with_ours() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W))
    before = p.module(p("turned", relax.op.permute_dims(conv, [0, 2, 3, 1])))
    q, x = program()
    x = q("x.nhwc", relax.op.permute_dims(x, [0, 2, 3, 1]))
    conv = q("conv", conv2d_last(x, W))
    expected = q.module(q("turned", relax.op.permute_dims(conv, [0, 1, 2, 3])))
    assert_becomes(LAST, before, expected)


def test_tuples_carry_maps_as_they_are() -> None:
    p, x = program()
    conv = p("conv", conv2d(x, W, padding=1))
    pair = p("pair", relax.Tuple([conv, conv]))
    joined = p("joined", relax.op.concat(pair, axis=1))
    mod = p.module(p("last", conv2d(joined, random(3, 12, 1, 1))))
    assert operators(LAST(mod)).count("permute_dims") == 2
    assert_same_numbers(LAST, mod, IMAGES)


def test_a_map_read_twice_is_transposed_once() -> None:
    p, x = program()
    mod = p.module(*(p(name, conv2d(x, W)) for name in ("left", "right")))
    assert operators(LAST(mod)).count("permute_dims") == 3
    assert_same_numbers(LAST, mod, IMAGES)


def test_weights_that_are_data_stay_channels_first() -> None:
    p = Program(x=("N", 4, 8, 8), w=(6, 4, 3, 3))
    assert_unchanged(LAST, p.module(p("conv", relax.op.nn.conv2d(*p.inputs))))


def test_networks_without_maps_stay() -> None:
    p, x = program(("N", 4))
    dense = p("dense", relax.op.matmul(x, constant(random(4, 6))))
    assert_unchanged(LAST, p.module(p("bias", relax.op.add(dense, constant(np.ones(6))))))
