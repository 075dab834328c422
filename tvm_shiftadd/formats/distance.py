"""Sums of absolute differences, what adder layers are made of, on integers and floats.

``sum over r of |x[p, r] - w[r, o]|`` has no matrix product behind it: for each r a column of
pixels meets a row of filters, and three vector operations add their distances. Blocks of pixels
stay in the cache, and integers are summed in 16 bits as far as these hold the sum.

Shapes: maps ``[N, H, W, C]``; convolution weights ``[kh, kw, I, O]``; dense weights ``[I, O]``.
Padding is (top, left, bottom, right).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.linear import check_rows
from tvm_shiftadd.formats.parallel import in_parallel
from tvm_shiftadd.formats.windows import Padding, Pair, conv_map_size

#: Elements of one block of distances: three arrays of these stay in the second-level cache.
BLOCK_ELEMENTS = 1 << 16

#: Distances of two int8 values, 255 at most, that a 16-bit sum holds.
NARROW_STEPS = 128

Array = NDArray[Any]


def conv2d(
    x: Array, weight: Array, *, strides: Pair = (1, 1), padding: Padding = (0, 0, 0, 0)
) -> Array:
    """``sum over the window of |x - w|``: ``[N, OH, OW, O]``, zeros around the map.

    int8 arrays give int32, float32 arrays float32. Raises InputError for shapes that do not fit.
    """
    kernel_h, kernel_w, channels, made = weight.shape if weight.ndim == 4 else (0, 0, -1, 0)
    if x.ndim != 4 or x.shape[3] != channels:
        raise InputError(
            f"an adder convolution needs maps [N, H, W, I] for its weight [kh, kw, I, O], not "
            f"{list(x.shape)} for {list(weight.shape)}; it has no groups"
        )
    top, left, bottom, right = padding
    height, width = conv_map_size(x.shape[1:3], (kernel_h, kernel_w), strides, padding)
    out = np.empty((x.shape[0], height, width, made), _result_type(x, weight))
    rows = weight.reshape(-1, made)
    images = max(1, BLOCK_ELEMENTS // max(1, height * width * made))
    sides = ((0, 0), (top, bottom), (left, right), (0, 0))

    def convolve(start: int) -> None:
        padded = np.pad(x[start : start + images], sides)
        step_n, step_y, step_x, step_c = padded.strides
        shape = (kernel_h, kernel_w, channels, len(padded), height, width)
        steps = (step_y, step_x, step_c, step_n, step_y * strides[0], step_x * strides[1])
        windows = as_strided(padded, shape, steps, writeable=False)
        columns = windows.reshape(len(rows), -1)
        block = out[start : start + images].reshape(-1, made)
        _distances(columns, rows, block)

    in_parallel(convolve, range(0, x.shape[0], images))
    return out


def dense(x: Array, weight: Array) -> Array:
    """``sum over i of |x[..., i] - w[i, o]|``: ``[..., O]``; types as for :func:`conv2d`.

    Raises InputError for shapes that do not fit.
    """
    check_rows("an adder layer", x, weight)
    flat = x.reshape(-1, x.shape[-1])
    out = np.empty((len(flat), weight.shape[1]), _result_type(x, weight))
    step = max(1, BLOCK_ELEMENTS // weight.shape[1])

    def measure(start: int) -> None:
        columns = np.ascontiguousarray(flat[start : start + step].T)
        _distances(columns, weight, out[start : start + step])

    in_parallel(measure, range(0, len(flat), step))
    return out.reshape(*x.shape[:-1], weight.shape[1])


def _result_type(x: Array, weight: Array) -> type[np.generic]:
    kinds = (x.dtype, weight.dtype)
    if kinds == (np.dtype(np.int8), np.dtype(np.int8)):
        return np.int32
    if kinds == (np.dtype(np.float32), np.dtype(np.float32)):
        return np.float32
    raise InputError(
        f"distances are of two int8 or two float32 arrays, not {x.dtype} and {weight.dtype}; "
        "quantise both or neither"
    )


def _distances(columns: Array, rows: Array, out: Array) -> None:
    """``out[p, o] = sum over r of |columns[r, p] - rows[r, o]|``."""
    pixels = columns.shape[1]
    step = max(1, BLOCK_ELEMENTS // max(1, rows.shape[1]))
    for first in range(0, pixels, step):
        part = slice(first, first + step)
        if out.dtype == np.int32:
            _integer_block(columns[:, part], rows, out[part])
        else:
            total = np.zeros((rows.shape[1], columns[0, part].size), out.dtype)
            _add_distances(columns[:, part], rows[:, :, None], total)
            out[part] = total.T


def _integer_block(columns: Array, rows: Array, out: Array) -> None:
    wide = np.zeros((rows.shape[1], columns.shape[1]), np.int32)
    for first in range(0, len(columns), NARROW_STEPS):
        part = slice(first, first + NARROW_STEPS)
        narrow = np.zeros(wide.shape, np.int16)
        _add_distances(columns[part].astype(np.int16), rows[part, :, None].astype(np.int16), narrow)
        wide += narrow
    out[...] = wide.T


def _add_distances(columns: Array, rows: Array, total: Array) -> None:
    difference = np.empty_like(total)
    for pixels, filters in zip(columns, rows, strict=True):
        np.subtract(pixels, filters, out=difference)
        np.abs(difference, out=difference)
        np.add(total, difference, out=total)
