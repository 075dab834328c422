"""Adder layers and the scale behind them: the definition, folded weights, and the proofs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.golden import naive
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import adder, codes, distance, ranges, reference

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


def int8(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    # The extremes are likely, so that sums come near their bounds.
    return rng.choice(np.array([-128, 127, *range(-128, 128)]), shape).astype(np.int8)


@given(st.data(), pair, pair, st.tuples(*[st.integers(0, 2)] * 4), st.sampled_from([8, 1 << 16]))
def test_adder_conv2d_is_the_definition(data: Any, kernel, strides, pads, block) -> None:
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    assume(all(size[a] + pads[a] + pads[a + 2] >= kernel[a] for a in (0, 1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    channels, outputs = data.draw(pair)
    x = int8(rng, (2, *size, channels))
    weight = int8(rng, (*kernel, channels, outputs))
    bias = rng.integers(-(2**28), 2**28, outputs).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance, "BLOCK_ELEMENTS", block)
        actual = reference.adder_conv2d(x, weight, bias, strides=strides, padding=pads)
    expected = naive.adder_conv2d(x, weight, bias, strides=strides, padding=pads)
    assert actual.dtype == np.int32
    assert np.array_equal(actual, expected)


@given(st.integers(0, 2**16), st.integers(1, 5), st.sampled_from([1, 7, 128, 300]))
def test_adder_dense_is_the_definition_also_where_16_bits_are_full(seed, rows, inputs) -> None:
    rng = np.random.default_rng(seed)
    x, weight = int8(rng, (rows, inputs)), int8(rng, (inputs, 3))
    x[0], weight[:, 0] = -128, 127
    bias = np.array([1, -2, 3], dtype=np.int32)
    actual = reference.adder_dense(x, weight, bias)
    assert np.array_equal(actual, naive.adder_dense(x, weight, bias))
    assert actual[0, 0] == 1 - 255 * inputs


@given(st.integers(0, 2**16), st.integers(1, 5))
def test_folded_weights_measure_the_same_distances(seed: int, inputs: int) -> None:
    rng = np.random.default_rng(seed)
    x, real = int8(rng, (6, inputs)), rng.integers(-1000, 1000, (inputs, 4))
    x[0] = 0  # what padding is
    weight, offset = adder.fold_weight(real)
    made = reference.adder_dense(x, weight, offset.astype(np.int32))
    assert np.array_equal(made, -np.abs(x[:, :, None].astype(int) - real).sum(axis=1))


def test_float_distances_are_the_definition() -> None:
    rng = np.random.default_rng(5)
    x, weight = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(3, 2, 3, 4))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    made = distance.conv2d(x, weight, strides=(2, 1), padding=(1, 0, 2, 1))
    padded = np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    for n, y, col, o in np.ndindex(made.shape):
        window = padded[n, 2 * y : 2 * y + 3, col : col + 2].astype(float)
        assert made[n, y, col, o] == pytest.approx(np.abs(window - weight[..., o]).sum(), rel=1e-5)


def test_unusable_operands_are_refused() -> None:
    x, weight = np.zeros((1, 3, 3, 2), np.int8), np.zeros((3, 3, 2, 4), np.int8)
    with pytest.raises(InputError, match="fold the weight first"):
        reference.adder_conv2d(x, weight.astype(np.int32))
    with pytest.raises(InputError, match="it has no groups"):
        reference.adder_conv2d(x, weight[:, :, :1])
    with pytest.raises(InputError, match=r"a bias int32 \[4\]"):
        reference.adder_conv2d(x, weight, np.zeros(2, np.int32))
    with pytest.raises(RangeError, match="must fit int32"):
        reference.adder_conv2d(x, weight, np.full(4, 2**31 - 1, np.int32))
    with pytest.raises(InputError, match="flatten the input"):
        reference.adder_dense(x[..., :1], weight[0, 0])
    with pytest.raises(InputError, match="quantise both or neither"):
        distance.conv2d(x.astype(np.float64), weight)


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(-(2**20), 2**20))
def test_adder_proof_bounds_are_attained(seed: int, inputs: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = int8(rng, (inputs, 3)), np.full(3, offset, np.int32)
    lo, hi = ranges.prove_adder("a", weight, bias)
    far = np.where(weight < 0, 127, -128).astype(np.int8)
    for channel in range(3):
        assert reference.adder_dense(far[:, channel], weight, bias)[channel] == lo[channel]
        near = reference.adder_dense(weight[:, channel].copy(), weight, bias)
        assert near[channel] == hi[channel]


def test_adder_proof_does_not_count_on_the_bias_coming_first() -> None:
    weight = np.full((8_421_505, 1), -128, np.int8)  # 255 * R is just beyond 2^31 - 1
    ranges.prove_adder("fits", weight[1:], np.zeros(1, np.int32))
    with pytest.raises(RangeError, match="last: channel 0"):
        ranges.prove_adder("last", weight, np.array([9], np.int32))


@given(st.data(), st.integers(1, 3))
def test_scale_is_a_product_and_its_proof_is_sound(data: st.DataObject, terms: int) -> None:
    value = data.draw(st.sampled_from(codes.representable(terms).tolist()))
    ends = sorted(data.draw(st.tuples(*[st.integers(-(2**30), 2**30)] * 2)))
    plain = codes.encode(np.array([value]), terms)
    lo, hi = np.array(ends[:1]), np.array(ends[1:])
    reach = max(map(abs, ends)) * sum(abs(int(v)) for v in codes.DECODE_TABLE[plain[:, 0]])
    if reach >= 2**31:
        with pytest.raises(RangeError, match="bn: channel 0"):
            ranges.prove_scale("bn", lo, hi, plain)
        return
    low, high = ranges.prove_scale("bn", lo, hi, plain)
    made = [int(reference.scale(np.array([end], np.int32), plain)[0]) for end in ends]
    assert made == [value * end for end in ends]
    assert [int(low[0]), int(high[0])] == sorted(made)


def test_scale_refuses_what_leaves_int32() -> None:
    acc = np.array([2**26], np.int32)
    with pytest.raises(RangeError, match="prove_scale"):
        reference.scale(acc, np.array([[7], [6], [5]], np.uint8))
    with pytest.raises(InputError, match="minus zero"):
        reference.scale(acc, np.array([[8]], np.uint8))
