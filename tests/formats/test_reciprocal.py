from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import naive
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats.reciprocal import MAX_SHIFT, TOLERANCE, non_adjacent_form, reciprocal


@given(st.lists(st.integers(1, 8280), min_size=1, max_size=4))
def test_error_bound_and_int32_room(counts: list[int]) -> None:
    scale = reciprocal(counts)
    assert set(scale.terms) == set(counts)
    assert 0 <= scale.shift <= MAX_SHIFT
    for count, terms in scale.terms.items():
        error = abs(scale.value(count) * count - 1)
        assert error <= TOLERANCE
        if count & (count - 1) == 0:
            assert error == 0
            assert len(terms) == 1
        lefts = [left for _, left in terms]
        assert lefts == sorted(lefts, reverse=True)
        assert all(high - low >= 2 for high, low in itertools.pairwise(lefts))
        partial = 0
        for sign, left in terms:
            # uint8 sums reach furthest.
            partial += sign * (255 * count << left)
            assert 255 * count << left < 2**31
            assert -(2**31) <= partial < 2**31


@pytest.mark.parametrize("count", [*range(1, 13), 16, 25, 36])
def test_no_shorter_sum_exists(count: int) -> None:
    shift, terms = naive.reciprocals([count])
    scale = reciprocal([count])
    assert scale.shift == shift
    assert scale.terms[count] == tuple(terms[count])


@pytest.mark.slow
def test_no_shorter_sum_exists_up_to_64() -> None:
    for count in range(1, 65):
        shift, terms = naive.reciprocals([count])
        assert reciprocal([count]).terms[count] == tuple(terms[count])
        assert reciprocal([count]).shift == shift


def test_counts_share_the_largest_shift() -> None:
    alone = {count: reciprocal([count]) for count in (4, 6, 9)}
    together = reciprocal([9, 4, 6, 6])
    assert together.shift == max(scale.shift for scale in alone.values())
    for count, scale in alone.items():
        assert together.value(count) == scale.value(count)


@given(st.integers(1, 1 << 24))
def test_non_adjacent_form(value: int) -> None:
    terms = non_adjacent_form(value)
    assert sum(sign << left for sign, left in terms) == value
    lefts = [left for _, left in terms]
    assert all(high - low >= 2 for high, low in itertools.pairwise(lefts))


def test_value_is_exact() -> None:
    assert reciprocal([8]).value(8) == Fraction(1, 8)


@pytest.mark.parametrize("counts", [[], [0], [4, -1]])
def test_refuses_counts_below_one(counts: list[int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        reciprocal(counts)


def test_refuses_windows_too_large_for_int32() -> None:
    with pytest.raises(RangeError, match="averaging over 8281 elements"):
        reciprocal([8281])
    with pytest.raises(RangeError):
        reciprocal([1 << 24])
