"""The knapsack against brute force, and the search for a price."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_shiftadd.convert.allocate_search import meet
from tvm_shiftadd.convert.allocate_solve import Choices, Solution, relaxed, solve, totals
from tvm_shiftadd.errors import InputError

numbers = st.integers(0, 40).map(float)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Choices], float]:
    """A few layers with up to three choices, and a budget the cheapest combination fits."""
    layers = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 3))
        pairs = draw(st.lists(st.tuples(numbers, numbers), min_size=count, max_size=count))
        cost, error = (np.array(column) for column in zip(*pairs, strict=True))
        layers.append(Choices(cost, error))
    least = sum(layer.cost.min() for layer in layers)
    return layers, float(least + draw(numbers))


def combinations(layers: list[Choices]) -> list[tuple[float, float]]:
    """Cost and error of every combination."""
    every = itertools.product(*(range(layer.cost.size) for layer in layers))
    return [totals(layers, picks) for picks in every]


@settings(deadline=None, max_examples=200)
@given(problems())
def test_the_solver_finds_what_brute_force_finds(problem: tuple[list[Choices], float]) -> None:
    layers, budget = problem
    best = min(error for cost, error in combinations(layers) if cost <= budget)
    found = solve(layers, budget)
    assert found.error == best
    assert found.cost <= budget
    assert totals(layers, found.picks) == (found.cost, found.error)
    assert found.optimal and found.gap == 0


@settings(deadline=None, max_examples=100)
@given(problems())
def test_a_cut_search_stays_within_the_budget_and_its_bound(
    problem: tuple[list[Choices], float],
) -> None:
    layers, budget = problem
    best = min(error for cost, error in combinations(layers) if cost <= budget)
    found = solve(layers, budget, states=1)
    assert found.cost <= budget
    assert found.bound <= best + 1e-9 <= found.error + 2e-9


@settings(deadline=None, max_examples=100)
@given(problems(), st.floats(0, 10))
def test_the_relaxation_is_optimal_for_its_own_cost(
    problem: tuple[list[Choices], float], price: float
) -> None:
    layers, _ = problem
    cost, error = totals(layers, relaxed(layers, price))
    assert error <= min(e for c, e in combinations(layers) if c <= cost) + 1e-9


def test_the_search_does_better_than_the_relaxation() -> None:
    # On the hull only the first layer is worth changing, and that does not fit.
    layers = [
        Choices(np.array([1.0, 8.0]), np.array([100.0, 0.0])),
        Choices(np.array([1.0, 4.0]), np.array([30.0, 0.0])),
    ]
    found = solve(layers, 6.0)
    assert (found.picks, found.error) == ((0, 1), 100.0)


def test_twenty_layers_are_solved_to_the_optimum() -> None:
    random = np.random.default_rng(0)
    layers = []
    for _ in range(20):
        size = float(random.integers(400, 40000))
        layers.append(Choices(size * np.array([0.96, 1.74, 2.1]), random.random(3).cumprod()))
    cheapest = sum(layer.cost[0] for layer in layers)
    found = solve(layers, 1.3 * cheapest)
    assert found.optimal
    assert 1.25 * cheapest < found.cost <= 1.3 * cheapest


def test_a_budget_below_the_cheapest_is_refused() -> None:
    with pytest.raises(InputError, match="the cheapest choice costs 3"):
        solve([Choices(np.array([3.0, 4.0]), np.array([1.0, 0.0]))], 2.0)


def test_the_gap_is_relative_to_the_bound() -> None:
    assert math.isclose(Solution((0,), 1.0, 1.1, 1.0).gap, 0.1)


@pytest.mark.parametrize("slope", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("start", [1e-4, 1.0, 1e4])
def test_a_price_is_found_within_the_budget(slope: float, start: float) -> None:
    asked = []

    def cost(price: float) -> float:
        asked.append(price)
        return 100 / (1 + price**slope)

    found = meet(cost, 40.0, start, 12)
    assert found is not None
    assert 0.97 * 40 <= found.cost <= 40
    assert len(set(asked)) == len(asked)


def test_a_cost_with_steps_is_met_from_below() -> None:
    def cost(price: float) -> float:
        return 100.0 if price < 3 else 60.0

    found = meet(cost, 80.0, 1.0, 8)
    assert found is not None
    assert found.cost == 60.0


def test_what_is_out_of_reach_is_not_found() -> None:
    assert meet(lambda price: 100.0, 80.0, 1.0, 8) is None
