"""Compute definitions that move stored data: concat, pad, upsample2d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import te, tirx


def concat(tensors: Sequence[Any], *, axis: int) -> Any:
    """The tensors joined along ``axis``; they agree in every other axis."""
    tensors = list(tensors)
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + tensor.shape[axis])
    shape = list(tensors[0].shape)
    shape[axis] = starts[-1]

    def body(*i: Any) -> Any:
        def read(tensor: Any, start: Any) -> Any:
            return tensor(*i[:axis], i[axis] - start, *i[axis + 1 :])

        result = read(tensors[-1], starts[-2])
        for k in range(len(tensors) - 2, -1, -1):
            here = i[axis] < starts[k + 1]
            result = tirx.if_then_else(here, read(tensors[k], starts[k]), result)
        return result

    return te.compute(shape, body, name="concat")


def pad(x: Any, *, pad_width: Sequence[int], fill: int = 0) -> Any:
    """``fill`` around ``x``; ``pad_width`` is before and after of each axis in turn."""
    widths = [(pad_width[2 * k], pad_width[2 * k + 1]) for k in range(len(x.shape))]
    shape = [dim + before + after for dim, (before, after) in zip(x.shape, widths, strict=True)]

    def body(*i: Any) -> Any:
        inside = []
        for index, dim, (before, after) in zip(i, x.shape, widths, strict=True):
            if before:
                inside.append(index >= before)
            if after:
                inside.append(index < before + dim)
        source = [index - before for index, (before, _) in zip(i, widths, strict=True)]
        if not inside:
            return x(*source)
        return tirx.if_then_else(tirx.all(*inside), x(*source), tirx.const(fill, x.dtype))

    return te.compute(shape, body, name="pad")


def upsample2d(x: Any, *, scale: Sequence[int]) -> Any:
    """``[N, H, W, C]``: each row repeated scale[0] times, each column scale[1] times."""
    n, h, w, c = x.shape

    def body(batch: Any, row: Any, column: Any, channel: Any) -> Any:
        return x[batch, row // scale[0], column // scale[1], channel]

    return te.compute((n, h * scale[0], w * scale[1], c), body, name="upsample2d")
