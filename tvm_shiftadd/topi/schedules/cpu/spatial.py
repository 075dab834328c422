"""The schedule of everything without a kernel of its own.

Element-wise chains, pooling, layout changes, float host operators: producers are inlined, the
loops over pixels run in parallel, and the innermost axis, the channels, is vectorised.
"""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import s_tir, tirx

#: Elements a vectorised loop may have; LLVM splits what is wider than the machine's registers.
MAX_LANES = 64
#: Shorter vectors are not worth a remainder loop.
MIN_LANES = 4
#: Loops with fewer iterations than this are not worth starting threads for.
MIN_PARALLEL_WORK = 4096


def schedule_spatial(sch: s_tir.Schedule) -> None:
    """Inline, vectorise and parallelise the structured blocks of a function.

    Blocks it does not understand are left as they are, which is correct and slow.
    """
    root = sch.get_sblock("root")
    _inline_producers(sch, root)
    for block in sch.get_child_blocks(root):
        schedule_block(sch, block)


def _inline_producers(sch: Any, root: Any) -> None:
    for block in sch.get_child_blocks(root):
        consumers = sch.get_consumers(block)
        if len(consumers) != 1:
            continue
        if _inner_lanes(sch, block) > 1 and _inner_lanes(sch, consumers[0]) == 1:
            # Vectors would be lost, for instance where channels-last images of three channels
            # are made from quantised planes.
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue


def _inner_lanes(sch: Any, block: Any) -> int:
    loops = sch.get_loops(block)
    return useful_lanes(sch.get(loops[-1]).extent) if loops else 1


def schedule_block(sch: Any, block: Any) -> None:
    """Vectorise the innermost spatial axis of a block and run the others in parallel."""
    node = sch.get(block)
    loops = sch.get_loops(block)
    if len(loops) != len(node.iter_vars) or not loops:
        return
    kinds = [int(var.iter_type) for var in node.iter_vars]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduce = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != 0]
    if not spatial or any(kind not in (0, 2) for kind in kinds):
        return
    *outer, inner = spatial
    lanes = useful_lanes(sch.get(inner).extent)
    vector = None
    if lanes > 1:
        blocks, vector = sch.split(inner, [None, lanes])
        outer.append(blocks)
    else:
        outer.append(inner)
    order = outer + reduce + ([vector] if vector is not None else [])
    sch.reorder(*order)
    work = _constant_product([sch.get(loop).extent for loop in order])
    fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    if work is None or work >= MIN_PARALLEL_WORK:
        sch.parallel(fused)
    if vector is not None:
        sch.vectorize(vector)
    if reduce:
        init = sch.decompose_reduction(block, reduce[0])
        if vector is not None:
            sch.vectorize(sch.get_loops(init)[-1])


def useful_lanes(extent: Any) -> int:
    """A divisor of an extent that is a useful vector length, or 1 if there is none.

    ``extent`` is an int or an expression; a symbolic one has none.
    """
    if not isinstance(extent, (int, tirx.IntImm)):
        return 1
    divisors = [lane for lane in range(MIN_LANES, MAX_LANES + 1) if int(extent) % lane == 0]
    whole = [lane for lane in divisors if lane & (lane - 1) == 0]
    # A power of two fills registers; LLVM takes other lengths apart, and not well.
    best, even = max(divisors, default=1), max(whole, default=1)
    return even if even >= 8 else best


def _constant_product(extents: list[Any]) -> int | None:
    product = 1
    for extent in extents:
        if not isinstance(extent, tirx.IntImm):
            return None
        product *= int(extent)
    return product
