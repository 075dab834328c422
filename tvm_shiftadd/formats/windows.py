"""Sizes of sliding windows: what convolutions and pooling make of a height and a width.

Padding is always (top, left, bottom, right).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def conv_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Output length of a convolution along one axis. Raises InputError where none is left."""
    room = size + before + after - (dilation * (kernel - 1) + 1)
    if room < 0:
        raise InputError(
            f"a window of {kernel} (dilation {dilation}) does not fit into {size} "
            f"padded by {before} and {after}; enlarge the input or the padding"
        )
    return room // stride + 1


def conv_map_size(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> Pair:
    """Height and width that a convolution makes of a map of ``size``; see :func:`conv_size`."""
    y, x = _axes(size, kernel, strides, padding, dilation)
    return conv_size(*y), conv_size(*x)


def transpose_size(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int, extra: int
) -> int:
    """Output length of a transposed convolution; ``extra`` is the output padding."""
    length = (size - 1) * stride - before - after + dilation * (kernel - 1) + 1 + extra
    if length < 1:
        raise InputError(
            f"a transposed convolution of {size} with kernel {kernel}, stride {stride} and padding "
            f"{before}, {after} leaves nothing; reduce the padding"
        )
    return length


def transpose_map_size(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> Pair:
    """Height and width of a transposed convolution; see :func:`transpose_size`."""
    y, x = _axes(size, kernel, strides, padding, dilation, extra)
    return transpose_size(*y), transpose_size(*x)


def pool_size_out(
    size: int,
    kernel: int,
    stride: int,
    before: int,
    after: int,
    dilation: int = 1,
    *,
    ceil_mode: bool = False,
) -> int:
    """Output length of pooling along one axis.

    With ``ceil_mode`` a last window may overhang the padded end, but must start inside the input
    or the padding before it (ONNX and PyTorch agree on this).
    """
    length = conv_size(size, kernel, stride, before, after, dilation)
    if ceil_mode:
        room = size + before + after - (dilation * (kernel - 1) + 1)
        if room % stride and length * stride < size + before:
            length += 1
    return length


def pool_map_size(
    size: Sequence[int],
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Pair:
    """Height and width of a pooling; see :func:`pool_size_out`."""
    y, x = _axes(size, pool_size, strides, padding, dilation)
    return pool_size_out(*y, ceil_mode=ceil_mode), pool_size_out(*x, ceil_mode=ceil_mode)


def _axes(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    *more: Sequence[int],
) -> Iterator[tuple[Any, ...]]:
    """What one axis needs, in the order of the functions above, for y and for x."""
    return zip(size, kernel, strides, padding[:2], padding[2:], *more, strict=True)


def _axis_counts(
    size: int,
    kernel: int,
    stride: int,
    before: int,
    after: int,
    dilation: int,
    *,
    ceil_mode: bool,
    include_pad: bool,
) -> NDArray[np.int64]:
    length = pool_size_out(size, kernel, stride, before, after, dilation, ceil_mode=ceil_mode)
    taps = np.arange(length)[:, None] * stride - before + np.arange(kernel) * dilation
    low, high = (-before, size + after) if include_pad else (0, size)
    counts: NDArray[np.int64] = ((taps >= low) & (taps < high)).sum(axis=1)
    return counts


def pool_counts(
    size: Pair,
    *,
    pool_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> NDArray[np.int64]:
    """What each average divides by: int64 ``[OH, OW]`` for an input of ``size`` (H, W).

    Padding counts where ``count_include_pad``; what a last window of ``ceil_mode`` overhangs
    beyond the padding never counts. A window without any element sums to 0 whatever divides it,
    and gets 1.
    """
    rows, columns = (
        _axis_counts(*axis, ceil_mode=ceil_mode, include_pad=count_include_pad)
        for axis in _axes(size, pool_size, strides, padding, dilation)
    )
    return np.maximum(np.outer(rows, columns), 1)
