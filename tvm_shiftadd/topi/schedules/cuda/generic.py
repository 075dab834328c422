"""The GPU schedule of every operator without a kernel of its own: a thread for each output element.

Neighbouring threads take neighbouring channels, so that they read and write whole lines of memory.
A thread sums in the order of the definition, so that sums of floats round as they do elsewhere.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm_shiftadd._compat import Analyzer, s_tir, tirx

from .names import with_plain_names

#: Threads of a block: a multiple of the 32 that run together.
THREADS = 256

#: ``IterVar``'s kinds that can be scheduled here.
_SPATIAL, _REDUCE = 0, 2


def schedule_function(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The PrimFunc with its loops bound to blocks and threads.

    One launch computes an output together with what is read element by element on the way to it;
    intermediate results that are read otherwise have launches of their own. A function that was
    written by hand, without blocks, comes back as it is.
    """
    func = with_plain_names(func)
    block = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else None
    if block is None or block.name_hint != "root":
        return func.with_attr("tirx.noalias", True)
    sch = s_tir.Schedule(func)
    root = sch.get_sblock("root")
    _inline_producers(sch, root)
    threads: dict[str, Any] = {}
    for child in reversed(sch.get_child_blocks(root)):
        name = sch.get(child).name_hint
        threads[name] = _beside_reader(sch, child, threads) or _bind(sch, child)
    return sch.mod["main"].with_attr("tirx.noalias", True)


def _inline_producers(sch: s_tir.Schedule, root: Any) -> None:
    """Compute element-wise results where they are read, unless two blocks read them."""
    for block in sch.get_child_blocks(root):
        if len(sch.get_consumers(block)) == 1:
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                continue  # a reduction


def _beside_reader(sch: s_tir.Schedule, block: Any, threads: dict[str, Any]) -> Any:
    """Compute a block in the threads of the one block that reads it, element by element.

    Returns the loop over those threads; None, and nothing changed, where that is not so.
    """
    readers = sch.get_consumers(block)
    if len(readers) != 1 or not _same_size(sch, block, readers[0]):
        return None
    loop = threads[sch.get(readers[0]).name_hint]
    try:
        sch.compute_at(block, loop)
    except s_tir.ScheduleError:
        return None
    sch.set_scope(block, 0, "local")
    return loop


def _same_size(sch: s_tir.Schedule, block: Any, reader: Any) -> bool:
    sizes = [prod(_spatial_extents(sch, each)) for each in (block, reader)]
    if any(int(var.iter_type) != _SPATIAL for var in sch.get(reader).iter_vars):
        return False
    return bool(Analyzer().can_prove_equal(*sizes))


def _spatial_extents(sch: s_tir.Schedule, block: Any) -> list[Any]:
    variables = sch.get(block).iter_vars
    return [var.dom.extent for var in variables if int(var.iter_type) == _SPATIAL]


def _bind(sch: s_tir.Schedule, block: Any) -> Any:
    """Give each element of a block's result a thread; returns the loop over a block's threads."""
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    loops = sch.get_loops(block)
    if len(loops) != len(kinds) or not set(kinds) <= {_SPATIAL, _REDUCE}:
        raise ValueError(f"expected one loop a dimension, got {len(loops)} for {kinds}")
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    summed = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCE]
    if not spatial:
        spatial = [sch.add_unit_loop(summed[0] if summed else block)]
    sch.reorder(*spatial, *summed)
    fused = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    blocks, inner = sch.split(fused, [None, THREADS])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    if summed:
        # The first element of a sum is a statement of its own, in the same thread.
        sch.decompose_reduction(block, summed[0])
    return inner
