"""``--terms auto``: measure what terms are worth, give them out within a budget, convert.

The order: :mod:`allocate_probe` measures each layer; :mod:`allocate_grains` turns one price of
cost into the limits of every layer; :mod:`allocate_search` finds the price that meets the budget
by converting with it; at the grain of layers :mod:`allocate_solve` chooses directly.
"""

from __future__ import annotations

import math

from tvm_shiftadd.convert.allocate_budget import Budget
from tvm_shiftadd.convert.allocate_frontier import frontier, planes_of
from tvm_shiftadd.convert.allocate_grains import Allotment
from tvm_shiftadd.convert.allocate_probe import LayerProfile, profile, spread
from tvm_shiftadd.convert.allocate_report import AllocatedLayer, AllocationReport
from tvm_shiftadd.convert.allocate_search import USED, meet
from tvm_shiftadd.convert.allocate_solve import solve
from tvm_shiftadd.convert.allocate_trials import Trial, Trials
from tvm_shiftadd.convert.feeds import Feeds, Progress
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.sequence import SequentialConversion
from tvm_shiftadd.errors import ConversionError, InputError
from tvm_shiftadd.formats.codes import MAX_TERMS

#: Images that layers are fitted to while a price is only being tried.
TRIAL_IMAGES = 128

#: Conversions in which a price is looked for, and then corrected on all images.
TRIALS = 8
CORRECTIONS = 6

#: A price is first looked for on few images, until this part of the budget is used.
USED_IN_TRIALS = 0.985

#: A largest drop never goes below this part of the cost of one term everywhere: so few terms
#: pass on images the network was trained on, and fail on others.
LEAST_PART_HELD = 0.75

#: Prices at which a largest drop holds and does not, closer than this, are not told apart.
CLOSE_PRICES = 1.15


def allocate(
    graph: Graph,
    exponents: dict[str, int],
    feeds: Feeds,
    options: ConvertOptions,
    progress: Progress,
) -> tuple[SequentialConversion, AllocationReport]:
    """Convert ``graph`` with the terms of ``options.budget``, fitted to ``feeds``.

    Raises InputError for a budget out of reach, ConversionError where a drop cannot be held.
    """
    budget = options.budget
    assert budget is not None
    judged = options.frontier or budget.max_drop is not None
    trials = Trials(graph, exponents, feeds, options, progress, judged)
    if budget.max_drop is not None:
        trials.check_classes()
    few = spread(trials.fitted, TRIAL_IMAGES)
    measured, fixed = profile(graph, exponents, options, few, progress)
    if not measured:
        raise InputError(
            "the network has no layer whose terms could be chosen: its weights are sums of powers "
            "of two already, or it has none; give --terms 3"
        )
    allotment = Allotment(
        graph, measured, budget.unit, budget.chosen_grain, fixed, options.compensation
    )
    if budget.max_drop is not None:
        chosen = _hold_drop(trials, allotment, budget.max_drop)
    else:
        chosen = _spend(trials, allotment, budget, feeds, few)
    points = frontier(trials, allotment, chosen, few) if options.frontier else ()
    report = AllocationReport(
        budget=budget.describe(),
        unit=budget.unit,
        grain=allotment.grain,
        cost=chosen.costs[budget.unit],
        reachable=allotment.reachable(),
        costs={str(unit): cost for unit, cost in chosen.costs.items()},
        trials=trials.made,
        gap=None if chosen.solution is None else chosen.solution.gap,
        disagreement=chosen.disagreement,
        held_out=trials.images,
        layers=tuple(_layer(layer, allotment, chosen) for layer in measured),
        frontier=points,
    )
    return chosen.sequence, report


def _spend(trials: Trials, allotment: Allotment, budget: Budget, feeds: Feeds, few: Feeds) -> Trial:
    """The conversion that makes the most of a budget, fitted to all images."""
    amount = budget.amount
    assert amount is not None
    least, largest = allotment.reachable()
    if amount < least:
        raise InputError(
            f"a budget of {budget.describe()} is out of reach by {allotment.grain}: this network "
            f"needs {least:.6g} to {largest:.6g} {budget.unit}; raise it"
        )
    if allotment.grain == "layer":
        found = _solve(trials, allotment, amount, feeds)
    elif amount >= largest:
        found = trials.convert(allotment.limits(0.0), feeds, 0.0, trials.progress)
    else:
        found = _price(trials, allotment, amount, feeds, few)
    if found is None:
        raise ConversionError(
            f"no allocation by {allotment.grain} was found for {budget.describe()}; raise it"
        )
    return found


def _solve(trials: Trials, allotment: Allotment, amount: float, feeds: Feeds) -> Trial | None:
    """The best number of terms for each layer, by the solver."""
    choices, least, budget = allotment.choices(), allotment.reachable()[0], amount
    spent = allotment.spent
    for _ in range(CORRECTIONS):
        solution = solve(choices, budget - spent)
        limits = allotment.picked(solution.picks)
        trial = trials.convert(limits, feeds, 0.0, trials.progress)
        trial.solution = solution
        cost = trial.costs[allotment.unit]
        if cost <= amount:
            return trial
        # With all images a layer may use a few terms more than were measured.
        budget = max(budget - 1.2 * (cost - amount), least)
    return None


def _price(
    trials: Trials, allotment: Allotment, amount: float, feeds: Feeds, few: Feeds
) -> Trial | None:
    """The price at which the conversion costs ``amount``, or just less."""
    planes: dict[str, int] = {}
    needed: dict[float, dict[str, int]] = {}
    seen: dict[float, Trial] = {}

    def quick(price: float) -> float:
        trial = trials.convert(allotment.limits(price), few, price)
        needed[price] = planes_of(allotment, trial)
        return trial.costs[allotment.unit]

    def final(price: float) -> float:
        limits = allotment.limits(price, planes)
        seen[price] = trials.convert(limits, feeds, price, trials.progress)
        return seen[price].costs[allotment.unit]

    start = allotment.first_price()
    found = meet(quick, amount, start, TRIALS, USED_IN_TRIALS)
    if found is not None:
        planes, start = needed[found.price], found.price
    found = meet(final, amount, start, CORRECTIONS, USED)
    return None if found is None else seen[found.price]


def _hold_drop(trials: Trials, allotment: Allotment, drop: float) -> Trial:
    """The cheapest conversion found with which few enough held-out images change class."""
    unit = allotment.unit
    least = LEAST_PART_HELD * float(allotment.uniform_costs()[0])

    def judged(price: float, planes: dict[str, int] | None = None) -> Trial:
        limits = allotment.limits(price, planes)
        return trials.judge(trials.convert(limits, trials.fitted, price))

    best = judged(0.0)
    if trials.could_drop(best) > drop:
        raise ConversionError(
            f"a drop of at most {drop:g} points cannot be promised: even with {MAX_TERMS} terms "
            f"{best.disagreement:.2f} % of {trials.images} held-out images change class, or "
            f"{trials.could_drop(best):.2f} % with one image more; allow more, or calibrate on "
            "more images"
        )
    start = price = allotment.first_price()
    low, high = 0.0, math.inf
    for _ in range(TRIALS):
        trial = judged(price)
        if trials.could_drop(trial) <= drop and trial.costs[unit] >= least:
            low = price
            best = trial if trial.costs[unit] < best.costs[unit] else best
        else:
            high = price
        if high < CLOSE_PRICES * low:
            break
        price = price / 4 if not low else price * 4 if math.isinf(high) else math.sqrt(low * high)
        if not 1e-3 < price / start < 1e6:
            break
    planes = planes_of(allotment, best)
    if any(limit.terms > planes.get(name, limit.terms) for name, limit in best.limits.items()):
        # Planes of codes that hardly a weight uses are left out, if that holds the drop.
        trial = judged(best.price, planes)
        best = trial if trials.could_drop(trial) <= drop else best
    return best


def _layer(layer: LayerProfile, allotment: Allotment, chosen: Trial) -> AllocatedLayer:
    share = allotment.weights if allotment.unit == "terms" else 1
    made = chosen.layers[layer.name]
    return AllocatedLayer(
        name=layer.name,
        terms=chosen.sequence.layers[layer.name].terms,
        terms_per_weight=made.terms / layer.weights,
        sensitivity=layer.sensitivity,
        effect=layer.effect,
        price=chosen.limits[layer.name].price,
        cost_before=float(allotment.layer_costs(layer)[1]),
        cost=float(getattr(made, allotment.unit)) / share,
    )
