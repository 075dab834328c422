"""From a price of cost to the term limits of every layer, at each of the three grains.

A term is worth its price where it saves more error of the network's outputs than it costs. One
price holds for the whole network; the sensitivity of a layer translates it into the layer's own
mean squared output error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_budget import Grain, Unit
from tvm_shiftadd.convert.allocate_costs import TERM_PICOJOULES, LayerCost, positions
from tvm_shiftadd.convert.allocate_probe import LayerProfile
from tvm_shiftadd.convert.allocate_solve import Choices, relaxed
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.formats.codes import MAX_TERMS

Float64 = NDArray[np.float64]
Allocation = dict[str, TermLimits]

#: By weight any cost could be reached, down to no terms at all; below this part of the cost of
#: one term everywhere nothing useful is left.
LEAST_PART = 0.25

#: The price at which about 1.3 terms a weight are used, relative to what a unit of cost saves
#: where every layer goes from one term to two.
FIRST_PRICE = 0.13


class Allotment:
    """The measured layers of a network, priced in one unit at one grain."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[LayerProfile],
        unit: Unit,
        grain: Grain,
        fixed: Mapping[str, LayerCost] | None = None,
        priced: bool = True,
    ) -> None:
        """``layers`` as :func:`allocate_probe.profile` measured them, and ``fixed`` the others.

        priced: whether the search heeds the price of a term; rounding to nearest does not.
        """
        self.layers = tuple(layers)
        self.unit = unit
        self.grain = grain
        kept = list((fixed or {}).values())
        self.weights = sum(layer.weights for layer in layers) + sum(c.weights for c in kept)
        spent = float(sum(getattr(cost, unit) for cost in kept))
        #: What the layers cost, in the network's unit, whose terms are not given out.
        self.spent = spent / self.weights if unit == "terms" else spent
        self._priced = priced
        self._positions = {layer.name: positions(graph, layer.node) for layer in layers}

    def layer_costs(self, layer: LayerProfile) -> Float64:
        """The layer's part of the network's cost with 1 to 3 terms, float64 ``[3]``."""
        costs = np.array([float(getattr(cost, self.unit)) for cost in layer.costs])
        return costs / self.weights if self.unit == "terms" else costs

    def uniform_costs(self) -> Float64:
        """The network's cost with 1 to 3 terms everywhere, float64 ``[3]``."""
        return np.sum([self.layer_costs(layer) for layer in self.layers], axis=0) + self.spent

    def choices(self) -> list[Choices]:
        """Each layer's costs and effects with 1 to 3 terms, for the solver."""
        return [Choices(self.layer_costs(layer), _falling(layer.effect)) for layer in self.layers]

    def reachable(self) -> tuple[float, float]:
        """The least and the largest cost there is an allocation for."""
        one, _, three = self.uniform_costs()
        if self.grain == "weight":
            one = self.spent + LEAST_PART * (one - self.spent)
        least = one
        return float(least), float(max(three, one))

    def first_price(self) -> float:
        """A price to begin a search with."""
        saved = sum(layer.effect[0] - layer.effect[1] for layer in self.layers)
        one, two, _ = self.uniform_costs()
        return FIRST_PRICE * max(saved, 1e-30) / max(two - one, 1e-30)

    def limits(self, price: float, planes: Mapping[str, int] | None = None) -> Allocation:
        """The limits at ``price``, relative output error for a unit of cost.

        planes: K of single layers, where the weights make do with less than the most. Weights that
        are rounded to nearest heed no price: there each tile has its own number of terms.
        """
        if self.grain == "layer":
            return self.picked(relaxed(self.choices(), price))
        planes = planes or {}
        limits = {}
        for layer in self.layers:
            if self.grain == "tile" or not self._priced:
                limits[layer.name] = self._tile_limits(layer, price)
            else:
                terms = planes.get(layer.name, MAX_TERMS)
                limits[layer.name] = TermLimits(terms, price=self._term_price(layer, price))
        return limits

    def picked(self, picks: Sequence[int]) -> Allocation:
        """The limits of a solution of :meth:`choices`."""
        return {
            layer.name: TermLimits(pick + 1) for layer, pick in zip(self.layers, picks, strict=True)
        }

    def _term_cost(self, layer: LayerProfile) -> float:
        """What one non-zero term of a layer costs; none in bytes or cycles."""
        if self.unit == "terms":
            return 1 / self.weights
        return 1e-6 * TERM_PICOJOULES * self._positions[layer.name]

    def _term_price(self, layer: LayerProfile, price: float) -> float:
        return price * self._term_cost(layer) / layer.sensitivity if layer.sensitivity else 0.0

    def _tile_limits(self, layer: LayerProfile, price: float) -> TermLimits:
        """Each tile's number of terms of least effect + price * cost."""
        tiles = layer.tiles
        if self.unit == "cycles":
            count = np.arange(1, MAX_TERMS + 1, dtype=np.float64)[:, None]
            cost = np.broadcast_to(count * self._positions[layer.name], tiles.noise.shape)
        else:
            cost = tiles.terms * self._term_cost(layer)
        value = layer.sensitivity * tiles.noise + price * cost
        most = (value.argmin(axis=0) + 1).astype(np.uint8)[tiles.index]
        return TermLimits(int(most.max()), most)


def _falling(effect: Sequence[float]) -> Float64:
    """Effects that do not rise with the terms: more terms can always be left unused."""
    return np.minimum.accumulate(np.asarray(effect, dtype=np.float64))
