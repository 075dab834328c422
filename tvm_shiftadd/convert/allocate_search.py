"""The price at which a network meets its budget, found by converting at a few prices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: The part of a budget that is to be used, at least, and what is aimed at.
USED = 0.97
AIM = 0.99

#: Fall of the cost, as a part of it, where the price grows e-fold: only the first guess.
FIRST_SLOPE = 0.18

#: Largest change of the price's logarithm in one step.
LONGEST_STEP = 4.0

#: Beyond these the price has no effect left.
EXTREME = 1e12


@dataclass(frozen=True)
class Tried:
    """A price and what the conversion at that price costs."""

    price: float
    cost: float


def meet(
    cost_at: Callable[[float], float],
    budget: float,
    start: float,
    attempts: int,
    used: float = USED,
) -> Tried | None:
    """The lowest price found whose cost is within ``budget``, None if there is none.

    cost_at: converts at a price; falls with it, though not strictly. Stops as soon as at least
    the part ``used`` of the budget is spent, or after ``attempts`` conversions. Steps by the
    secant of cost over log price, kept inside the interval that is known to hold the budget.
    """
    aim = budget * max(AIM, (1 + used) / 2)
    above: Tried | None = None
    below: Tried | None = None
    price = start
    for attempt in range(attempts):
        now = Tried(price, cost_at(price))
        if now.cost > budget:
            above = now if above is None or now.price > above.price else above
        else:
            below = now if below is None or now.price < below.price else below
            if now.cost >= used * budget:
                return now
        price = _next(above, below, aim, 2.0**attempt)
        if not start / EXTREME < price < start * EXTREME:
            break
    return below


def _next(above: Tried | None, below: Tried | None, aim: float, longer: float) -> float:
    """The next price to try, from the nearest ones on either side of the budget.

    longer: how much longer the step is than the slope says while one side is still unknown.
    """
    if above is not None and below is not None:
        low, high = math.log(above.price), math.log(below.price)
        share = (above.cost - aim) / max(above.cost - below.cost, 1e-300)
        # Away from the ends, so that the interval shrinks though the cost may have steps.
        return math.exp(low + (high - low) * min(max(share, 0.1), 0.9))
    known = above or below
    assert known is not None
    step = longer * (known.cost / aim - 1) / FIRST_SLOPE
    if above is not None:
        step = max(step, 0.05)
    return known.price * math.exp(min(max(step, -LONGEST_STEP), LONGEST_STEP))
