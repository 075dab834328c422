"""The candidates of the fused kernels, and the numbers by which their times are guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import log2
from typing import Any

import msgspec

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.topi.schedules.cpu.dot.depthwise import DepthwisePlan
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import Parameters
from tvm_shiftadd.topi.schedules.cpu.dot.plan import ALL_SUMS, PANEL, sums_size, tile_cost
from tvm_shiftadd.topi.schedules.cpu.dot.space import candidates
from tvm_shiftadd.topi.schedules.cpu.dot.workload import KINDS, Workload


def parameters_of(work: Workload, values: Mapping[str, Any]) -> Parameters:
    """The parameters of a record. Raises InputError where they are none of the workload's kind."""
    try:
        return msgspec.convert(values, KINDS[work.kind])
    except msgspec.ValidationError as error:
        raise InputError(f"expected parameters for {work.text}, got {values}: {error}") from None


class CPUSpace:
    """The candidates of fused kernels; see ``task.Space``."""

    unit = "seconds"

    def __init__(self, isa: InstructionSet, threads: int) -> None:
        self.isa, self.threads = isa, threads

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All parameters that can be, the rule's choice first."""
        plan = Workload.from_dict(workload).plan(self.isa)
        return [asdict(parameters) for parameters in candidates(plan, self.threads)]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        """A workload for people, and its multiply-accumulates."""
        work = Workload.from_dict(workload)
        return work.text, work.work

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        """The layer's sizes, the parameters, and what follows from both."""
        work = Workload.from_dict(workload)
        shape, plan = work.shape, work.plan(self.isa, parameters_of(work, parameters))
        sizes = (work.work, shape.channels, shape.outputs, shape.out_width, shape.terms, work.pitch)
        layer = [*map(float, shape.kernel), *map(float, shape.strides), *map(_log, sizes)]
        layer += [float(work.kind == kind) for kind in KINDS] + [float(bool(work.residual))]
        if isinstance(plan, DepthwisePlan):
            groups, parts = float(plan.parameters.groups), float(plan.parameters.parts)
            runs = -(-shape.out_width // (plan.parameters.groups * plan.together))
            return [*layer, groups, parts, _log(runs), *([0.0] * 11)]
        p = plan.parameters
        if work.kind == "dense":
            cut = (p.vectors, p.parallel, p.rows, work.images)
            return [*layer, *map(float, cut), *([0.0] * 10)]
        sums = p.rows * p.columns * p.vectors
        return [
            *layer,
            float(p.vectors),
            float(p.parts),
            tile_cost(plan, p.rows, p.columns, p.vectors) / _log(work.work + 2),
            float(p.rows),
            float(p.columns),
            float(p.unroll),
            float(p.unroll * sums),
            _log(plan.segment),
            float(plan.segmented),
            float(p.fetch),
            float(p.parallel),
            plan.quads * p.vectors * self.isa.vector / PANEL,
            sums_size(plan) / ALL_SUMS,
            _log(plan.tasks),
        ]


def _log(value: float) -> float:
    return log2(value + 1)
