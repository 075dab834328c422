"""CPU schedules: the layers' kernels, and one schedule for everything else."""

from __future__ import annotations

from tvm_shiftadd._compat import s_tir, tirx

from .spatial import schedule_spatial
from .tiled import is_tiled, schedule_tiled

__all__ = ["schedule_function"]


def schedule_function(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The PrimFunc scheduled for a CPU: vectorised, and parallel where it has enough work."""
    block = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else None
    if block is None or block.name_hint != "root":
        # Written by hand, without blocks to schedule: TVM's sorting on the host.
        return func.with_attr("tirx.noalias", True)
    sch = s_tir.Schedule(func)
    if is_tiled(sch):
        schedule_tiled(sch)
    else:
        try:
            schedule_spatial(sch)
        except s_tir.ScheduleError:
            # A host operator of a form that was not foreseen: as it came it is slow, but right.
            return func.with_attr("tirx.noalias", True)
    return sch.mod["main"].with_attr("tirx.noalias", True)
