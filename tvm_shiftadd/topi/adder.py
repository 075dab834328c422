"""Compute definitions of adder layers on integers, channels last."""

from __future__ import annotations

from collections.abc import Sequence

from .._compat import te, tirx
from ..formats.windows import conv_map_size
from .conv import pad_input
from .terms import Expr


def _distance(x: Expr, weight: Expr) -> Expr:
    """|x - w| of two int8 values, in int32."""
    # Not as the larger of two differences: LLVM 22's vector combiner breaks some of these.
    return tirx.max(x, weight).astype("int32") - tirx.min(x, weight).astype("int32")


def _from_bias(total: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """Bias int32 ``[O]`` minus the distances."""
    return te.compute(total.shape, lambda *i: bias[i[-1]] - total(*i), name="biased")


def adder_conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    bias: te.Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
) -> te.Tensor:
    """bias - sum |x - w|: int8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``.

    ``weight`` is int8 ``[kh * kw * I, O]``, ``bias`` int32 ``[O]``.
    ``padding`` is (top, left, bottom, right), zeros that take part. Raises InputError if the
    window does not fit the padded input.
    """
    kh, kw = kernel_size
    channels = x.shape[3]
    size = conv_map_size((int(x.shape[1]), int(x.shape[2])), kernel_size, strides, padding)
    padded = pad_input(x, padding)
    ky = te.reduce_axis((0, kh), "ky")
    kx = te.reduce_axis((0, kw), "kx")
    ci = te.reduce_axis((0, channels), "ci")

    def body(b: Expr, y: Expr, col: Expr, o: Expr) -> Expr:
        pixel = padded[b, y * strides[0] + ky, col * strides[1] + kx, ci]
        return te.sum(
            _distance(pixel, weight[(ky * kw + kx) * channels + ci, o]), axis=[ky, kx, ci]
        )

    shape = (x.shape[0], *size, weight.shape[1])
    return _from_bias(te.compute(shape, body, name="distance"), bias)


def adder_dense(x: te.Tensor, weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """bias - sum |x - w|: int8 ``[..., I]`` and ``[I, O]`` to int32 ``[..., O]``."""
    ci = te.reduce_axis((0, x.shape[-1]), "ci")

    def body(*index: Expr) -> Expr:
        *rows, o = index
        return te.sum(_distance(x(*rows, ci), weight[ci, o]), axis=[ci])

    total = te.compute((*x.shape[:-1], weight.shape[1]), body, name="distance")
    return _from_bias(total, bias)
