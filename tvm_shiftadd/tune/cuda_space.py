"""The candidates of CUDA kernels, and the numbers by which their times are guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple
from math import log2
from typing import Any

from tvm_shiftadd.topi.schedules.cuda.parameters import (
    DenseParameters,
    DepthwiseParameters,
    MatrixParameters,
    Parameters,
    TileParameters,
    VectorParameters,
)
from tvm_shiftadd.topi.schedules.cuda.workload import Workload, parameters_of
from tvm_shiftadd.topi.schedules.shapes import round_up

#: The kinds of kernels; each has features of its own.
_KINDS: tuple[type, ...] = (
    TileParameters,
    MatrixParameters,
    VectorParameters,
    DepthwiseParameters,
)


class CUDASpace:
    """The candidates of CUDA kernels for a compute capability (80: 8.0); see ``task.Space``."""

    unit = "seconds"

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All parameters that are worth a trial, the rule's choice first."""
        return [asdict(p) for p in Workload.from_dict(workload).candidates(self.arch)]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        """A workload for people, and its multiply-accumulates."""
        work = Workload.from_dict(workload)
        return work.text, work.work

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        """The layer's sizes, the parameters, and how the work falls into blocks."""
        work = Workload.from_dict(workload)
        found = parameters_of(work, parameters, self.arch)
        problem, shape, images = work.problem, work.shape, max(work.calls(self.arch))
        sizes = (work.work, images * problem.pixels, problem.outputs, problem.words, shape.groups)
        layer = [*map(float, (*shape.kernel, *shape.strides)), *map(_log, sizes)]
        layer += [float(problem.coded), float(work.kind == "adder"), float(bool(work.residual))]
        parts = (found.few, found.many) if isinstance(found, DenseParameters) else (found,)
        for kind in _KINDS:
            mine = next((p for p in parts if isinstance(p, kind)), None)
            layer.append(float(mine is not None))
            layer += map(float, astuple(mine if mine is not None else kind()))
        return [*layer, *_blocks(work, parts[-1], images)]


def _blocks(work: Workload, p: Parameters, images: int) -> list[float]:
    """Blocks of threads, and the pixels and outputs of one; zeros where layers alone decide."""
    problem = work.problem
    if isinstance(p, TileParameters):
        rows, columns = p.down * p.pixels, p.across * 4
    elif isinstance(p, MatrixParameters):
        rows, columns = p.down * p.rows * 16, p.across * p.panels * problem.panel
    else:
        return [0.0] * 4
    blocks = -(-images * problem.pixels // rows) * -(-problem.outputs // columns)
    # The share of the sums that are those of outputs.
    used = problem.outputs / round_up(problem.outputs, columns)
    return [_log(blocks * work.shape.groups), _log(rows), _log(columns), used]


def _log(value: float) -> float:
    return log2(value + 1)
