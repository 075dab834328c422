# TVMScript has the syntax of Python but not its types.
# mypy: ignore-errors
"""The adder convolution kernel: a minimum and an addition of vectors of pixels for each weight.

With ``|x - w| = x + w - 2 min(x, w)`` only the minima are summed for each output channel. The sum
of the inputs is the same for all of them, and is a sum of minima too: with weights of 127. That of
the weights is part of the bias (``folded_bias``). Inputs lie in planes of 16-bit integers as in
``planar``; a sum of so many minima as always fit 16 bits is widened then.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.schedules.fusion.function import batch_size
from tvm_shiftadd.topi.schedules.shapes import round_up

from .geometry import BLOCK, Tile
from .planes import to_channels, to_planes
from .spatial import useful_lanes
from .tiled import TILE_BLOCK, int64

#: Values of -128 to 127 that a 16-bit sum holds.
CHUNK = 255


def rows_of_weights(weight: te.Tensor) -> te.Tensor:
    """int8 ``[R, O]`` as the kernel reads it, int16 ``[1 + O, R]``; done ahead of time.

    The first row, all 127, sums the inputs.
    """
    rows, outputs = weight.shape

    def body(o: Any, r: Any) -> Any:
        own = weight[r, tirx.max(o - 1, 0)].astype("int16")
        return tirx.Select(o > 0, own, tirx.const(127, "int16"))

    return te.compute((outputs + 1, rows), body, name="rows_of_weights")


def folded_bias(weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """The bias less the sum of each channel's weights, int32 ``[O]``; done ahead of time."""
    r = te.reduce_axis((0, weight.shape[0]), "r")
    total = te.compute(
        bias.shape, lambda o: te.sum(weight[r, o].astype("int32"), axis=[r]), name="weight_sum"
    )
    return te.compute(bias.shape, lambda o: bias[o] - total[o], name="folded_bias")


def planar_adder(tile: Tile, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, rows, bias) -> int32 ``[batch, OH, OW, O]``, not yet scheduled.

    x is int8 ``[batch, H, W, C]``; rows and bias come from the functions above. ``batch`` is an
    int or a symbolic int64 variable. The tile's shape has no dilation and no groups.
    """
    shape = tile.shape
    (H, W, C, O), (OH, OW) = (  # noqa: E741
        (shape.height, shape.width, shape.channels, shape.outputs),
        (shape.out_height, shape.out_width),
    )
    (KH, KW), stride_y = shape.kernel, shape.strides[0]
    top, left = shape.origin
    R, TAPS = shape.reduction, KH * KW
    ROWS, TILES = tile.rows, tile.count
    OUTPUTS, PIXELS = tile.outputs, round_up(tile.pixels, BLOCK)
    STORED = -(-PIXELS // OW)
    V, P, SUBS = tile.lanes, tile.vectors, tile.sub_tiles
    SPAN = P * V
    COPY = useful_lanes(C)
    # Taps, and channels of one tap where these are many, whose minima 16 bits hold.
    TOGETHER = max(1, CHUNK // C)
    PART = min(C, CHUNK)
    CHANNEL = tile.phases * tile.plane
    N = batch_size(batch)

    @T.prim_func(s_tir=True)
    def shiftadd_adder_conv2d(
        x: T.Buffer((N, *int64(H, W, C)), "int8"),
        rows: T.Buffer(int64(O + 1, R), "int16"),
        bias: T.Buffer(int64(O), "int32"),
        out: T.Buffer((N, *int64(OH, OW, O)), "int32"),
    ):
        # Pattern 4: element-wise consumers are fused behind it.
        T.func_attr({"tirx.noalias": True, "op_pattern": 4})
        total = T.sblock_alloc_buffer((N, *int64(TILES, STORED, OW, OUTPUTS)), "int32")
        for b, t in T.grid(N, TILES):
            with T.sblock(TILE_BLOCK):
                vb = T.axis.spatial(N, b)
                vt = T.axis.spatial(TILES, t)
                T.reads(x[vb, 0:H, 0:W, 0:C], rows[0 : O + 1, 0:R])
                T.writes(total[vb, vt, 0:ROWS, 0:OW, 0:OUTPUTS])
                window = T.sblock_alloc_buffer(
                    (tile.input_rows, tile.input_columns, tile.channels), "int8"
                )
                planes = T.sblock_alloc_buffer((tile.planes_size,), "int16")
                # A block of output channels, and behind them the sums of the inputs.
                sums = T.sblock_alloc_buffer((BLOCK + 1, tile.padded_pixels), "int32")
                for r, c, part in T.grid(tile.input_rows, tile.input_columns, C // COPY):
                    y: T.let = vt * (ROWS * stride_y) + r - top
                    col: T.let = c - left
                    for i in T.vectorized(COPY):
                        window[r, c, part * COPY + i] = T.if_then_else(
                            y >= 0 and y < H and col >= 0 and col < W,
                            x[vb, y, col, part * COPY + i],
                            T.int8(0),
                        )
                for kx in T.unroll(KW):
                    for ci, phase, q, xb in T.grid(
                        tile.channels // BLOCK, tile.phases, tile.plane_rows, tile.column_blocks
                    ):
                        to_planes(tile, window, planes, kx, ci, phase, q, xb)
                for o in range(O + 1):
                    for sub in range(SUBS):
                        narrow = T.sblock_alloc_buffer((SPAN,), "int16", scope="local")
                        wide = T.sblock_alloc_buffer((SPAN,), "int32", scope="local")
                        for p in T.unroll(P):
                            for v in T.vectorized(V):
                                wide[p * V + v] = 0
                        for group, first in T.grid(
                            (TAPS + TOGETHER - 1) // TOGETHER, (C + PART - 1) // PART
                        ):
                            for p in T.unroll(P):
                                for v in T.vectorized(V):
                                    narrow[p * V + v] = T.int16(0)
                            for step in range(T.min(TOGETHER, TAPS - group * TOGETHER)):
                                tap: T.let = group * TOGETHER + step
                                ky: T.let = tap // KW
                                plane: T.let = (
                                    (tap % KW) * (tile.plane_channels * CHANNEL)
                                    + (ky % stride_y) * tile.plane
                                    + (ky // stride_y) * OW
                                    + sub * SPAN
                                )
                                for ci in range(T.min(PART, C - first * PART)):
                                    at: T.let = plane + (first * PART + ci) * CHANNEL
                                    weight: T.let = rows[o, tap * C + first * PART + ci]
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            narrow[p * V + v] = narrow[p * V + v] + T.min(
                                                planes[at + p * V + v], weight
                                            )
                            for p in T.unroll(P):
                                for v in T.vectorized(V):
                                    wide[p * V + v] = wide[p * V + v] + T.cast(
                                        narrow[p * V + v], "int32"
                                    )
                        for p in T.unroll(P):
                            for v in T.vectorized(V):
                                if o == 0:
                                    sums[BLOCK, sub * SPAN + p * V + v] = wide[p * V + v]
                                else:
                                    sums[(o - 1) % BLOCK, sub * SPAN + p * V + v] = (
                                        wide[p * V + v] << 1
                                    ) - sums[BLOCK, sub * SPAN + p * V + v]
                    if o > 0 and (o % BLOCK == 0 or o == O):
                        for pixel in range(PIXELS // BLOCK):
                            to_channels(tile, sums, total, vb, vt, pixel, (o - 1) // BLOCK)
        for b, y, xo, o in T.grid(N, OH, OW, O):
            with T.sblock("biased"):
                vb, vy, vx, vo = T.axis.remap("SSSS", [b, y, xo, o])
                out[vb, vy, vx, vo] = total[vb, vy // ROWS, vy % ROWS, vx, vo] + bias[vo]

    return shiftadd_adder_conv2d
