"""Conversion of a float network to integers: calibration, term search, error compensation.

Imports NumPy and ``formats`` only.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_shiftadd.convert.adders import refine_exponents
from tvm_shiftadd.convert.allocate import allocate
from tvm_shiftadd.convert.allocate_budget import Budget
from tvm_shiftadd.convert.allocate_report import AllocationReport
from tvm_shiftadd.convert.allocate_trials import HELD_TIMES
from tvm_shiftadd.convert.calibrate import calibrate
from tvm_shiftadd.convert.equalize import equalize, scale_channels
from tvm_shiftadd.convert.execute import QTensor, run_float, run_integer
from tvm_shiftadd.convert.feeds import Batches, Progress, hold, silent
from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.options import ConvertOptions
from tvm_shiftadd.convert.plan import AdderPlan, ChannelFactor, LayerPlan, Plan
from tvm_shiftadd.convert.prove import prove_plan
from tvm_shiftadd.convert.report import ConversionReport, LayerReport
from tvm_shiftadd.convert.sequence import SequentialConversion, images_in_memory
from tvm_shiftadd.convert.storage import Storage, stored

__all__ = [
    "AdderPlan",
    "AllocationReport",
    "Batches",
    "Budget",
    "ChannelFactor",
    "Conversion",
    "ConversionReport",
    "ConvertOptions",
    "Graph",
    "LayerPlan",
    "LayerReport",
    "Node",
    "Plan",
    "Progress",
    "QTensor",
    "Storage",
    "convert",
    "prove_plan",
    "run_float",
    "run_integer",
    "stored",
]


@dataclass(frozen=True)
class Conversion:
    """The integers of a network and what they cost in accuracy.

    ``scaled`` is the float network that was rounded: the graph that was given, with its channels
    scaled to fill the range of their type and to where their weights round best. Its clips do not
    follow the second scaling, which pays only where they end few values.
    """

    plan: Plan
    report: ConversionReport
    scaled: Graph


def convert(
    graph: Graph,
    batches: Batches,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Bring ``graph`` to integers, with activation scales and biases fitted to ``batches``.

    ``batches()`` starts a pass over the calibration data: mappings from input name to float32
    arrays in the network's own layout. ``progress(phase, done, total)`` is told how far
    "calibrate" (images) and "convert" (layers) have come, and with a budget "measure" (layers),
    "allocate" (conversions tried) and "frontier" (points). The same data give the same integers on
    one machine; another BLAS may round a weight differently.

    Raises DataError for unusable calibration data, ModelError for a network that is not finite
    on it, RangeError where an accumulator cannot be proved to fit int32, InputError for a budget
    out of reach, ConversionError where a largest drop cannot be held.
    """
    options = options or ConvertOptions()
    tell = progress or silent
    storage = stored(graph, options.unsigned)
    wanted = options.correction_images
    if options.budget is not None and (options.frontier or options.budget.max_drop is not None):
        wanted *= HELD_TIMES
    most = min(wanted, images_in_memory(graph, options.memory))
    feeds, seen = hold(graph, batches, most, options.limit)
    scaled = equalize(graph, storage, feeds) if options.equalize else graph
    exponents = calibrate(scaled, storage, batches, options.limit, tell)
    exponents = refine_exponents(scaled, storage, exponents, feeds)
    allocation = None
    if options.budget is None:
        sequence = SequentialConversion(scaled, exponents, options, tell)
        sequence.run(feeds)
    else:
        sequence, allocation = allocate(scaled, exponents, feeds, options, tell)
    plan = Plan(dict(sequence.layers), exponents, dict(sequence.adders), storage.unsigned)
    prove_plan(graph, plan)
    images = len(next(iter(feeds.values())))
    report = ConversionReport(tuple(sequence.reports), seen, images, allocation)
    return Conversion(plan, report, scale_channels(scaled, sequence.gains))
