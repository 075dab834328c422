"""How to run the micro-ops of one instruction all at once.

Micro-ops run one after another. A plan groups them so that NumPy can take a whole group in one
step with the same result. It depends on the indices alone, not on data, so that it is made once
and used for every tile that runs the same micro-op kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vta_ext.isa.access import Index


@dataclass(frozen=True)
class GemmGroup:
    """Accumulators that all add up the same weights: one matrix product.

    dst: ``[D]``, all distinct over the whole plan. src: ``[D, R]``. wgt: ``[R]``. Where
    ``keeps`` is False, the old accumulators do not count.
    """

    dst: Index
    src: Index
    wgt: Index
    keeps: bool


def plan_gemm(dst: Index, src: Index, wgt: Index, replacing: int) -> tuple[GemmGroup, ...]:
    """Groups of the micro-ops ``[N]``, of which the first ``replacing`` replace accumulators.

    Sums may be taken in any order, because they wrap; so all micro-ops of an accumulator go
    together, and accumulators whose micro-ops use the same weights share a group.
    """
    if replacing:
        dst, src, wgt, replaced = _without_overwritten(dst, src, wgt, replacing)
    else:
        replaced = np.zeros(0, np.int64)
    order = np.argsort(dst, kind="stable")
    targets, first, count = np.unique(dst[order], return_index=True, return_counts=True)
    keeps = ~np.isin(targets, replaced)
    groups: list[GemmGroup] = []
    for length in np.unique(count):
        rows = np.flatnonzero(count == length)
        places = order[first[rows][:, None] + np.arange(length)]
        key = np.concatenate([wgt[places], keeps[rows][:, None]], axis=1)
        for members in _equal_rows(key):
            one = places[members]
            kept = bool(keeps[rows[members[0]]])
            groups.append(GemmGroup(targets[rows[members]], src[one], wgt[one[0]], kept))
    return tuple(groups)


def _without_overwritten(
    dst: Index, src: Index, wgt: Index, replacing: int
) -> tuple[Index, Index, Index, Index]:
    """Drop micro-ops whose result a later replacing one discards; also the accumulators replaced.

    Of the first ``replacing`` micro-ops, the last of each accumulator counts.
    """
    replaced, backwards = np.unique(dst[:replacing][::-1], return_index=True)
    kept = np.concatenate([replacing - 1 - backwards, np.arange(replacing, len(dst))])
    return dst[kept], src[kept], wgt[kept], replaced


def _equal_rows(key: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Row numbers of ``key``, those of equal rows together."""
    rows = np.ascontiguousarray(key)
    opaque = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, inverse = np.unique(opaque, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)


@dataclass(frozen=True)
class AluWave:
    """Micro-ops none of which needs another's result: positions in program order, ``[n]``."""

    members: Index


def plan_alu(dst: Index, reads: Index | None) -> tuple[AluWave, ...]:
    """Waves of the micro-ops ``[N]``; ``reads`` are accumulators ``[N, count]`` read besides dst.

    Waves run one after another; within one, every read sees the state before the wave.
    """
    if reads is None or not np.isin(reads, dst).any():
        level = _occurrence(dst)
    else:
        level = _levels(dst, reads)
    order = np.argsort(level, kind="stable")
    return tuple(
        AluWave(part) for part in np.split(order, np.flatnonzero(np.diff(level[order])) + 1)
    )


def _occurrence(values: Index) -> Index:
    """How many equal values come before each one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    found = np.empty(len(values), np.int64)
    found[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return found


def _levels(dst: Index, reads: Index) -> Index:
    """Level of each micro-op where some read what others write: beyond all they depend on."""
    written: dict[int, int] = {}
    read: dict[int, int] = {}
    levels = np.empty(len(dst), np.int64)
    for number, (target, sources) in enumerate(zip(dst.tolist(), reads.tolist(), strict=True)):
        after = [written.get(entry, -1) + 1 for entry in (target, *sources)]
        # A wave reads before it writes, so a write may share the wave of an earlier read.
        level = max(*after, read.get(target, 0))
        levels[number] = level
        written[target] = level
        for entry in sources:
            read[entry] = max(read.get(entry, 0), level)
    return levels
