from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import codes, ranges
from tvm_shiftadd.formats.reciprocal import reciprocal

weights = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 6), st.integers(1, 4)),
    elements=st.integers(-112, 112),
)
input_range = st.tuples(st.integers(-128, 0), st.integers(0, 127))


@given(weights, input_range, st.data())
def test_bounds_are_attained_and_never_exceeded(
    weight: np.ndarray, span: tuple[int, int], data: st.DataObject
) -> None:
    bias = data.draw(hnp.arrays(np.int32, weight.shape[1:], elements=st.integers(-(2**20), 2**20)))
    lo, hi = ranges.accumulator_bounds(weight, bias, *span)
    for channel in range(weight.shape[1]):
        column = weight[:, channel]
        least = np.where(column > 0, span[0], span[1])
        most = np.where(column > 0, span[1], span[0])
        assert lo[channel] == int(least @ column) + bias[channel]
        assert hi[channel] == int(most @ column) + bias[channel]
    x = data.draw(hnp.arrays(np.int64, weight.shape[:1], elements=st.integers(*span)))
    acc = x @ weight + bias
    assert np.all(lo <= acc)
    assert np.all(acc <= hi)


def test_bounds_of_large_layers_do_not_wrap() -> None:
    weight = np.full((200_000, 1), 112, dtype=np.int32)
    lo, hi = ranges.accumulator_bounds(weight, np.zeros(1, dtype=np.int32))
    assert (lo[0], hi[0]) == (-128 * 112 * 200_000, 127 * 112 * 200_000)
    with pytest.raises(RangeError, match=r"fc: channel 0 can reach .* must fit int32"):
        ranges.prove_int32("fc", lo, hi)


@pytest.mark.parametrize(
    ("weight", "bias", "span"),
    [((3,), (3,), (-1, 1)), ((3, 2), (3,), (-1, 1)), ((3, 2), (2,), (1, 2))],
)
def test_bounds_refuse(weight: tuple[int], bias: tuple[int], span: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        ranges.accumulator_bounds(np.ones(weight, dtype=int), np.ones(bias, dtype=int), *span)


def test_int32_limits_are_exact() -> None:
    low, high = np.array([-(2**31)]), np.array([2**31 - 1])
    assert ranges.prove_int32("a", low, high) == (low, high)
    with pytest.raises(RangeError, match="conv7: channel 1"):
        ranges.prove_int32("conv7", np.array([0, 0]), np.array([1, 2**31]))
    with pytest.raises(RangeError, match="channel 0"):
        ranges.prove_int32("conv7", np.array([-(2**31) - 1]), np.array([0]))


@given(st.data(), st.sampled_from([1, 90_000, 130_000, 150_000, 180_000, 263_000]))
def test_layer_proof_covers_every_order_of_the_terms(data: st.DataObject, reduction: int) -> None:
    terms = data.draw(st.integers(1, 3))
    value = data.draw(st.sampled_from(codes.representable(terms).tolist()))
    offset = data.draw(st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 9))
    one = codes.encode(np.array([[value]]), terms)
    plain, bias = one.repeat(reduction, axis=1), np.array([offset], dtype=np.int32)
    parts = codes.DECODE_TABLE[one].reshape(-1).astype(int) * reduction
    positive, negative = int(parts[parts > 0].sum()), int(parts[parts < 0].sum())
    # The furthest any partial sum gets, with the bias first or last.
    least = negative * 127 - positive * 128 + min(offset, 0)
    most = positive * 127 - negative * 128 + max(offset, 0)
    if least >= -(2**31) and most < 2**31:
        lo, hi = ranges.prove_layer("a", plain, bias)
        expected = ranges.accumulator_bounds(codes.decode(plain), bias)
        assert (lo[0], hi[0]) == (expected[0][0], expected[1][0])
    else:
        with pytest.raises(RangeError, match="a: channel 0"):
            ranges.prove_layer("a", plain, bias)


def test_layer_proof_counts_terms_that_cancel() -> None:
    # 64 - 32 a weight: the decoded weights fit int32, the separately added terms do not.
    plain = np.array([7, 14], dtype=np.uint8)[:, None, None].repeat(180_000, axis=1)
    bias = np.zeros(1, dtype=np.int32)
    ranges.prove_int32("fits", *ranges.accumulator_bounds(codes.decode(plain), bias))
    with pytest.raises(RangeError, match="wide"):
        ranges.prove_layer("wide", plain, bias)
    with pytest.raises(RangeError, match="wide"):
        ranges.prove_layer("wide", plain[:, :1], np.array([2**31 - 1], dtype=np.int32))


@pytest.mark.parametrize(("code", "offset"), [(7, 9_000_000), (15, -9_000_000)])
def test_layer_proof_does_not_count_on_the_bias_coming_first(code: int, offset: int) -> None:
    # The terms alone reach -+2154496000; the bias would bring that back into int32.
    plain = np.full((1, 263_000, 1), code, dtype=np.uint8)
    bias = np.array([offset], dtype=np.int32)
    ranges.prove_int32("last", *ranges.accumulator_bounds(codes.decode(plain), bias))
    with pytest.raises(RangeError, match="last"):
        ranges.prove_layer("last", plain, bias)


def test_requantise_proof_covers_the_rounding_addend() -> None:
    top = 2**31 - 1
    zero, shift = np.array([0]), np.array([4])
    ranges.prove_requantize("round", zero, np.array([top - 8]), shift)
    with pytest.raises(RangeError, match="round"):
        ranges.prove_requantize("round", zero, np.array([top - 7]), shift)
    low, high = ranges.prove_requantize("round", np.array([-24]), np.array([24]), shift)
    assert (low[0], high[0]) == (-1, 2)


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(-33, 33),
    st.tuples(st.integers(-128, 0), st.integers(0, 127)),
)
def test_requantise_proof_is_sound_and_tight(
    start: int, length: int, shift: int, clip: tuple[int, int]
) -> None:
    lo, hi = start, min(start + length, 2**31 - 1)
    half = 2 ** (shift - 1) if shift > 0 else 0
    left = max(-shift, 0)
    fits = abs(shift) <= 31 and hi + half < 2**31 and lo << left >= -(2**31) and hi << left < 2**31
    arguments = ("relu3", np.array([lo]), np.array([hi]), np.array([shift]), *clip)
    if not fits:
        with pytest.raises(RangeError, match="relu3"):
            ranges.prove_requantize(*arguments)
        return
    low, high = ranges.prove_requantize(*arguments)

    def exact(acc: int) -> int:
        value = (acc + half) >> shift if shift >= 0 else acc << -shift
        return max(clip[0], min(clip[1], value))

    assert (int(low[0]), int(high[0])) == (exact(lo), exact(hi))


@given(st.data())
def test_add_proof(data: st.DataObject) -> None:
    def pair() -> tuple[int, int]:
        ends = sorted(data.draw(st.tuples(*[st.integers(-(2**29), 2**29)] * 2)))
        return ends[0], ends[1]

    (a, b), (c, d) = pair(), pair()
    left, right = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    ends = [a << left, b << left, c << right, d << right]
    total = ((a << left) + (c << right), (b << left) + (d << right))
    arguments = (
        (np.array([a]), np.array([b])),
        (np.array([c]), np.array([d])),
        np.array([left]),
        np.array([right]),
    )
    if all(-(2**31) <= value < 2**31 for value in (*ends, *total)):
        low, high = ranges.prove_add("sum", *arguments)
        assert (int(low[0]), int(high[0])) == total
    else:
        with pytest.raises(RangeError, match="sum"):
            ranges.prove_add("sum", *arguments)


@pytest.mark.parametrize("shift", [-1, 32])
def test_add_proof_refuses_shifts(shift: int) -> None:
    one = (np.array([0]), np.array([1]))
    with pytest.raises(RangeError, match="alignment shift"):
        ranges.prove_add("sum", one, one, np.array([0]), np.array([shift]))


def test_average_pooling_bounds() -> None:
    scale = reciprocal([4, 6, 9])
    lo, hi = ranges.avg_pool_bounds(scale)
    largest = max(scale.value(count) * count for count in (4, 6, 9)) * 2**scale.shift
    assert (lo[0], hi[0]) == (-128 * largest, 127 * largest)
    lo, hi = ranges.avg_pool_bounds(scale, *ranges.activation_range(np.uint8))
    assert (lo[0], hi[0]) == (0, 255 * largest)


def test_ranges_of_activations() -> None:
    assert ranges.activation_range(np.int8) == (-128, 127)
    assert ranges.activation_range("uint8") == (0, 255)
    with pytest.raises(InputError, match="int8 or uint8, not int32"):
        ranges.activation_range(np.int32)
