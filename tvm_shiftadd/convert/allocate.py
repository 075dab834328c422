"""``--terms auto``: measure what terms are worth, give them out within a budget, convert.

The order: :mod:`allocate_probe` measures each layer; :mod:`allocate_grains` turns one price of
cost into the limits of every layer; :mod:`allocate_search` finds the price that meets the budget
by converting with it; at the grain of layers :mod:`allocate_solve` chooses directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_budget import Unit
from tvm_shiftadd.convert.allocate_costs import LayerCost, layer_cost, term_counts, totals
from tvm_shiftadd.convert.allocate_grains import Allocation, Allotment
from tvm_shiftadd.convert.allocate_probe import LayerProfile, output_error, profile, spread
from tvm_shiftadd.convert.allocate_report import AllocatedLayer, AllocationReport, FrontierPoint
from tvm_shiftadd.convert.allocate_search import USED, meet
from tvm_shiftadd.convert.allocate_solve import Solution, solve
from tvm_shiftadd.convert.execute import run_float, run_integer
from tvm_shiftadd.convert.feeds import Feeds, Progress, silent
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.sequence import SequentialConversion
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.errors import ConversionError, InputError
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.codes import MAX_TERMS

#: Images that layers are fitted to while a price is only being tried.
TRIAL_IMAGES = 128

#: Conversions in which a price is looked for, and then corrected on all images.
TRIALS = 8
CORRECTIONS = 6

#: The second and the third plane of codes are stored where more than this part of a layer's
#: weights use them: each takes half the bytes of a two-term layer.
WORTH_A_PLANE = {2: 0.02, 3: 0.1}

#: By weight any cost could be reached, down to no terms at all; below this part of the cost of
#: one term everywhere nothing useful is left.
LEAST_PART = 0.25

#: Where agreement is to be measured: so many times the images that layers are fitted to are
#: held, and of fewer images at least this part is fitted to, the rest held out.
HELD_TIMES = 2
FITTED_PART = 2 / 3

#: A largest drop never goes below this part of the cost of one term everywhere: so few terms
#: pass on images the network was trained on, and fail on others.
LEAST_PART_HELD = 0.75

#: The fewest images of which some can be held out.
LEAST_IMAGES = 6

#: Prices of the frontier, relative to the one chosen.
FRONTIER = (0.02, 0.1, 0.35, 3.0, 10.0, 50.0)


@dataclass
class _Trial:
    """One conversion, its cost and what it does on the held-out images."""

    limits: Allocation
    sequence: SequentialConversion
    layers: dict[str, LayerCost]
    costs: dict[Unit, float]
    error: float | None = None
    disagreement: float | None = None
    solution: Solution | None = field(default=None)
    price: float = 0.0


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
    allocator = _Allocator(graph, exponents, feeds, options, progress)
    report = allocator.run()
    return allocator.sequence, report


class _Allocator:
    """Gives out terms and converts; ``sequence`` is the conversion that was kept."""

    def __init__(
        self,
        graph: Graph,
        exponents: dict[str, int],
        feeds: Feeds,
        options: ConvertOptions,
        progress: Progress,
    ) -> None:
        """As for :class:`SequentialConversion`; ``options.budget`` must be there."""
        assert options.budget is not None
        self.graph = graph
        self.exponents = exponents
        self.options = options
        self.budget = options.budget
        self.progress = progress
        self.held: Feeds = {}
        self._trials = 0
        self._fit = feeds
        if options.frontier or self.budget.max_drop is not None:
            self._fit, self.held = _split(feeds, options.correction_images)
        # A budget promises nothing about held-out images: its last conversion may use all.
        self._all = feeds if self.budget.max_drop is None else self._fit
        self._wanted = run_float(graph, self.held) if self.held else {}
        if self.budget.max_drop is not None:
            _check_scores(self._wanted[graph.outputs[0]])

    def run(self) -> AllocationReport:
        """Measure, search, convert. Raises InputError for a budget out of reach."""
        few = spread(self._fit, TRIAL_IMAGES)
        measured = profile(self.graph, self.exponents, self.options, few, self.progress)
        unit, grain = self.budget.unit, self.budget.chosen_grain
        self.allotment = Allotment(self.graph, measured, unit, grain)
        if not measured:
            raise InputError("the network has no layer whose terms could be chosen; convert it")
        if self.budget.max_drop is not None:
            chosen = self._hold_drop(self.budget.max_drop)
        else:
            assert self.budget.amount is not None
            self._check_reachable(self.budget.amount)
            if grain == "layer":
                chosen = self._solve(self.budget.amount)
            else:
                chosen = self._price(self.budget.amount, few)
        self.sequence = chosen.sequence
        return self._report(chosen, measured, few)

    def reachable(self) -> tuple[float, float]:
        """The least and the largest cost, in the budget's unit."""
        one, _, three = self.allotment.uniform_costs()
        least = one * LEAST_PART if self.allotment.grain == "weight" else one
        return float(least), float(max(three, one))

    def _check_reachable(self, amount: float) -> None:
        least, largest = self.reachable()
        if amount < least:
            raise InputError(
                f"a budget of {self.budget.describe()} is out of reach by {self.allotment.grain}: "
                f"this network needs {least:.6g} to {largest:.6g} {self.budget.unit}; raise it"
            )

    def _convert(self, limits: Allocation, feeds: Feeds, price: float = 0.0) -> _Trial:
        options = dataclasses.replace(self.options, budget=None, frontier=False, allocation=limits)
        self._trials += 1
        tell = self.progress if feeds is self._all else silent
        self.progress("allocate", self._trials, 0)
        sequence = SequentialConversion(self.graph, self.exponents, options, tell)
        sequence.run(feeds)
        layers = {}
        for layer in self.allotment.layers:
            made = sequence.layers[layer.name]
            values = codes.decode(made.codes)
            layers[layer.name] = layer_cost(self.graph, layer.node, values, made.terms)
        trial = _Trial(limits, sequence, layers, totals(layers, self.allotment.weights))
        trial.price = price
        return trial

    def _cost(self, trial: _Trial) -> float:
        return trial.costs[self.budget.unit]

    def _solve(self, amount: float) -> _Trial:
        """The best number of terms for each layer, by the solver."""
        choices, budget = self.allotment.choices(), amount
        for _ in range(CORRECTIONS):
            solution = solve(choices, budget)
            trial = self._convert(self.allotment.picked(solution.picks), self._all)
            trial.solution = solution
            if self._cost(trial) <= amount:
                return trial
            # With all images a layer may use a few terms more than were measured.
            least = self.reachable()[0]
            budget = max(budget - 1.2 * (self._cost(trial) - amount), least)
        raise ConversionError(
            f"no choice of terms for layers was found for {self.budget.describe()}; raise it"
        )

    def _price(self, amount: float, few: Feeds) -> _Trial:
        """The price at which the conversion costs the budget, or just less."""
        if amount >= self.reachable()[1]:
            return self._convert(self.allotment.limits(0.0), self._all)
        start = 0.13 * self.allotment.typical_price()
        planes: dict[str, int] = {}
        seen: dict[float, _Trial] = {}

        def trial(price: float) -> float:
            seen[price] = self._convert(self.allotment.limits(price), few, price)
            return self._cost(seen[price])

        found = meet(trial, amount, start, TRIALS, used=0.985)
        if found is not None:
            planes, start = self._planes(seen[found.price]), found.price

        def final(price: float) -> float:
            seen[price] = self._convert(self.allotment.limits(price, planes), self._all, price)
            return self._cost(seen[price])

        seen.clear()
        found = meet(final, amount, start, CORRECTIONS, used=USED)
        if found is None:
            raise ConversionError(
                f"no price of a term was found for {self.budget.describe()}; raise the budget"
            )
        return seen[found.price]

    def _planes(self, trial: _Trial) -> dict[str, int]:
        """K of each layer: as many planes of codes as enough of its weights use."""
        if self.allotment.grain != "weight":
            return {}
        planes = {}
        for name, limit in trial.limits.items():
            counts = term_counts(codes.decode(trial.sequence.layers[name].codes))
            used = {k: float(np.mean(counts >= k)) for k in range(2, limit.terms + 1)}
            planes[name] = max((k for k in used if used[k] > WORTH_A_PLANE[k]), default=1)
        return planes

    def _hold_drop(self, drop: float) -> _Trial:
        """The dearest price at which the networks still agree on enough held-out images."""
        start = 0.13 * self.allotment.typical_price()
        least = LEAST_PART_HELD * float(self.allotment.uniform_costs()[0])
        free = self._judged(self.allotment.limits(0.0), 0.0)
        if self._could_drop(free) > drop:
            images = len(next(iter(self.held.values())))
            raise ConversionError(
                f"a drop of at most {drop:g} points cannot be promised: even with {MAX_TERMS} "
                f"terms {free.disagreement:.2f} % of {images} held-out images change class, and "
                f"one image more makes {self._could_drop(free):.2f}; allow more, or calibrate on "
                "more images"
            )
        best, low, high = free, 0.0, 0.0
        price = start
        for _ in range(TRIALS):
            trial = self._judged(self.allotment.limits(price), price)
            if self._could_drop(trial) <= drop and self._cost(trial) >= least:
                low = price
                best = trial if self._cost(trial) < self._cost(best) else best
            else:
                high = price
            price = price * 4 if not high else high / 4 if not low else float(np.sqrt(low * high))
            if (low and high and high < 1.15 * low) or price > start * 1e6 or price < start / 1e3:
                break
        return self._fewer_planes(best, drop)

    def _fewer_planes(self, best: _Trial, drop: float) -> _Trial:
        """The same without planes of codes that hardly a weight uses, if that holds the drop."""
        planes = self._planes(best)
        if all(limit.terms == planes.get(name, limit.terms) for name, limit in best.limits.items()):
            return best
        trial = self._judged(self.allotment.limits(best.price, planes), best.price)
        return trial if self._could_drop(trial) <= drop else best

    def _could_drop(self, trial: _Trial) -> float:
        """Percent of held-out images that change class, one more than seen counted."""
        assert trial.disagreement is not None
        images = len(next(iter(self.held.values())))
        return (trial.disagreement * images + 100.0) / (images + 1)

    def _judged(self, limits: Allocation, price: float) -> _Trial:
        trial = self._convert(limits, self._fit, price)
        self._judge(trial)
        return trial

    def _judge(self, trial: _Trial) -> None:
        """Measure the trial on the held-out images."""
        have, _ = run_integer(self.graph, trial.sequence.plan, self.held)
        trial.error = output_error(have, self._wanted)
        first = self.graph.outputs[0]
        wanted, got = _classes(self._wanted[first]), _classes(have[first])
        if wanted is not None and got is not None:
            trial.disagreement = 100.0 * float(np.mean(wanted != got))

    def _report(
        self, chosen: _Trial, measured: tuple[LayerProfile, ...], few: Feeds
    ) -> AllocationReport:
        points = self._frontier(chosen, few) if self.options.frontier else ()
        if self.held and chosen.disagreement is None and not points:
            self._judge(chosen)
        gap = None
        if chosen.solution is not None:
            bound, error = chosen.solution.bound, chosen.solution.error
            gap = 0.0 if chosen.solution.optimal else (error - bound) / max(bound, 1e-300)
        return AllocationReport(
            budget=self.budget.describe(),
            unit=self.budget.unit,
            grain=self.allotment.grain,
            cost=self._cost(chosen),
            reachable=self.reachable(),
            costs={str(unit): cost for unit, cost in chosen.costs.items()},
            trials=self._trials,
            gap=gap,
            disagreement=chosen.disagreement,
            held_out=len(next(iter(self.held.values()))) if self.held else 0,
            layers=tuple(self._layer(layer, chosen) for layer in measured),
            frontier=points,
        )

    def _layer(self, layer: LayerProfile, chosen: _Trial) -> AllocatedLayer:
        unit = self.budget.unit
        share = self.allotment.weights if unit == "terms" else 1
        made = chosen.layers[layer.name]
        return AllocatedLayer(
            name=layer.name,
            terms=chosen.sequence.layers[layer.name].terms,
            terms_per_weight=made.terms / layer.weights,
            sensitivity=layer.sensitivity,
            effect=layer.effect,
            price=chosen.limits[layer.name].price,
            cost_before=float(getattr(layer.costs[1], unit)) / share,
            cost=float(getattr(made, unit)) / share,
        )

    def _frontier(self, chosen: _Trial, few: Feeds) -> tuple[FrontierPoint, ...]:
        """Conversions around the chosen one, and the same terms everywhere, cheapest first.

        Those that were not chosen are fitted to a part of the images only.
        """
        base = chosen.price or 0.13 * self.allotment.typical_price()
        tries: list[tuple[str, Allocation, float]] = [
            (f"K={k}", {layer.name: TermLimits(k) for layer in self.allotment.layers}, 0.0)
            for k in range(1, MAX_TERMS + 1)
        ]
        tries += [("auto", self.allotment.limits(base * part), base * part) for part in FRONTIER]
        points = {}
        for done, (label, limits, price) in enumerate(tries):
            self.progress("frontier", done, len(tries))
            trial = self._convert(limits, few, price)
            if label == "auto" and self.allotment.grain == "weight":
                limits = self.allotment.limits(price, self._planes(trial))
                trial = self._convert(limits, few, price)
            self._judge(trial)
            points[label, round(self._cost(trial), 9)] = _point(label, trial)
        self.progress("frontier", len(tries), len(tries))
        if chosen.error is None:
            self._judge_unseen(chosen)
        found = [*points.values(), _point("auto", chosen, kept=True)]
        return tuple(sorted(found, key=lambda point: point.costs[self.budget.unit]))

    def _judge_unseen(self, chosen: _Trial) -> None:
        """Measure a conversion that was fitted to all images as it is without the held-out ones."""
        trial = chosen
        if self._all is not self._fit:
            trial = self._convert(chosen.limits, self._fit, chosen.price)
        self._judge(trial)
        chosen.error, chosen.disagreement = trial.error, trial.disagreement


def _point(label: str, trial: _Trial, kept: bool = False) -> FrontierPoint:
    assert trial.error is not None
    agreement = None if trial.disagreement is None else 100.0 - trial.disagreement
    costs: Mapping[str, float] = {str(unit): cost for unit, cost in trial.costs.items()}
    return FrontierPoint(label, costs, trial.error, agreement, kept)


def _split(feeds: Feeds, most: int) -> tuple[Feeds, Feeds]:
    """Images to fit layers to, at most ``most``, and those held out, evenly mixed."""
    count = len(next(iter(feeds.values())))
    if count < LEAST_IMAGES:
        raise InputError(
            f"agreement is measured on held-out calibration images, and {count} images are too "
            f"few to hold any out; give {LEAST_IMAGES} or more"
        )
    fitted = min(most, int(count * FITTED_PART))
    held = np.ones(count, dtype=np.bool_)
    held[np.arange(fitted) * count // fitted] = False
    return (
        {name: array[~held] for name, array in feeds.items()},
        {name: array[held] for name, array in feeds.items()},
    )


def _classes(output: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """The class named for each image, where the output is a row of scores."""
    scores = output.reshape(len(output), -1)
    if scores.shape[1] < 2 or max(output.shape[1:]) != scores.shape[1]:
        return None
    classes: NDArray[np.int64] = scores.argmax(axis=1)
    return classes


def _check_scores(output: NDArray[np.float32]) -> None:
    if _classes(output) is None:
        raise InputError(
            f"a largest drop needs a network that gives a row of class scores an image, not an "
            f"output {list(output.shape)}; give a budget instead"
        )
