"""Compute definitions of adder layers in float32, for the host."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.formats.windows import conv_map_size
from tvm_shiftadd.topi.layout import pad
from tvm_shiftadd.topi.terms import Expr


def adder_conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    scale: te.Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    data_layout: str,
) -> te.Tensor:
    """``-scale * sum |x - w|`` over windows of the zero-padded map, float32.

    Layouts and shapes as in ``dialect.float_adder``; the result is laid out as x is.
    """
    first = data_layout == "NCHW"
    channels, height, width = (x.shape[i] for i in ((1, 2, 3) if first else (3, 1, 2)))
    outputs, kh, kw = (weight.shape[i] for i in ((0, 2, 3) if first else (3, 0, 1)))
    top, left, bottom, right = padding
    size, kernel = (int(height), int(width)), (int(kh), int(kw))
    rows, columns = conv_map_size(size, kernel, strides, padding)
    sides = (top, bottom, left, right)
    around = (0, 0, 0, 0, *sides) if first else (0, 0, *sides, 0, 0)
    padded = pad(x, pad_width=around) if any(padding) else x
    ci = te.reduce_axis((0, channels), "ci")
    ky = te.reduce_axis((0, kh), "ky")
    kx = te.reduce_axis((0, kw), "kx")

    def distance(n: Expr, o: Expr, row: Expr, column: Expr) -> Expr:
        y, xx = row * strides[0] + ky, column * strides[1] + kx
        pixel = padded[n, ci, y, xx] if first else padded[n, y, xx, ci]
        tap = weight[o, ci, ky, kx] if first else weight[ky, kx, ci, o]
        return te.sum(tirx.abs(pixel - tap), axis=[ky, kx, ci])

    if first:
        total = te.compute((x.shape[0], outputs, rows, columns), distance, name="distance")
        return te.compute(total.shape, lambda *i: -total(*i) * scale[i[1]], name="scaled")
    shape = (x.shape[0], rows, columns, outputs)
    total = te.compute(shape, lambda n, y, xx, o: distance(n, o, y, xx), name="distance")
    return te.compute(shape, lambda *i: -total(*i) * scale[i[3]], name="scaled")


def adder_dense(x: te.Tensor, weight: te.Tensor, scale: te.Tensor) -> te.Tensor:
    """``-scale * sum |x - w|``: float32 ``[..., I]`` and ``[I, O]`` to ``[..., O]``."""
    ci = te.reduce_axis((0, x.shape[-1]), "ci")

    def distance(*index: Expr) -> Expr:
        *rows, o = index
        return te.sum(tirx.abs(x(*rows, ci) - weight[ci, o]), axis=[ci])

    total = te.compute((*x.shape[:-1], weight.shape[1]), distance, name="distance")
    return te.compute(total.shape, lambda *i: -total(*i) * scale[i[-1]], name="scaled")
