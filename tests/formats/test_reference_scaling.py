from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.golden import naive
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import reference

int32s = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 5), st.just(3)),
    elements=st.integers(-(2**31), 2**31 - 1) | st.integers(-300, 300),
)


@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32)),
    st.integers(-64, 64),
    st.sampled_from(["int8", "uint8"]),
)
def test_quantize_is_exact_for_every_float32(x: np.ndarray, exponent: int, dtype: str) -> None:
    actual = reference.quantize(x, exponent, dtype)
    assert actual.dtype == dtype
    assert np.array_equal(actual, naive.quantize(x, exponent, dtype))


def test_quantize_rounds_ties_to_even_and_saturates() -> None:
    x = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 63.5, 70, -64, -70, np.nan], dtype=np.float32)
    assert reference.quantize(x, 1).tolist() == [0, 2, 2, 0, -2, 127, 127, -128, -128, 0]
    high = np.array([127.25, 127.75, 140, -0.25, -3, np.nan], dtype=np.float32)
    assert reference.quantize(high, 1, np.uint8).tolist() == [254, 255, 255, 0, 0, 0]


@given(int32s, st.lists(st.integers(-64, 64), min_size=3, max_size=3))
def test_dequantize_rounds_once(x: np.ndarray, exponent: list[int]) -> None:
    actual = reference.dequantize(x, np.array(exponent, dtype=np.int32))
    assert actual.dtype == np.float32
    assert np.array_equal(actual, naive.dequantize(x, exponent))


@given(
    st.integers(-64, 64),
    st.sampled_from([np.int8, np.uint8]).flatmap(lambda t: hnp.arrays(t, st.integers(1, 9))),
)
def test_activations_survive_dequantize_and_quantize(exponent: int, x: np.ndarray) -> None:
    back = reference.quantize(reference.dequantize(x, np.array([exponent])), exponent, x.dtype)
    assert back.dtype == x.dtype
    assert np.array_equal(back, x)


@given(
    int32s,
    st.lists(st.integers(-31, 31), min_size=3, max_size=3),
    st.integers(-128, 0),
    st.integers(0, 127),
)
def test_requantize_is_exact_rational_rounding(
    acc: np.ndarray, shift: list[int], lo: int, hi: int
) -> None:
    actual = reference.requantize(acc, np.array(shift, dtype=np.int32), lo, hi)
    assert actual.dtype == np.int8
    for row, result in zip(acc.tolist(), actual.tolist(), strict=True):
        for value, n, got in zip(row, shift, result, strict=True):
            rounded = math.floor(Fraction(value) / Fraction(2) ** n + Fraction(1, 2))
            assert got == max(lo, min(hi, rounded))


@given(int32s, st.lists(st.integers(-31, 31), min_size=3, max_size=3), st.integers(0, 255))
def test_requantize_to_uint8(acc: np.ndarray, shift: list[int], hi: int) -> None:
    actual = reference.requantize(acc, np.array(shift, dtype=np.int32), hi=hi, dtype=np.uint8)
    assert actual.dtype == np.uint8
    assert np.array_equal(actual, naive.requantize(acc, shift, 0, hi, "uint8"))


@given(hnp.arrays(np.uint8, (4, 3)), hnp.arrays(np.uint8, (4, 3)), st.integers(0, 3))
def test_add_takes_uint8(lhs: np.ndarray, rhs: np.ndarray, shift: int) -> None:
    actual = reference.add(lhs, rhs, np.array([shift]), np.array([0]))
    assert np.array_equal(actual, naive.add(lhs, rhs, [shift], [0]))


def test_uint8_to_int8_saturates_and_back() -> None:
    x = np.array([0, 100, 127, 128, 255], dtype=np.uint8)
    zero = np.zeros(1, dtype=np.int32)
    assert reference.requantize(x, zero).tolist() == [0, 100, 127, 127, 127]
    signed = np.array([-128, -1, 0, 127], dtype=np.int8)
    assert reference.requantize(signed, zero, dtype="uint8").tolist() == [0, 0, 0, 127]


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 9), st.just(3))), st.integers(-9, 9))
def test_requantize_takes_int8_and_one_shift(x: np.ndarray, shift: int) -> None:
    one = reference.requantize(x, np.array([shift], dtype=np.int32))
    each = reference.requantize(x.astype(np.int32), np.full(3, shift, dtype=np.int32))
    assert np.array_equal(one, each)
    assert np.array_equal(one, naive.requantize(x, [shift], -128, 127))


@pytest.mark.parametrize(
    ("acc", "shift", "expected"),
    [(5, 1, 3), (-5, 1, -2), (6, 2, 2), (-6, 2, -1), (-7, 2, -2), (3, -4, 48), (99, -1, 127)],
)
def test_requantize_examples_of_the_specification(acc: int, shift: int, expected: int) -> None:
    result = reference.requantize(np.array([acc], dtype=np.int32), np.array([shift]))
    assert result.tolist() == [expected]


@given(
    hnp.arrays(np.int32, (4, 3), elements=st.integers(-(2**31), 2**31 - 1)),
    hnp.arrays(np.int32, (4, 3), elements=st.integers(-(2**24), 2**24)),
    st.lists(st.integers(0, 8), min_size=3, max_size=3),
    st.integers(0, 8),
)
def test_add_is_exact_or_refused(
    lhs: np.ndarray, rhs: np.ndarray, lhs_shift: list[int], rhs_shift: int
) -> None:
    expected = naive.add(lhs, rhs, lhs_shift, [rhs_shift])
    arguments = (lhs, rhs, np.array(lhs_shift), np.array([rhs_shift]))
    if np.abs(expected).max() < 2**31 or np.array_equal(expected, expected.astype(np.int32)):
        actual = reference.add(*arguments)
        assert actual.dtype == np.int32
        assert np.array_equal(actual, expected)
    else:
        with pytest.raises(RangeError, match="add left int32"):
            reference.add(*arguments)


@given(hnp.arrays(np.int8, (4, 3)), hnp.arrays(np.int32, (4, 3)), st.integers(0, 3))
def test_add_mixes_int8_and_int32(lhs: np.ndarray, rhs: np.ndarray, shift: int) -> None:
    rhs >>= 4
    actual = reference.add(lhs, rhs, np.array([shift]), np.array([0]))
    assert np.array_equal(actual, naive.add(lhs, rhs, [shift], [0]))


def test_wrong_types_and_scales_are_refused() -> None:
    floats = np.zeros(3, dtype=np.float32)
    narrow = np.zeros(3, dtype=np.int8)
    one = np.array([1], dtype=np.int32)
    with pytest.raises(InputError, match="quantize needs float32"):
        reference.quantize(floats.astype(np.float64), 0)
    with pytest.raises(InputError, match="scale exponent"):
        reference.quantize(floats, 65)
    with pytest.raises(InputError, match="scale exponent"):
        reference.dequantize(narrow, one * -65)
    with pytest.raises(InputError, match="dequantize needs int8 or uint8 or int32"):
        reference.dequantize(floats, one)
    with pytest.raises(InputError, match=r"shifts in \[-31, 31\]"):
        reference.requantize(narrow, one * 32)
    with pytest.raises(InputError, match="bounds within int8"):
        reference.requantize(narrow, one, 0, 128)
    with pytest.raises(InputError, match="bounds within uint8"):
        reference.requantize(narrow, one, -1, 128, np.uint8)
    with pytest.raises(InputError, match="int8 or uint8, not int16"):
        reference.quantize(floats, 0, np.int16)
    with pytest.raises(InputError, match="requantize needs int8 or uint8 or int32"):
        reference.requantize(floats, one)
    with pytest.raises(InputError, match="finer scale"):
        reference.add(narrow, narrow, -one, one)
    with pytest.raises(InputError, match="add needs int8 or uint8 or int32"):
        reference.add(floats, narrow, one, one)
