from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.golden import naive
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import reference

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
activations = st.sampled_from([np.int8, np.uint8])


def maps(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return activations.flatmap(lambda dtype: hnp.arrays(dtype, shape))


@st.composite
def pool_cases(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    window: dict[str, Any] = {
        "pool_size": draw(pair),
        "strides": draw(pair),
        "padding": draw(st.tuples(*[st.integers(0, 2)] * 4)),
        "dilation": draw(pair),
        "ceil_mode": draw(st.booleans()),
    }
    shape = draw(st.tuples(*[st.integers(1, upper) for upper in (2, 7, 7, 3)]))
    for axis in (0, 1):
        reach = window["dilation"][axis] * (window["pool_size"][axis] - 1) + 1
        pads = window["padding"][axis] + window["padding"][axis + 2]
        assume(shape[1 + axis] + pads >= reach)
    return draw(hnp.arrays(draw(activations), shape)), window


@given(pool_cases())
def test_max_pool2d(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    x, window = case
    actual = reference.max_pool2d(x, **window)
    assert actual.dtype == x.dtype
    assert np.array_equal(actual, naive.max_pool2d(x, **window))


@given(pool_cases(), st.booleans())
def test_avg_pool2d_is_within_the_tolerance_of_the_mean(
    case: tuple[np.ndarray, dict[str, Any]], include: bool
) -> None:
    x, window = case
    sums, counts = naive.avg_pool_sums(x, count_include_pad=include, **window)
    scale = reference.avg_pool_reciprocal(x.shape[1:3], count_include_pad=include, **window)
    actual = reference.avg_pool2d(x, count_include_pad=include, **window)
    assert actual.dtype == np.int32
    assert actual.shape == sums.shape
    for n, y, column, channel in np.ndindex(sums.shape):
        got = Fraction(int(actual[n, y, column, channel]), 1 << scale.shift)
        mean = Fraction(int(sums[n, y, column, channel]), int(counts[y, column]))
        assert abs(got - mean) <= abs(mean) / 1024
        if counts[y, column] in (1, 2, 4, 8):
            assert got == mean


@pytest.mark.parametrize("side", [7, 14, 64, 85, 128])
def test_global_average_of_extremes_stays_in_int32(side: int) -> None:
    for value, dtype in ((-128, np.int8), (127, np.int8), (255, np.uint8)):
        x = np.full((1, side, side, 2), value, dtype=dtype)
        scale = reference.avg_pool_reciprocal((side, side), pool_size=(side, side))
        mean = reference.avg_pool2d(x, pool_size=(side, side)) / 2.0**scale.shift
        assert np.abs(mean - value).max() <= 0.25
        assert mean.shape == (1, 1, 1, 2)


@given(maps(2, 3, 2, 4), st.integers(-128, 0), st.integers(0, 127))
def test_clip(x: np.ndarray, lo: int, hi: int) -> None:
    lo = lo + 128 if x.dtype == np.uint8 else lo
    hi = max(lo, hi)
    actual = reference.clip(x, lo, hi)
    assert actual.dtype == x.dtype
    assert actual.reshape(-1).tolist() == [max(lo, min(hi, int(v))) for v in x.reshape(-1)]


@given(maps(2, 3, 2, 4), pair)
def test_upsample2d(x: np.ndarray, scale: tuple[int, int]) -> None:
    actual = reference.upsample2d(x, scale)
    assert actual.dtype == x.dtype
    assert np.array_equal(actual, naive.upsample2d(x, scale))


@given(maps(2, 3, 2, 1), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_pad(x: np.ndarray, width: list[int]) -> None:
    actual = reference.pad(x, width)
    assert actual.dtype == x.dtype
    assert np.array_equal(actual, naive.pad(x, width))


def test_concat_keeps_order_and_type() -> None:
    parts = [np.full((1, 2, 2, n), n, dtype=np.int8) for n in (1, 2)]
    joined = reference.concat(parts, axis=3)
    assert joined.dtype == np.int8
    assert joined[0, 0, 0].tolist() == [1, 2, 2]
    with pytest.raises(InputError, match="concat needs int8, not uint8"):
        reference.concat([parts[0], parts[1].astype(np.uint8)], axis=3)


def test_clip_refuses_bounds_beyond_the_type() -> None:
    with pytest.raises(InputError, match="bounds within uint8"):
        reference.clip(np.zeros(1, np.uint8), -1, 3)


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d"])
def test_pooling_refuses_other_types(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} needs int8 or uint8 maps"):
        getattr(reference, name)(np.zeros((1, 2, 2, 1), dtype=np.int32), pool_size=(2, 2))
    with pytest.raises(InputError, match=f"{name} needs int8 or uint8 maps"):
        getattr(reference, name)(np.zeros((2, 2), dtype=np.int8), pool_size=(2, 2))


def test_layout_operators_refuse_other_types() -> None:
    wide = np.zeros((1, 2, 2, 1), dtype=np.int32)
    for call in (
        lambda: reference.clip(wide, 0, 1),
        lambda: reference.concat([wide], 3),
        lambda: reference.pad(wide, [0] * 8),
        lambda: reference.upsample2d(wide, (2, 2)),
    ):
        with pytest.raises(InputError, match="needs int8 or uint8, not int32"):
            call()
