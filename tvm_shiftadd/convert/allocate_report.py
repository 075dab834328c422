"""What an allocation decided and what it bought, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AllocatedLayer:
    """One layer of an allocation.

    terms: K of its codes; terms_per_weight: non-zero terms of a weight, mean. sensitivity: squared
    error of the network's outputs, relative to their variance, for a unit of mean squared error in
    the layer's. effect: that error where only this layer has one, two, three terms. price: what a
    term had to save of the layer's mean squared output error, 0 where it was free. cost_before,
    cost: in the budget's unit, with two terms everywhere and as allocated; the mean terms of the
    network are shared out, so that both columns add up to the network's.
    """

    name: str
    terms: int
    terms_per_weight: float
    sensitivity: float
    effect: tuple[float, ...]
    price: float
    cost_before: float
    cost: float


@dataclass(frozen=True)
class FrontierPoint:
    """A conversion that was tried.

    label: "auto", or "K=1" to "K=3" for the same terms everywhere. costs: by unit. error: squared
    error of the outputs on held-out calibration images, relative to their variance. agreement:
    percent of these on which both networks name the same class, None where the first output is
    no row of scores. chosen: whether it is the conversion that was kept.
    """

    label: str
    costs: Mapping[str, float]
    error: float
    agreement: float | None
    chosen: bool = False


@dataclass(frozen=True)
class AllocationReport:
    """How the terms of a network were given out.

    budget: in words; unit, grain: of the budget; cost: in its unit; reachable: the least and the
    largest cost in it. costs: in every unit. trials: conversions made to find it. gap: layer
    grain only, how far the sum of the layers' effects can be above the least possible one, as a
    fraction, 0 where it is proved optimal. disagreement, held_out: percent and number of held-out
    calibration images on which the chosen network names another class, None where that was not
    measured.
    """

    budget: str
    unit: str
    grain: str
    cost: float
    reachable: tuple[float, float]
    costs: Mapping[str, float]
    trials: int
    gap: float | None
    disagreement: float | None
    held_out: int
    layers: tuple[AllocatedLayer, ...]
    frontier: tuple[FrontierPoint, ...] = ()
