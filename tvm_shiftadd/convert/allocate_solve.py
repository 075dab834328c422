"""The multiple-choice knapsack: one choice for each layer, least error within a budget.

:func:`relaxed` is the Lagrangian relaxation: at a price of cost, every layer takes the choice of
least error + price * cost. What it picks is optimal for the cost it happens to have; between two
such costs lies the change of one layer. :func:`solve` closes that gap: it lists the combinations
that no other beats in both cost and error, layer by layer, without those that cannot lead below
a known solution (Nemhauser and Ullmann 1969, with the relaxation as the bound). It is exact
unless the list grows beyond a limit; then it says how far from the optimum it can be at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError

Float64 = NDArray[np.float64]

#: Combinations kept, at most.
MAX_STATES = 1 << 16


@dataclass(frozen=True)
class Choices:
    """The choices of one layer: what each costs and the error it makes, float64 ``[n]`` each."""

    cost: Float64
    error: Float64


@dataclass(frozen=True)
class Solution:
    """``picks``: the choice of each layer; ``bound``: no solution has a smaller error."""

    picks: tuple[int, ...]
    cost: float
    error: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether it is proved that no solution is better."""
        return self.error <= self.bound * (1 + 1e-9) + 1e-300

    @property
    def gap(self) -> float:
        """How far the error can be above the least possible one, as a fraction of it."""
        return 0.0 if self.optimal else (self.error - self.bound) / max(self.bound, 1e-300)


def relaxed(layers: Sequence[Choices], price: float) -> tuple[int, ...]:
    """The choice of each layer of least error + price * cost; the cheaper one of equals."""
    picks = []
    for layer in layers:
        value = layer.error + price * layer.cost
        best = np.flatnonzero(value <= value.min() * (1 + 1e-12))
        picks.append(int(best[layer.cost[best].argmin()]))
    return tuple(picks)


def totals(layers: Sequence[Choices], picks: Sequence[int]) -> tuple[float, float]:
    """Cost and error of a combination."""
    pairs = list(zip(layers, picks, strict=True))
    cost = sum(float(layer.cost[pick]) for layer, pick in pairs)
    return cost, sum(float(layer.error[pick]) for layer, pick in pairs)


def solve(layers: Sequence[Choices], budget: float, states: int = MAX_STATES) -> Solution:
    """The combination of least error whose cost is at most ``budget``.

    Raises InputError where even the cheapest combination costs more.
    """
    slack = abs(budget) * 1e-12
    cheapest = sum(float(layer.cost.min()) for layer in layers)
    if cheapest > budget + slack:
        raise InputError(f"the cheapest choice costs {cheapest:g}, more than the budget {budget:g}")
    price, start, bound = _dual(layers, budget + slack)
    best = totals(layers, start)[1]
    found, exact = _search(layers, budget + slack, price, best, states)
    picks = start if found is None else found
    cost, error = totals(layers, picks)
    return Solution(picks, cost, error, error if exact else min(bound, error))


def _dual(layers: Sequence[Choices], budget: float) -> tuple[float, tuple[int, ...], float]:
    """The price of the best bound, a combination within the budget, and the bound itself."""
    picks = relaxed(layers, 0.0)
    cost, error = totals(layers, picks)
    if cost <= budget:
        return 0.0, picks, error
    low, high = 0.0, 1.0
    while totals(layers, relaxed(layers, high))[0] > budget and high < 1e300:
        low, high = high, high * 8
    for _ in range(100):
        middle = (low + high) / 2
        if totals(layers, relaxed(layers, middle))[0] > budget:
            low = middle
        else:
            high = middle
    picks = relaxed(layers, high)
    cost, error = totals(layers, picks)
    return high, picks, error + high * (cost - budget)


def _search(
    layers: Sequence[Choices], budget: float, price: float, best: float, states: int
) -> tuple[tuple[int, ...] | None, bool]:
    """The best combination below the error ``best``, None if there is none; whether it is exact."""
    # What the layers still to come cost at least, and the relaxation's bound on their error.
    least = np.array([float(layer.cost.min()) for layer in layers])
    value = np.array([float((layer.error + price * layer.cost).min()) for layer in layers])
    cost, error, exact = np.zeros(1), np.zeros(1), True
    came: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for number, layer in enumerate(layers):
        costs = (cost[:, None] + layer.cost).reshape(-1)
        errors = (error[:, None] + layer.error).reshape(-1)
        left = budget - costs - least[number + 1 :].sum()
        bound = errors + value[number + 1 :].sum() - price * (budget - costs)
        alive = np.flatnonzero((left >= 0) & (bound <= best * (1 + 1e-12)))
        order = alive[np.lexsort((errors[alive], costs[alive]))]
        lowest = np.minimum.accumulate(np.concatenate(([np.inf], errors[order])))
        keep = order[errors[order] < lowest[:-1]]
        if not keep.size:
            return None, exact
        if keep.size > states:
            exact = False
            keep = keep[np.argsort(bound[keep], kind="stable")[:states]]
        came.append((keep // layer.cost.size, keep % layer.cost.size))
        cost, error = costs[keep], errors[keep]
    place, picks = int(error.argmin()), []
    for parents, chosen in reversed(came):
        picks.append(int(chosen[place]))
        place = int(parents[place])
    return tuple(reversed(picks)), exact
