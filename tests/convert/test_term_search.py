from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_shiftadd.convert.compensate import compensated_search, descend
from tvm_shiftadd.convert.moments import Moments
from tvm_shiftadd.convert.terms import (
    Limits,
    TermLimits,
    cheapest,
    choose_scales,
    nearest,
    nearest_search,
)
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import codes

ONE, TWO = TermLimits(1), TermLimits(2)


def limits(channels: int, **rest: object) -> Limits:
    return Limits(4, np.zeros(channels), **rest)  # type: ignore[arg-type]


@given(st.floats(-300, 300), st.integers(1, 3))
def test_nearest_is_nearest(value: float, terms: int):
    choices = codes.representable(terms)
    found = nearest(np.array([value]), terms)[0]
    assert found in choices
    assert abs(found - value) == np.abs(choices - value).min()


def random_weight(groups: int, reduction: int, made: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((groups, reduction, made)) * np.exp2(
        random.integers(-6, 7, (groups, 1, made))
    )


def weight_error(weight: np.ndarray, values: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    groups, reduction, made = weight.shape
    flat = weight.transpose(1, 0, 2).reshape(reduction, groups * made)
    return np.square(np.ldexp(values.astype(float), -exponent) - flat).sum(0)


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 6])
def test_scales_have_the_least_error_of_all(terms: int, groups: int):
    weight = random_weight(groups, 30, 4)
    search = nearest_search(weight, np.ones((groups, 30)), TermLimits(terms))
    values, exponent = choose_scales("l", weight, TermLimits(terms), search, limits(groups * 4))
    assert codes.encode(values, terms).shape == (terms, 30, groups * 4)
    error = weight_error(weight, values, exponent)
    for step in range(-30, 31):
        other = np.broadcast_to(np.int32(step), exponent.shape)
        rounded = nearest(np.ldexp(weight, step), terms).transpose(1, 0, 2).reshape(30, -1)
        assert (error <= weight_error(weight, rounded, other) * (1 + 1e-9)).all()


def test_more_terms_lose_less():
    weight = random_weight(1, 200, 8)
    errors = []
    for terms in (1, 2, 3):
        search = nearest_search(weight, np.ones((1, 200)), TermLimits(terms))
        values, exponent = choose_scales("l", weight, TermLimits(terms), search, limits(8))
        errors.append(weight_error(weight, values, exponent))
    assert (errors[0] > 8 * errors[1]).all()
    assert (errors[1] > 3 * errors[2]).all()


def test_importance_moves_the_scale():
    weight = np.array([1.0, 0.011, 0.013, 0.009]).reshape(1, 4, 1)
    even = choose_scales("l", weight, ONE, nearest_search(weight, np.ones((1, 4)), ONE), limits(1))
    small = np.array([[1e-6, 1.0, 1.0, 1.0]])
    skewed = choose_scales("l", weight, ONE, nearest_search(weight, small, ONE), limits(1))
    assert skewed[1][0] > even[1][0]


def test_a_channel_without_weights_keeps_room_for_its_bias():
    weight = np.zeros((1, 5, 2))
    given_bias = np.array([0.0, 3.0])
    values, exponent = choose_scales(
        "l", weight, TWO, nearest_search(weight, np.ones((1, 5)), TWO), Limits(4, given_bias, 5)
    )
    assert not values.any()
    assert (exponent + 4 - 5 >= 4).all()


def test_tiny_weights_do_not_ask_for_shifts_that_cannot_be_made():
    weight = np.full((1, 5, 1), 1e-12)
    _, exponent = choose_scales(
        "l", weight, TWO, nearest_search(weight, np.ones((1, 5)), TWO), limits(1, output_exponent=3)
    )
    assert exponent[0] + 4 - 3 <= 22


def test_a_large_bias_makes_the_scale_coarser_and_an_impossible_one_is_refused():
    weight = np.full((1, 5, 1), 0.01)
    search = nearest_search(weight, np.ones((1, 5)), TWO)
    _, exponent = choose_scales("l", weight, TWO, search, Limits(4, np.array([1e5])))
    assert 1e5 * 2.0 ** (exponent[0] + 4) < 2**30
    with pytest.raises(RangeError, match="layer 'l', channel 0"):
        choose_scales("l", weight, TWO, search, Limits(4, np.array([1e18])))


def test_an_addend_on_a_much_finer_scale_limits_the_scale():
    weight = np.full((1, 5, 1), 0.01)
    search = nearest_search(weight, np.ones((1, 5)), TWO)
    free = choose_scales("l", weight, TWO, search, limits(1))[1]
    addend = (np.array([1 << 26]), np.array([2], np.int32))
    tied = choose_scales("l", weight, TWO, search, limits(1, addend=addend))[1]
    assert tied[0] < free[0]
    assert (1 << 26) * 2.0 ** max(int(tied[0]) + 4 - 2, 0) < 2**30


def correlated(groups: int, reduction: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((groups, reduction, reduction))
    return mixing @ mixing.transpose(0, 2, 1) + np.eye(reduction)


def quadratic(moments: Moments, values: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    groups, reduction, made = moments.ideal.shape
    kept = np.ldexp(values.astype(float), -exponent).reshape(reduction, groups, made)
    difference = kept.transpose(1, 0, 2) - moments.ideal
    return np.einsum("gno,gnk,gko->go", difference, moments.hessian, difference)


@pytest.mark.parametrize("groups", [1, 5])
def test_compensation_loses_less_than_rounding_and_descent_never_more(groups: int):
    moments = Moments(correlated(groups, 90, 1), random_weight(groups, 90, 6, 2))
    diagonal = np.einsum("gnn->gn", moments.hessian)
    wide = limits(groups * 6)
    plain = choose_scales(
        "l", moments.ideal, TWO, nearest_search(moments.ideal, diagonal, TWO), wide
    )
    values, exponent = choose_scales(
        "l", moments.ideal, TWO, compensated_search(moments, TWO), wide
    )
    better = descend(values, exponent, moments, TWO)
    rounded, fitted, final = (
        quadratic(moments, *one) for one in (plain, (values, exponent), (better, exponent))
    )
    assert fitted.sum() < 0.7 * rounded.sum()
    assert (final <= fitted * (1 + 1e-9)).all()
    assert final.sum() < fitted.sum()
    codes.encode(better, 2)


def test_the_error_of_a_compensated_search_is_the_quadratic_form():
    moments = Moments(correlated(3, 12, 4), random_weight(3, 12, 2, 5))
    exponent = np.full((2, 3, 2), 3, np.int32)
    exponent[1] += 2
    values, error = compensated_search(moments, TWO)(exponent)
    for step in range(2):
        flat = values[step].transpose(1, 0, 2).reshape(12, 6)
        np.testing.assert_allclose(
            quadratic(moments, flat, exponent[step].reshape(-1)), error[step], rtol=1e-9
        )


@pytest.mark.parametrize("groups", [1, 5])
def test_no_weight_gets_more_terms_than_its_limit(groups: int):
    moments = Moments(correlated(groups, 40, 1), random_weight(groups, 40, 6, 2))
    most = np.random.default_rng(4).integers(0, 4, (40, groups * 6)).astype(np.uint8)
    allowed = TermLimits(3, most)
    diagonal = np.einsum("gnn->gn", moments.hessian)
    wide = limits(groups * 6)
    for search in (
        compensated_search(moments, allowed),
        nearest_search(moments.ideal, diagonal, allowed),
    ):
        values, exponent = choose_scales("l", moments.ideal, allowed, search, wide)
        for found in (values, descend(values, exponent, moments, allowed)):
            assert (np.count_nonzero(codes.encode(found, 3), axis=0) <= most).all()
    with pytest.raises(InputError, match=r"layer 'l' has weights \[40, 7\]"):
        allowed.check("l", (40, 7))


@given(st.floats(-120, 120), st.floats(0, 200), st.integers(1, 3), st.integers(0, 3))
def test_the_cheapest_value_has_the_least_cost(wanted: float, price: float, terms: int, most: int):
    most = min(most, terms)
    found = cheapest(
        np.array([wanted]), terms, np.array([most], np.uint8), np.array([price])
    ).astype(int)

    def cost(values: np.ndarray) -> np.ndarray:
        return np.square(values - wanted) + price * np.count_nonzero(
            codes.encode(values, terms), axis=0
        )

    choices = codes.representable(most) if most else np.zeros(1, int)
    assert found[0] in choices
    assert cost(found)[0] <= cost(choices).min() + 1e-9


def test_descent_pays_for_terms_and_stops_where_they_cost_more_than_they_save():
    moments = Moments(correlated(2, 30, 1), random_weight(2, 30, 4, 2))
    search = compensated_search(moments, TWO)
    values, exponent = choose_scales("l", moments.ideal, TWO, search, limits(8))
    seen = []
    for price in (0.0, 1e-3, 1.0, 1e12):
        found = descend(values, exponent, moments, TWO, price)
        used = codes.count_terms(codes.encode(found, 2))
        total = quadratic(moments, found, exponent).sum() + price * used
        before = codes.count_terms(codes.encode(values, 2))
        assert total <= quadratic(moments, values, exponent).sum() + price * before
        seen.append(used)
    assert seen[0] > seen[1] > seen[2] > seen[3] == 0
