"""Which parameters a kernel may have, and which of those are worth a trial.

Candidates are only those that can be: every sum has a register, and cuts are even. Of tiles, those
are left out that by the rule's own estimate of their costs come out far behind its choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .depthwise import DepthwisePlan
from .parameters import ConvParameters, DepthwiseParameters, Parameters
from .plan import (
    ALL_SUMS,
    PANEL,
    ConvPlan,
    by_rule,
    segments_of,
    sums_size,
    tile_cost,
    tiles_of,
)

#: Candidates are tiles that cost up to so much of the best one's estimate.
_NEAR = 1.35
#: Quads of a turn, and parts of a map, that are tried at most.
_MOST_UNROLLED, _MOST_PARTS = 8, 4
#: Vectors of outputs of a block of the dense kernel.
_MOST_VECTORS = 8


def problem_of(plan: ConvPlan | DepthwisePlan) -> str:
    """What is wrong with a plan's parameters, for people; "" where they can be."""
    if isinstance(plan, DepthwisePlan):
        return _depthwise_problem(plan)
    p, shape = plan.parameters, plan.shape
    if min(p.rows, p.columns, p.vectors, p.unroll, p.parts) < 1 or p.segment < 0:
        return "a size is less than 1"
    if p.vectors > plan.group_vectors:
        return f"{p.vectors} vectors of outputs, but the layer has {plan.group_vectors}"
    if plan.images:
        if p.rows > plan.images:
            return f"{p.rows} rows, but {plan.images} images are computed together"
        # Not by ``room``: a few sums on the stack can still be faster (``dense`` has when).
        if 2 * p.rows * p.vectors > plan.isa.registers:
            return f"{p.rows} rows of {p.vectors} vectors do not fit the registers"
        return ""
    if p.rows > shape.out_height or p.columns > shape.out_width:
        return f"a tile of {p.rows}x{p.columns} does not fit {shape.out_height}x{shape.out_width}"
    if p.rows * p.columns * p.vectors > plan.isa.room(p.vectors, plan.most):
        return f"a tile of {p.rows}x{p.columns}x{p.vectors} vectors does not fit the registers"
    if plan.run_quads % plan.segment or plan.segment % p.unroll:
        return f"{plan.run_quads} quads are not made of {plan.segment} in turns of {p.unroll}"
    if p.fetch and plan.coded:
        return "weights of one term are decoded ahead of their use, not fetched"
    if p.parts > -(-shape.out_height // p.rows):
        return f"{p.parts} parts of {-(-shape.out_height // p.rows)} rows of tiles"
    return ""


def _depthwise_problem(plan: DepthwisePlan) -> str:
    p, most = plan.parameters, _groups(plan)
    if not 1 <= p.groups <= most:
        return f"{p.groups} groups of pixels are not from 1 to {most}"
    if not 1 <= p.parts <= plan.shape.out_height:
        return f"{p.parts} parts of {plan.shape.out_height} rows"
    return ""


def _groups(plan: DepthwisePlan) -> int:
    """Groups of pixels that can be computed together."""
    return min(plan.most_groups, plan.shape.out_width // plan.together)


def candidates(plan: ConvPlan | DepthwisePlan, threads: int) -> list[Parameters]:
    """The parameters to try in place of those of ``plan``, which by rule come first."""
    found: Iterator[Parameters]
    if isinstance(plan, DepthwisePlan):
        found = _depthwise(plan, threads)
    else:
        found = _dense(plan, threads) if plan.images else _conv(plan, threads)
    return list(dict.fromkeys([plan.parameters, *found]))


def _depthwise(plan: DepthwisePlan, threads: int) -> Iterator[DepthwiseParameters]:
    for parts in range(1, 1 + min(_MOST_PARTS if threads > 1 else 1, plan.shape.out_height)):
        for groups in range(1, 1 + _groups(plan)):
            yield DepthwiseParameters(groups, parts)


def _dense(plan: ConvPlan, threads: int) -> Iterator[ConvParameters]:
    for vectors in range(1, 1 + min(_MOST_VECTORS, plan.group_vectors)):
        for rows in range(1, 1 + min(plan.images, plan.isa.registers // (2 * vectors))):
            for parallel in (False, True)[: 2 if threads > 1 else 1]:
                yield ConvParameters(rows=rows, vectors=vectors, parallel=parallel)


def _conv(plan: ConvPlan, threads: int) -> Iterator[ConvParameters]:
    least = tile_cost(plan, plan.rows, plan.columns, plan.vectors)
    for tile in tiles_of(plan):
        if tile_cost(plan, *tile) > _NEAR * least:
            continue
        tiled = by_rule(plan, tile)
        for parts, parallel in _spreads(tiled, threads):
            base = replace(tiled.parameters, parts=parts, parallel=parallel)
            for segment in _segments(replace(tiled, parameters=base)):
                yield from _inner(replace(plan, parameters=replace(base, segment=segment)))


def _spreads(plan: ConvPlan, threads: int) -> Iterator[tuple[int, bool]]:
    """Parts, and whether threads are started."""
    yield 1, False
    if threads > 1:
        for parts in range(1, 1 + min(_MOST_PARTS, -(-plan.shape.out_height // plan.rows))):
            if plan.shape.groups * plan.panels * parts > 1:
                yield parts, True


def _segments(plan: ConvPlan) -> Iterator[int]:
    """Cuts of a panel: none, and the largest parts that the first-level cache may hold."""
    yield 0
    quad = plan.vectors * plan.isa.vector
    if plan.shape.kernel[0] * plan.runs * plan.run_quads * quad <= PANEL:
        return
    whole = sums_size(plan) > 4 * ALL_SUMS
    sizes = [plan.run_quads] if whole else sorted({*segments_of(plan), plan.run_quads})
    yield from [size for size in sizes if size * quad <= 2 * PANEL][-3:]


def _inner(plan: ConvPlan) -> Iterator[ConvParameters]:
    """Lengths of the innermost loop, with weights fetched ahead and without."""
    sums = plan.rows * plan.columns * plan.vectors
    for unroll in range(1, _MOST_UNROLLED + 1):
        if plan.segment % unroll or (unroll > 1 and unroll * sums > 2 * plan.isa.unrolled):
            continue
        for fetch in (False,) if plan.coded else (False, True):
            yield replace(plan.parameters, unroll=unroll, fetch=fetch)
