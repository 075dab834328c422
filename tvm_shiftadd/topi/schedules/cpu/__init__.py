"""CPU schedules: the planar convolution kernel, and one schedule for everything else."""

from __future__ import annotations

from tvm_shiftadd._compat import s_tir, tirx

from .planar import is_planar, schedule_planar
from .spatial import schedule_spatial

__all__ = ["schedule_function"]


def schedule_function(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The PrimFunc scheduled for a CPU: vectorised, and parallel where it has enough work."""
    sch = s_tir.Schedule(func)
    if is_planar(sch):
        schedule_planar(sch)
    else:
        schedule_spatial(sch)
    return sch.mod["main"].with_attr("tirx.noalias", True)
