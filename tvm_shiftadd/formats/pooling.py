"""Average and maximum pooling on stored maps ``[N, H, W, C]``; part of the integer reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES, activation_range
from tvm_shiftadd.formats.reciprocal import Reciprocal, reciprocal
from tvm_shiftadd.formats.windows import Padding, Pair, pool_counts, pool_map_size

Activations = NDArray[np.int8 | np.uint8]


def _need_maps(name: str, x: NDArray[Any]) -> None:
    if x.dtype.name not in ACTIVATION_RANGES or x.ndim != 4:
        raise InputError(
            f"{name} needs int8 or uint8 maps [N, H, W, C], not {x.dtype} {list(x.shape)}; "
            "quantise the map first"
        )


def _taps(
    x: NDArray[Any],
    size: Pair,
    kernel: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    fill: int,
) -> list[NDArray[Any]]:
    """Views ``[N, OH, OW, C]`` of the padded input, one for each position in the window."""
    top, left = padding[:2]
    height = (size[0] - 1) * strides[0] + dilation[0] * (kernel[0] - 1) + 1
    width = (size[1] - 1) * strides[1] + dilation[1] * (kernel[1] - 1) + 1
    full = np.full(
        (x.shape[0], max(height, top + x.shape[1]), max(width, left + x.shape[2]), x.shape[3]),
        fill,
        dtype=x.dtype,
    )
    full[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    return [
        full[
            :,
            ky * dilation[0] : ky * dilation[0] + (size[0] - 1) * strides[0] + 1 : strides[0],
            kx * dilation[1] : kx * dilation[1] + (size[1] - 1) * strides[1] + 1 : strides[1],
        ]
        for ky in range(kernel[0])
        for kx in range(kernel[1])
    ]


def avg_pool_reciprocal(
    size: Pair,
    *,
    pool_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Reciprocal:
    """The reciprocals of an average pooling on maps of ``size`` (H, W); its ``shift`` is the
    operator's reciprocal_shift.
    """
    counts = pool_counts(
        size,
        pool_size=pool_size,
        strides=strides,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
    return reciprocal([int(count) for count in np.unique(counts)])


def avg_pool2d(
    x: Activations,
    *,
    pool_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> NDArray[np.int32]:
    """Average pooling: int32, window sums times shift-add reciprocals.

    The result's scale exponent is the input's plus the shift of :func:`avg_pool_reciprocal`.
    """
    _need_maps("avg_pool2d", x)
    counts = pool_counts(
        (x.shape[1], x.shape[2]),
        pool_size=pool_size,
        strides=strides,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
    scale = reciprocal([int(count) for count in np.unique(counts)])
    size = (counts.shape[0], counts.shape[1])
    total = np.zeros((x.shape[0], *size, x.shape[3]), dtype=np.int32)
    for view in _taps(x, size, pool_size, strides, padding, dilation, 0):
        total += view
    result = np.zeros_like(total)
    for count, terms in scale.terms.items():
        here = counts == count
        sums = total[:, here]
        result[:, here] = sum(sign * (sums << left) for sign, left in terms)
    return result


def max_pool2d(
    x: Activations,
    *,
    pool_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> Activations:
    """Maximum pooling, of the type of ``x``. Padding is its least value, so it never wins."""
    _need_maps("max_pool2d", x)
    size = pool_map_size(x.shape[1:3], pool_size, strides, padding, dilation, ceil_mode)
    views = _taps(x, size, pool_size, strides, padding, dilation, activation_range(x.dtype)[0])
    result = views[0].copy()
    for view in views[1:]:
        np.maximum(result, view, out=result)
    return result
