"""What other prices would have bought: the frontier of cost and accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_shiftadd.convert.allocate_costs import term_counts
from tvm_shiftadd.convert.allocate_grains import Allocation, Allotment
from tvm_shiftadd.convert.allocate_report import FrontierPoint
from tvm_shiftadd.convert.allocate_trials import Trial, Trials
from tvm_shiftadd.convert.feeds import Feeds
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.codes import MAX_TERMS

#: Prices of the frontier, relative to the one chosen.
PRICES = (0.02, 0.1, 0.35, 3.0, 10.0, 50.0)

#: The second and the third plane of codes are stored where more than this part of a layer's
#: weights use them: each takes half the bytes of a two-term layer.
WORTH_A_PLANE = {2: 0.02, 3: 0.1}


def planes_of(allotment: Allotment, trial: Trial) -> dict[str, int]:
    """K of each layer by weight: as many planes of codes as enough of its weights use."""
    if allotment.grain != "weight":
        return {}
    planes = {}
    for name, limit in trial.limits.items():
        counts = term_counts(codes.decode(trial.sequence.layers[name].codes))
        used = {k: float(np.mean(counts >= k)) for k in range(2, limit.terms + 1)}
        planes[name] = max((k for k in used if used[k] > WORTH_A_PLANE[k]), default=1)
    return planes


def frontier(
    trials: Trials, allotment: Allotment, chosen: Trial, few: Feeds
) -> tuple[FrontierPoint, ...]:
    """Conversions around the chosen one, and the same terms everywhere, cheapest first.

    few: images to fit those conversions to that were not chosen. The chosen one, where it is
    fitted to the held-out images too, is judged as it comes out without them.
    """
    base = chosen.price or allotment.first_price()
    tries: list[tuple[str, Allocation, float]] = [
        (f"K={k}", {layer.name: TermLimits(k) for layer in allotment.layers}, 0.0)
        for k in range(1, MAX_TERMS + 1)
    ]
    tries += [("auto", allotment.limits(base * part), base * part) for part in PRICES]
    points = {}
    for done, (label, limits, price) in enumerate(tries):
        trials.progress("frontier", done, len(tries))
        trial = trials.convert(limits, few, price)
        if label == "auto" and allotment.grain == "weight":
            limits = allotment.limits(price, planes_of(allotment, trial))
            trial = trials.convert(limits, few, price)
        costs = tuple(trial.costs.values())
        points[label, costs] = _point(label, trials.judge(trial))
    trials.progress("frontier", len(tries), len(tries))
    if chosen.error is None:
        unseen = trials.convert(chosen.limits, trials.fitted, chosen.price)
        trials.judge(unseen)
        chosen.error, chosen.disagreement = unseen.error, unseen.disagreement
    found = [*points.values(), _point("auto", chosen, kept=True)]
    return tuple(sorted(found, key=lambda point: point.costs[allotment.unit]))


def _point(label: str, trial: Trial, kept: bool = False) -> FrontierPoint:
    assert trial.error is not None
    agreement = None if trial.disagreement is None else 100.0 - trial.disagreement
    costs: Mapping[str, float] = {str(unit): cost for unit, cost in trial.costs.items()}
    return FrontierPoint(label, costs, trial.error, agreement, kept)
