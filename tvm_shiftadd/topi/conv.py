"""Compute definitions of the shift-add convolutions, channels last.

A weight is a sum of K signed powers of two, so a tap of the window adds K shifted copies of one
activation to the accumulator. Weight codes are uint8 ``[K, ceil(R/2), O]`` (see ``terms``), R is
flattened in the order (ky, kx, input channel of the group).
"""

from __future__ import annotations

from collections.abc import Sequence

from .._compat import te, tirx
from ..formats.windows import conv_map_size, transpose_map_size
from .terms import Expr, shift_term, unpack_code


def pad_input(x: te.Tensor, padding: Sequence[int]) -> te.Tensor:
    """``[N, H, W, C]`` with ``padding`` (top, left, bottom, right) zeros around the map."""
    n, h, w, c = x.shape
    top, left, bottom, right = padding
    if not any(padding):
        return x

    def body(b: Expr, y: Expr, col: Expr, ch: Expr) -> Expr:
        inside = tirx.all(y >= top, y < h + top, col >= left, col < w + left)
        return tirx.if_then_else(inside, x[b, y - top, col - left, ch], tirx.const(0, x.dtype))

    return te.compute((n, h + top + bottom, w + left + right, c), body, name="padded")


def spread_input(
    x: te.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extents: Sequence[int],
) -> te.Tensor:
    """The input of a transposed convolution, its pixels ``strides`` apart with zeros between.

    A stride-1 convolution with the kernel flipped over the result ``[N, rows, cols, C]`` gives
    the ``extents`` (OH, OW) of the transposed convolution.
    """
    n, h, w, c = x.shape
    sizes, origins = [], []
    for axis in range(2):
        reach = (kernel_size[axis] - 1) * dilation[axis]
        sizes.append(extents[axis] + reach)
        origins.append(reach - padding[axis])

    def body(b: Expr, y: Expr, col: Expr, ch: Expr) -> Expr:
        at_y, at_x = y - origins[0], col - origins[1]
        inside = tirx.all(
            at_y >= 0,
            at_y <= (h - 1) * strides[0],
            at_x >= 0,
            at_x <= (w - 1) * strides[1],
            tirx.floormod(at_y, strides[0]) == 0,
            tirx.floormod(at_x, strides[1]) == 0,
        )
        source = x[b, tirx.floordiv(at_y, strides[0]), tirx.floordiv(at_x, strides[1]), ch]
        return tirx.if_then_else(inside, source, tirx.const(0, x.dtype))

    return te.compute((n, *sizes, c), body, name="spread")


def _accumulate(
    x: te.Tensor,
    codes: te.Tensor,
    extents: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    flip: bool,
) -> te.Tensor:
    """Sum over terms and taps: int32 ``[N, *extents, O]`` from the padded input."""
    kh, kw = kernel_size
    terms, _, outputs = codes.shape
    group_in = int(x.shape[3]) // groups
    group_out = int(outputs) // groups
    term = te.reduce_axis((0, terms), "term")
    ky = te.reduce_axis((0, kh), "ky")
    kx = te.reduce_axis((0, kw), "kx")
    ci = te.reduce_axis((0, group_in), "ci")

    def body(b: Expr, y: Expr, col: Expr, o: Expr) -> Expr:
        tap_y = kh - 1 - ky if flip else ky
        tap_x = kw - 1 - kx if flip else kx
        code = unpack_code(codes, term, (tap_y * kw + tap_x) * group_in + ci, o)
        channel = ci if groups == 1 else tirx.indexdiv(o, group_out) * group_in + ci
        pixel = x[
            b, y * strides[0] + ky * dilation[0], col * strides[1] + kx * dilation[1], channel
        ]
        return te.sum(shift_term(pixel, code), axis=[term, ky, kx, ci])

    return te.compute((x.shape[0], *extents, outputs), body, name="accumulator")


def _add_bias(accumulator: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """Add int32 ``[O]`` to the last axis."""
    return te.compute(accumulator.shape, lambda *i: accumulator(*i) + bias[i[-1]], name="biased")


def conv2d(
    x: te.Tensor,
    codes: te.Tensor,
    bias: te.Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> te.Tensor:
    """2-D convolution: int8 or uint8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``, bias added.

    ``padding`` is (top, left, bottom, right). Depthwise is ``groups`` = I. Raises
    InputError if the window does not fit the padded input.
    """
    size = (int(x.shape[1]), int(x.shape[2]))
    extents = conv_map_size(size, kernel_size, strides, padding, dilation)
    padded = pad_input(x, padding)
    total = _accumulate(padded, codes, extents, kernel_size, strides, dilation, groups, False)
    return _add_bias(total, bias)


def conv2d_transpose(
    x: te.Tensor,
    codes: te.Tensor,
    bias: te.Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    output_padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> te.Tensor:
    """Transposed 2-D convolution: int8 or uint8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``.

    output[y * stride - top + ky * dilation] += x[y] * weight[ky], computed by gathering: every
    output sums the taps that reach it. Raises InputError if there is no output.
    """
    size = (int(x.shape[1]), int(x.shape[2]))
    extents = transpose_map_size(size, kernel_size, strides, padding, dilation, output_padding)
    spread = spread_input(x, kernel_size, strides, padding, dilation, extents)
    total = _accumulate(spread, codes, extents, kernel_size, (1, 1), dilation, 1, True)
    return _add_bias(total, bias)
