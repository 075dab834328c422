"""Compute definitions of pooling over int8 or uint8 maps ``[N, H, W, C]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.formats.ranges import activation_range
from tvm_shiftadd.formats.reciprocal import Terms
from tvm_shiftadd.formats.reference import avg_pool_reciprocal
from tvm_shiftadd.formats.windows import pool_counts
from tvm_shiftadd.topi.layout import pad
from tvm_shiftadd.topi.scaling import int32


def average_shifts(size: tuple[int, int], **window: Any) -> NDArray[np.int32]:
    """The left shifts of all terms of a map's reciprocals, one count after the other, int32 [T].

    They are an operand because code generators turn sums of shifts by amounts that they know back
    into products. ``window``: the keyword arguments of :func:`avg_pool2d`, as tuples.
    """
    terms = avg_pool_reciprocal(size, **window).terms
    return np.array([left for count in terms for _, left in terms[count]], np.int32)


def avg_pool2d(
    x: Any,
    shifts: Any,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Any:
    """int32 ``[N, OH, OW, C]``: window sums times the shift-add reciprocals of their counts.

    ``shifts`` holds what :func:`average_shifts` gives for the same map and window.
    """
    where: dict[str, Any] = {
        "pool_size": tuple(pool_size),
        "strides": tuple(strides),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad,
    }
    size = (int(x.shape[1]), int(x.shape[2]))
    counts = pool_counts(size, **where)
    terms = avg_pool_reciprocal(size, **where).terms
    outputs = (int(counts.shape[0]), int(counts.shape[1]))
    window = _window(x, outputs, where, 0)
    total = te.compute(
        window.shape,
        lambda *i: te.sum(window.read(*i).astype("int32"), axis=window.axes),
        name="window_sum",
    )
    count = _count_at(size, where)
    # The most frequent count, that of the interior, needs no comparison.
    values, uses = np.unique(counts, return_counts=True)
    interior = int(values[uses.argmax()])

    first: dict[int, int] = {}
    for border in terms:
        first[border] = sum(len(terms[earlier]) for earlier in first)

    def average(n: Any, row: Any, column: Any, channel: Any) -> Any:
        value = total[n, row, column, channel]

        def of_count(count: int) -> Any:
            return _by_shifts(value, terms[count], shifts, first[count])

        result = of_count(interior)
        for border in terms:
            if border != interior:
                result = tirx.Select(count(row, column) == border, of_count(border), result)
        return result

    return te.compute(total.shape, average, name="average")


def max_pool2d(
    x: Any,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Any:
    """The maximum of each window, ``[N, OH, OW, C]``; padding is least of all and never wins."""
    where: dict[str, Any] = {
        "pool_size": tuple(pool_size),
        "strides": tuple(strides),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "ceil_mode": ceil_mode,
    }
    counts = pool_counts((int(x.shape[1]), int(x.shape[2])), **where)
    outputs = (int(counts.shape[0]), int(counts.shape[1]))
    window = _window(x, outputs, where, activation_range(str(x.dtype))[0])
    return te.compute(
        window.shape, lambda *i: te.max(window.read(*i), axis=window.axes), name="max_pool2d"
    )


class _Window:
    """A padded map and the reduction axes that run over one window of it."""

    def __init__(self, source: Any, shape: tuple[Any, ...], where: dict[str, Any]) -> None:
        self.shape = shape
        self.axes = [
            te.reduce_axis((0, extent), name=name)
            for extent, name in zip(where["pool_size"], ("ky", "kx"), strict=True)
        ]
        self._source = source
        self._steps = (where["strides"], where["dilation"])

    def read(self, n: Any, row: Any, column: Any, channel: Any) -> Any:
        """The element of the window at (row, column) that the reduction axes point at."""
        strides, dilation = self._steps
        y, x = self.axes
        return self._source[
            n,
            row * strides[0] + y * dilation[0],
            column * strides[1] + x * dilation[1],
            channel,
        ]


def _window(x: Any, outputs: tuple[int, int], where: dict[str, Any], fill: int) -> _Window:
    """Pad ``x`` to exactly what the windows read (ceil mode may read beyond the padding)."""
    n, h, w, c = x.shape
    widths = [0, 0]
    for axis, size in enumerate((int(h), int(w))):
        before = where["padding"][axis]
        last = (outputs[axis] - 1) * where["strides"][axis]
        end = last + (where["pool_size"][axis] - 1) * where["dilation"][axis] + 1
        widths += [before, max(0, end - before - size)]
    source = pad(x, pad_width=[*widths, 0, 0], fill=fill) if any(widths) else x
    return _Window(source, (n, *outputs, c), where)


def _count_at(size: tuple[int, int], where: dict[str, Any]) -> Callable[[Any, Any], Any]:
    """The count of the window at (row, column), as index arithmetic."""

    def along(axis: int, index: Any) -> Any:
        before, after = where["padding"][axis], where["padding"][axis + 2]
        step, taps = where["dilation"][axis], where["pool_size"][axis]
        first = index * where["strides"][axis] - before
        include = where["count_include_pad"]
        low, high = (-before, size[axis] + after) if include else (0, size[axis])
        # Taps t with low <= first + t * step < high.
        begin = tirx.max((low - first + step - 1) // step, 0)
        end = tirx.min((high - first + step - 1) // step, taps)
        return tirx.max(end - begin, 0)

    return lambda row, column: along(0, row) * along(1, column)


def _by_shifts(total: Any, terms: Terms, shifts: Any, first: int) -> Any:
    """The sum of +-(total << shifts[first + i]) over the terms of a reciprocal."""
    result: Any = None
    for index, (sign, left) in enumerate(terms):
        shifted = total << shifts[first + index] if left else total
        if result is None:
            result = shifted if sign > 0 else int32(0) - shifted
        else:
            result = result + shifted if sign > 0 else result - shifted
    return result
