"""What the layer kernels share: a block that computes a tile, and what follows it.

A kernel writes int32 sums in a block called TILE_BLOCK: of one tile of an image under two loops
(image, tile), or of some rows of a matrix under one. Blocks behind it add the bias and whatever
was fused: they become one block, which for images runs tile by tile while the sums are in the
cache.
"""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import s_tir, tirx

from .spatial import schedule_block, useful_lanes

TILE_BLOCK = "shiftadd_tile"


def int64(*sizes: int) -> tuple[Any, ...]:
    """Sizes in the type Relax gives to shapes."""
    return tuple(tirx.IntImm("int64", size) for size in sizes)


def is_tiled(sch: s_tir.Schedule) -> bool:
    """Whether the scheduled function holds a layer kernel."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    return any(sch.get(block).name_hint == TILE_BLOCK for block in blocks)


def schedule_tiled(sch: s_tir.Schedule) -> None:
    """Fuse what follows the kernel, tile by tile where it can be; run tiles in parallel."""
    tile, *epilogue = sch.get_child_blocks(sch.get_sblock("root"))
    loops = sch.get_loops(tile)
    if len(loops) == 1:
        # What a symbolic number of rows covers cannot be proved, so nothing can be inlined.
        sch.parallel(loops[0])
        for block in epilogue:
            schedule_block(sch, block)
        return
    *inner, last = epilogue
    for block in inner:
        sch.compute_inline(block)
    sch.reverse_compute_at(last, loops[1])
    sch.parallel(sch.fuse(*loops))
    channels = sch.get_loops(last)[-1]
    lanes = useful_lanes(sch.get(channels).extent)
    if lanes > 1:
        sch.vectorize(sch.split(channels, [None, lanes])[1])
