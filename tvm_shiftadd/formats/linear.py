"""Convolution and dense layers on floating-point arrays, channels last, with BLAS.

The integer reference uses these on small integers, where float arithmetic is exact, and the
converter's float executor uses them as they are. The weight's dtype is the dtype of all
arithmetic; the input may be of any dtype and is converted piece by piece.

Shapes: maps ``[N, H, W, C]``; ``conv2d`` weights ``[kh, kw, I/groups, O]``; ``conv2d_transpose``
weights ``[kh, kw, I, O/groups]``; ``dense`` weights ``[I, O]``; bias ``[O]``. Padding is
(top, left, bottom, right).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.parallel import in_parallel
from tvm_shiftadd.formats.windows import Padding, Pair, conv_map_size, transpose_map_size

#: Bytes of one unfolded block. It stays in the second-level cache between the copy that fills it
#: and the matrix product that reads it, and bounds the memory of any layer.
BLOCK_BYTES = 1 << 20

Array = NDArray[Any]
#: Images n0 to n1, rows y0 to y1 of the output.
Block = tuple[int, int, int, int]


def _blocks(images: int, rows: int, row_bytes: int, limit: int) -> list[Block]:
    """Split [images, rows] into (n0, n1, y0, y1) blocks of about ``limit`` bytes."""
    per_image = max(rows * row_bytes, 1)
    if per_image <= limit:
        step = limit // per_image
        return [(n, min(n + step, images), 0, rows) for n in range(0, images, step)]
    step = max(1, limit // max(row_bytes, 1))
    return [(n, n + 1, y, min(y + step, rows)) for n in range(images) for y in range(0, rows, step)]


def _slab(
    x: Array, n0: int, n1: int, row0: int, rows: int, padding: Padding, dtype: DTypeLike
) -> Array:
    """Rows ``row0`` to ``row0 + rows`` of the zero-padded images n0 to n1, converted to dtype."""
    top, left, _, right = padding
    height, width = x.shape[1:3]
    first, last = max(row0 - top, 0), min(row0 + rows - top, height)
    if not (left or right) and first == row0 - top and last - first == rows:
        piece: Array = np.ascontiguousarray(x[n0:n1, first:last], dtype=dtype)
        return piece
    slab = np.zeros((n1 - n0, rows, left + width + right, x.shape[3]), dtype=dtype)
    if last > first:
        slab[:, first + top - row0 : last + top - row0, left : left + width] = x[n0:n1, first:last]
    return slab


def _check_maps(name: str, x: Array, weight: Array, channels: int, groups: int) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[3] != channels or x.shape[3] % groups:
        raise InputError(
            f"{name} needs maps [N, H, W, {channels}] for weights {list(weight.shape)} in {groups} "
            f"group(s), not {list(x.shape)}; check the layout and the number of groups"
        )


def check_rows(name: str, x: Array, weight: Array) -> None:
    """Raise InputError where the last axis of ``x`` is not the first of a weight [I, O]."""
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise InputError(
            f"{name} needs an input [..., I] for its weight [I, O], not {list(x.shape)} for "
            f"{list(weight.shape)}; flatten the input or transpose the weight"
        )


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    out_dtype: DTypeLike | None = None,
) -> Array:
    """Convolution (cross-correlation, as in ONNX): ``[N, OH, OW, O]``.

    The result is of ``out_dtype``, by default the weight's dtype; the bias is added in that
    dtype. Raises InputError for shapes that do not fit.
    """
    per_group, out_channels = weight.shape[2:]
    _check_maps("conv2d", x, weight, per_group * groups, groups)
    if out_channels % groups:
        raise InputError(
            f"conv2d needs output channels divisible by {groups} groups, not {out_channels}; "
            "check the weight's layout"
        )
    size = conv_map_size(x.shape[1:3], weight.shape[:2], strides, padding, dilation)
    out = np.empty((x.shape[0], *size, out_channels), dtype=out_dtype or weight.dtype)
    if groups == 1:
        _dense_conv(x, weight, out, strides, padding, dilation)
    elif per_group == 1:
        _depthwise_conv(x, weight, out, strides, padding, dilation)
    else:
        made = out_channels // groups
        for group in range(groups):
            # Contiguous copies of one group's channels keep the unfolding copies long.
            part = np.empty((*out.shape[:3], made), dtype=out.dtype)
            own = x[..., group * per_group : (group + 1) * per_group]
            taps = weight[..., group * made : (group + 1) * made]
            _dense_conv(own, taps, part, strides, padding, dilation)
            out[..., group * made : (group + 1) * made] = part
    if bias is not None:
        out += bias.astype(out.dtype, copy=False)
    return out


def _dense_conv(
    x: Array, weight: Array, out: Array, strides: Pair, padding: Padding, dilation: Pair
) -> None:
    """One group: unfold a block of windows, multiply it by the weight matrix."""
    kernel_h, kernel_w, channels, made = weight.shape
    matrix = np.ascontiguousarray(weight.reshape(-1, made))
    images, height, width = out.shape[:3]
    row_bytes = width * matrix.shape[0] * matrix.itemsize
    direct = kernel_h == kernel_w == 1 and strides == (1, 1)

    def convolve(place: Block) -> None:
        n0, n1, y0, y1 = place
        rows = (y1 - y0 - 1) * strides[0] + dilation[0] * (kernel_h - 1) + 1
        slab = _slab(x, n0, n1, y0 * strides[0], rows, padding, matrix.dtype)
        if direct:
            columns = slab
        else:
            step_n, step_y, step_x, step_c = slab.strides
            columns = np.ascontiguousarray(
                as_strided(
                    slab,
                    (n1 - n0, y1 - y0, width, kernel_h, kernel_w, channels),
                    (
                        step_n,
                        step_y * strides[0],
                        step_x * strides[1],
                        step_y * dilation[0],
                        step_x * dilation[1],
                        step_c,
                    ),
                    writeable=False,
                )
            )
        block = out[n0:n1, y0:y1].reshape(-1, made)
        flat = columns.reshape(-1, matrix.shape[0])
        if out.dtype == matrix.dtype:
            np.matmul(flat, matrix, out=block)
        else:
            block[...] = flat @ matrix

    in_parallel(convolve, _blocks(images, height, row_bytes, BLOCK_BYTES))


def _depthwise_conv(
    x: Array, weight: Array, out: Array, strides: Pair, padding: Padding, dilation: Pair
) -> None:
    """One input channel a group: one multiply-add of whole rows for each tap."""
    kernel_h, kernel_w = weight.shape[:2]
    images, height, width, made = out.shape
    repeat = made // x.shape[3]
    stride_y, stride_x = strides
    # Each tap's weights are laid out along a whole row so that NumPy's inner loop is long.
    taps = np.ascontiguousarray(
        np.broadcast_to(weight[:, :, :, :], (kernel_h, kernel_w, width, made))
    )
    row_bytes = width * made * taps.itemsize

    def convolve(place: Block) -> None:
        n0, n1, y0, y1 = place
        rows = (y1 - y0 - 1) * stride_y + dilation[0] * (kernel_h - 1) + 1
        slab = _slab(x, n0, n1, y0 * stride_y, rows, padding, taps.dtype)
        if repeat > 1:
            slab = np.repeat(slab, repeat, axis=3)
        phases = {
            (py, px): np.ascontiguousarray(slab[:, py::stride_y, px::stride_x])
            for py in range(min(stride_y, rows))
            for px in range(min(stride_x, slab.shape[2]))
        }
        total = np.zeros((n1 - n0, y1 - y0, width, made), dtype=taps.dtype)
        product = np.empty_like(total)
        for ky in range(kernel_h):
            down, py = divmod(ky * dilation[0], stride_y)
            for kx in range(kernel_w):
                across, px = divmod(kx * dilation[1], stride_x)
                view = phases[py, px][:, down : down + y1 - y0, across : across + width]
                np.multiply(view, taps[ky, kx], out=product)
                total += product
        out[n0:n1, y0:y1] = total

    in_parallel(convolve, _blocks(images, height, row_bytes, BLOCK_BYTES // 8))


def conv2d_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    out_dtype: DTypeLike | None = None,
) -> Array:
    """Transposed convolution, the gradient of :func:`conv2d`: ``[N, OH, OW, O]``.

    ``out[y * stride - padding + ky * dilation] += x[y] @ weight[ky]`` along both axes;
    ``output_padding`` adds rows below and columns to the right. Raises InputError for shapes that
    do not fit.
    """
    channels, per_group = weight.shape[2:]
    _check_maps("conv2d_transpose", x, weight, channels, groups)
    window = (x.shape[1:3], weight.shape[:2], strides, padding, dilation, output_padding)
    size = transpose_map_size(*window)
    out = np.empty((x.shape[0], *size, per_group * groups), dtype=out_dtype or weight.dtype)
    each = channels // groups
    for group in range(groups):
        taps = weight[:, :, group * each : (group + 1) * each]
        own = x[..., group * each : (group + 1) * each]
        part = out[..., group * per_group : (group + 1) * per_group]
        _scatter_conv(own, taps, part, strides, padding, dilation)
    if bias is not None:
        out += bias.astype(out.dtype, copy=False)
    return out


def _scatter_conv(
    x: Array, weight: Array, out: Array, strides: Pair, padding: Padding, dilation: Pair
) -> None:
    """One group of a transposed convolution: every pixel's products are added where they belong."""
    kernel_h, kernel_w, channels, made = weight.shape
    matrix = np.ascontiguousarray(weight.transpose(2, 0, 1, 3).reshape(channels, -1))
    images, height, width = x.shape[:3]
    top, left, bottom, right = padding
    row_bytes = width * matrix.shape[1] * matrix.itemsize

    def convolve(image: int) -> None:
        full = np.zeros(
            (out.shape[1] + top + bottom, out.shape[2] + left + right, made), dtype=matrix.dtype
        )
        for _, _, y0, y1 in _blocks(1, height, row_bytes, BLOCK_BYTES):
            piece = x[image, y0:y1].reshape(-1, channels)
            columns = piece.astype(matrix.dtype, copy=False) @ matrix
            columns = columns.reshape(y1 - y0, width, kernel_h, kernel_w, made)
            for ky in range(kernel_h):
                row = y0 * strides[0] + ky * dilation[0]
                end = row + (y1 - y0 - 1) * strides[0] + 1
                for kx in range(kernel_w):
                    column = kx * dilation[1]
                    stop = column + (width - 1) * strides[1] + 1
                    full[row : end : strides[0], column : stop : strides[1]] += columns[
                        :, :, ky, kx
                    ]
        out[image] = full[top : top + out.shape[1], left : left + out.shape[2]]

    in_parallel(convolve, range(images))


def dense(
    x: Array, weight: Array, bias: Array | None = None, *, out_dtype: DTypeLike | None = None
) -> Array:
    """Fully connected layer over the last axis: ``[..., O]``.

    Raises InputError for shapes that do not fit.
    """
    check_rows("dense", x, weight)
    flat = x.reshape(-1, x.shape[-1])
    out = np.empty((len(flat), weight.shape[1]), dtype=out_dtype or weight.dtype)

    def multiply(place: Block) -> None:
        rows = slice(place[0], place[1])
        out[rows] = flat[rows].astype(weight.dtype, copy=False) @ weight

    in_parallel(multiply, _blocks(len(flat), 1, flat.shape[1] * weight.itemsize, BLOCK_BYTES))
    if bias is not None:
        out += bias.astype(out.dtype, copy=False)
    result: Array = out.reshape(*x.shape[:-1], weight.shape[1])
    return result
