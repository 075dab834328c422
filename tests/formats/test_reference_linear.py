from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.golden import naive
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import linear, reference

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
padding = st.tuples(*[st.integers(0, 2)] * 4)


def _arrays(seed: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    lo, hi, dtype = (0, 255, np.uint8) if seed % 2 else (-128, 127, np.int8)
    # The extremes are likely, so that sums come near their bounds.
    x = rng.choice(np.array([lo, hi, *range(lo, hi + 1)]), x_shape).astype(dtype)
    weight = rng.integers(-112, 113, w_shape).astype(np.int32)
    return x, weight, rng.integers(-(2**28), 2**28, w_shape[-1]).astype(np.int32)


@st.composite
def conv_cases(draw: st.DrawFn) -> tuple[Any, Any, Any, dict[str, Any]]:
    kernel, dilation = draw(pair), draw(pair)
    pads = draw(padding)
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        assume(size[axis] + pads[axis] + pads[axis + 2] >= reach)
    groups = draw(st.integers(1, 4))
    per_group = draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 3))
    x, weight, bias = _arrays(
        draw(st.integers(0, 2**16)),
        (draw(st.integers(1, 3)), *size, groups * per_group),
        (*kernel, per_group, outputs),
    )
    attributes = {
        "strides": draw(pair),
        "padding": pads,
        "dilation": dilation,
        "groups": groups,
    }
    return x, weight, bias, attributes


def assert_naive(name: str, x, weight, bias, attributes, block_bytes: int) -> None:
    expected = getattr(naive, name)(x, weight, bias, **attributes)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks take the paths that split rows and images.
        patch.setattr(linear, "BLOCK_BYTES", block_bytes)
        actual = getattr(reference, name)(x, weight, bias, **attributes)
    assert actual.dtype == np.int32
    assert np.array_equal(actual, expected)


@given(conv_cases(), st.sampled_from([1, 300, 1 << 20]))
def test_conv2d_is_the_naive_convolution(case, block_bytes) -> None:
    assert_naive("conv2d", *case, block_bytes)


@given(st.data(), pair, pair, padding, pair, st.sampled_from([1, 200, 1 << 20]))
def test_transposed_conv2d_is_the_naive_scatter(
    data, kernel, strides, pads, dilation, block_bytes
) -> None:
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    extra = data.draw(st.tuples(*(st.integers(0, stride - 1) for stride in strides)))
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1 + extra[axis]
        assume((size[axis] - 1) * strides[axis] + reach > pads[axis] + pads[axis + 2])
    inputs, outputs = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    x, weight, bias = _arrays(
        data.draw(st.integers(0, 2**16)), (2, *size, inputs), (*kernel, inputs, outputs)
    )
    attributes = {
        "strides": strides,
        "padding": pads,
        "output_padding": extra,
        "dilation": dilation,
    }
    assert_naive("conv2d_transpose", x, weight, bias, attributes, block_bytes)


@given(st.integers(0, 2**16), st.integers(1, 40), st.integers(1, 5))
def test_dense_is_the_naive_product(seed: int, inputs: int, outputs: int) -> None:
    x, weight, bias = _arrays(seed, (3, inputs), (inputs, outputs))
    actual = reference.dense(x, weight, bias)
    assert actual.dtype == np.int32
    assert np.array_equal(actual, naive.dense(x, weight, bias))
    stacked = reference.dense(x.reshape(1, 3, 1, inputs), weight, bias)
    assert np.array_equal(stacked.reshape(3, outputs), actual)


def test_sums_beyond_24_bits_stay_exact() -> None:
    # float32 would lose the last bits here: 2048 * 127 * 111 + 1 > 2^24.
    x = np.full((1, 2049), 127, dtype=np.int8)
    x[0, -1] = 1
    weight = np.full((2049, 1), 111, dtype=np.int32)
    weight[-1] = 1
    assert reference.dense(x, weight).tolist() == [[2048 * 127 * 111 + 1]]
    image, taps = x.reshape(1, 1, 1, -1), weight.reshape(1, 1, -1, 1)
    assert reference.conv2d(image, taps).item() == 2048 * 127 * 111 + 1
    assert reference.conv2d_transpose(image, taps).item() == 2048 * 127 * 111 + 1


def test_sums_of_unsigned_inputs_stay_exact() -> None:
    # Beyond 2^24, as 590 products with 255 are and with 128 are not, float32 loses the last bit.
    x = np.full((1, 591), 255, dtype=np.uint8)
    x[0, -1] = 1
    weight = np.full((591, 1), 112, dtype=np.int32)
    weight[-1] = 1
    assert reference.dense(x, weight).tolist() == [[590 * 255 * 112 + 1]]
    with pytest.raises(RangeError, match="dense can reach 2284800000"):
        reference.dense(np.zeros((1, 80_000), np.uint8), np.full((80_000, 1), 112, dtype=np.int32))


def test_a_possible_overflow_is_refused() -> None:
    x = np.zeros((1, 200_000), dtype=np.int8)
    weight = np.full((200_000, 1), 112, dtype=np.int32)
    with pytest.raises(RangeError, match="dense can reach 2867200000"):
        reference.dense(x, weight)
    with pytest.raises(RangeError, match="must fit int32"):
        reference.dense(x[:, :1], weight[:1], np.array([2**31 - 1], dtype=np.int32))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "groups", "message"),
    [
        (np.float32, (3, 3, 2, 2), (2,), 1, "conv2d needs int8 or uint8, not float32"),
        (np.int8, (3, 3, 3, 2), (2,), 1, r"needs maps \[N, H, W, 3\]"),
        (np.int8, (3, 3, 1, 3), (3,), 2, "divisible by 2 groups, not 3"),
        (np.int8, (3, 3, 2, 2), (3,), 1, r"bias \[2\], not \[3\]"),
        (np.int8, (5, 3, 2, 2), (2,), 1, "does not fit into 4"),
    ],
)
def test_conv2d_refuses(x, weight, bias, groups, message) -> None:
    with pytest.raises(InputError, match=message):
        reference.conv2d(
            np.zeros((1, 4, 4, 2), dtype=x),
            np.ones(weight, dtype=np.int32),
            np.ones(bias, dtype=np.int32),
            groups=groups,
        )


def test_dense_and_transposed_conv2d_refuse_shapes() -> None:
    with pytest.raises(InputError, match="dense needs an input"):
        reference.dense(np.zeros((2, 3), dtype=np.int8), np.ones((4, 2), dtype=np.int32))
    with pytest.raises(InputError, match="conv2d_transpose needs maps"):
        reference.conv2d_transpose(
            np.zeros((1, 4, 4, 2), dtype=np.int8), np.ones((2, 2, 3, 1), dtype=np.int32)
        )


@given(conv_cases())
def test_float_conv2d_matches_the_integers(case) -> None:
    x, weight, bias, attributes = case
    expected = naive.conv2d(x, weight, bias, **attributes)
    actual = linear.conv2d(
        x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64), **attributes
    )
    assert actual.dtype == np.float64
    assert np.array_equal(actual, expected)


@given(st.integers(0, 2**16), st.integers(1, 3))
def test_grouped_float_transpose_is_one_transpose_a_group(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 9, (2, 3, 4, 2 * groups)).astype(np.float32)
    weight = rng.integers(-9, 9, (3, 2, 2 * groups, 3)).astype(np.float32)
    attributes: dict[str, Any] = {"strides": (2, 1), "padding": (1, 0, 0, 1)}
    whole = linear.conv2d_transpose(x, weight, groups=groups, **attributes)
    parts = [
        linear.conv2d_transpose(x[..., own], weight[:, :, own], **attributes)
        for own in (slice(2 * g, 2 * g + 2) for g in range(groups))
    ]
    assert np.array_equal(whole, np.concatenate(parts, axis=-1))


def test_blocks_cover_everything_once_and_stay_small() -> None:
    for images, rows, row_bytes, limit in ((7, 5, 10, 120), (3, 9, 50, 120), (2, 3, 500, 120)):
        seen = np.zeros((images, rows), dtype=int)
        for n0, n1, y0, y1 in linear._blocks(images, rows, row_bytes, limit):
            seen[n0:n1, y0:y1] += 1
            assert (n1 - n0) * (y1 - y0) * row_bytes <= max(limit, row_bytes)
        assert np.all(seen == 1)
