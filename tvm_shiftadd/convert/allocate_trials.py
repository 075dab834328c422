"""Conversions that are tried: what each costs, and what it does on held-out images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_budget import Unit
from tvm_shiftadd.convert.allocate_costs import LayerCost, layer_costs, totals
from tvm_shiftadd.convert.allocate_grains import Allocation
from tvm_shiftadd.convert.allocate_probe import output_error
from tvm_shiftadd.convert.allocate_solve import Solution
from tvm_shiftadd.convert.execute import run_float, run_integer
from tvm_shiftadd.convert.feeds import Feeds, Progress, silent
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.sequence import SequentialConversion
from tvm_shiftadd.errors import InputError

#: Where agreement is to be measured: so many times the images that layers are fitted to are
#: held, and of fewer images at least this part is fitted to, the rest held out.
HELD_TIMES = 2
FITTED_PART = 2 / 3

#: The fewest images of which some can be held out.
LEAST_IMAGES = 6


@dataclass
class Trial:
    """One conversion.

    price: it was made at, where there was one; costs: by unit; layers: by name. error: squared
    error of the outputs on the held-out images, relative to their variance; disagreement: percent
    of them that change class; None until judged, the second also where there are no classes.
    solution: of the solver, where that chose the limits.
    """

    limits: Allocation
    price: float
    sequence: SequentialConversion
    layers: dict[str, LayerCost]
    costs: dict[Unit, float]
    solution: Solution | None = None
    error: float | None = None
    disagreement: float | None = None


class Trials:
    """Makes conversions of one network and counts them.

    fitted: the images layers are fitted to; held_out: those kept back, none unless ``judged``.
    """

    def __init__(
        self,
        graph: Graph,
        exponents: dict[str, int],
        feeds: Feeds,
        options: ConvertOptions,
        progress: Progress,
        judged: bool,
    ) -> None:
        """As for :class:`SequentialConversion`. Raises InputError for too few images to judge."""
        self.graph = graph
        self.exponents = exponents
        assert options.budget is not None
        # Folding looks for the scale that K terms round best at. With a price most weights have
        # fewer than K, and a scale that is best for K is no better for them.
        fold = options.fold and options.budget.chosen_grain != "weight"
        self.options = dataclasses.replace(options, budget=None, frontier=False, fold=fold)
        self.progress = progress
        self.made = 0
        self.fitted: Feeds = feeds
        self.held_out: Feeds = {}
        if judged:
            self.fitted, self.held_out = split(feeds, options.correction_images)
        self.wanted = run_float(graph, self.held_out) if judged else {}

    @property
    def images(self) -> int:
        """How many images are held out."""
        return len(next(iter(self.held_out.values()))) if self.held_out else 0

    def check_classes(self) -> None:
        """Raise InputError where the network's first output names no classes."""
        output = self.wanted[self.graph.outputs[0]]
        if classes(output) is None:
            raise InputError(
                "a largest drop needs a network that gives a row of class scores an image, not an "
                f"output {list(output.shape)}; give a budget instead"
            )

    def convert(
        self,
        limits: Allocation,
        feeds: Feeds,
        price: float = 0.0,
        progress: Progress = silent,
    ) -> Trial:
        """Convert with ``limits``, fitted to ``feeds``."""
        self.made += 1
        self.progress("allocate", self.made, 0)
        options = dataclasses.replace(self.options, allocation=limits)
        sequence = SequentialConversion(self.graph, self.exponents, options, progress)
        sequence.run(feeds)
        layers = layer_costs(self.graph, sequence.layers)
        return Trial(limits, price, sequence, layers, totals(layers))

    def judge(self, trial: Trial) -> Trial:
        """Measure ``trial`` on the held-out images, in place."""
        have, _ = run_integer(self.graph, trial.sequence.plan, self.held_out)
        trial.error = output_error(have, self.wanted)
        first = self.graph.outputs[0]
        wanted, got = classes(self.wanted[first]), classes(have[first])
        if wanted is not None and got is not None:
            trial.disagreement = 100.0 * float(np.mean(wanted != got))
        return trial

    def could_drop(self, trial: Trial) -> float:
        """Percent of held-out images that change class, one more than seen counted."""
        assert trial.disagreement is not None
        return (trial.disagreement * self.images + 100.0) / (self.images + 1)


def split(feeds: Feeds, most: int) -> tuple[Feeds, Feeds]:
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


def classes(output: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """The class named for each image, where the output is a row of scores."""
    scores = output.reshape(len(output), -1)
    if scores.shape[1] < 2 or max(output.shape[1:]) != scores.shape[1]:
        return None
    classes: NDArray[np.int64] = scores.argmax(axis=1)
    return classes
