# TVMScript has the syntax of Python but not its types.
# mypy: ignore-errors
"""The planar convolution kernel: adds of vectors of pixels, and a few shifts an output.

A tile's input is first copied into planes of 16-bit integers, one plane for each input channel
and column of the window, whose neighbours in memory are the pixels that neighbouring outputs
read. A term of a weight is then one vector addition or subtraction, for the terms with the same
exponent are summed first, and the sums shifted:

    sum_r w[r] x[r] = sum_e (sum_{terms + 2^e} x - sum_{terms - 2^e} x) << e

The exponents are done from the largest to the smallest by Horner's rule, one shift by 1 each, in
16 bits. Where the next one could leave 16 bits, which depends on the number of terms alone and is
found when the codes are sorted, the sum is shifted into its place, widened and added to a 32-bit
one. The planes are turned back into channels-last order when they are stored.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import batch_size
from tvm_shiftadd.topi.schedules.shapes import round_up

from .geometry import BLOCK, CHUNK, EXPONENTS, Tile
from .planes import to_channels, to_planes
from .spatial import useful_lanes
from .term_lists import STARTS, WIDEN
from .tiled import TILE_BLOCK, int64


def planar_conv(tile: Tile, batch: Any, dtype: str = "int8") -> tirx.PrimFunc:
    """PrimFunc (x, offsets, starts, bias) -> int32 ``[batch, OH, OW, O]``, not yet scheduled.

    x is ``[batch, H, W, C]`` of ``dtype``, int8 or uint8; ``offsets`` and ``starts`` come from
    ``term_lists`` of the same tile and type. ``batch`` is an int or a symbolic int64 variable.
    """
    shape = tile.shape
    (H, W, C, O), (OH, OW) = (  # noqa: E741
        (shape.height, shape.width, shape.channels, shape.outputs),
        (shape.out_height, shape.out_width),
    )
    stride_y, (spread_y, spread_x) = shape.strides[0], shape.spread
    top, left = shape.origin
    LISTS = shape.terms * shape.reduction
    KW, ROWS, TILES = shape.kernel[1], tile.rows, tile.count
    OUTPUTS, PIXELS = tile.outputs, round_up(tile.pixels, BLOCK)
    # Rows of results: the last block of pixels may reach past those of the tile.
    STORED = -(-PIXELS // OW)
    V, P, SUBS = tile.lanes, tile.vectors, tile.sub_tiles
    SPAN = P * V
    COPY = useful_lanes(C)
    ZERO = tirx.const(0, dtype)
    N = batch_size(batch)

    @T.prim_func(s_tir=True)
    def shiftadd_conv2d(
        x: T.Buffer((N, *int64(H, W, C)), dtype),
        offsets: T.Buffer(int64(O, LISTS), "int32"),
        starts: T.Buffer(int64(O, STARTS), "int32"),
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
                T.reads(x[vb, 0:H, 0:W, 0:C], offsets[0:O, 0:LISTS], starts[0:O, 0:STARTS])
                T.writes(total[vb, vt, 0:ROWS, 0:OW, 0:OUTPUTS])
                window = T.sblock_alloc_buffer(
                    (tile.input_rows, tile.input_columns, tile.channels), dtype
                )
                planes = T.sblock_alloc_buffer((tile.planes_size,), "int16")
                sums = T.sblock_alloc_buffer((BLOCK, tile.padded_pixels), "int32")
                for r, c, part in T.grid(tile.input_rows, tile.input_columns, C // COPY):
                    y: T.let = vt * (ROWS * stride_y) + r - top
                    col: T.let = c - left
                    for i in T.vectorized(COPY):
                        window[r, c, part * COPY + i] = T.if_then_else(
                            y >= 0
                            and y <= (H - 1) * spread_y
                            and y % spread_y == 0
                            and col >= 0
                            and col <= (W - 1) * spread_x
                            and col % spread_x == 0,
                            x[vb, y // spread_y, col // spread_x, part * COPY + i],
                            ZERO,
                        )
                for kx in T.unroll(KW):
                    for ci, phase, q, xb in T.grid(
                        tile.channels // BLOCK, tile.phases, tile.plane_rows, tile.column_blocks
                    ):
                        to_planes(tile, window, planes, kx, ci, phase, q, xb)
                for ob in range(OUTPUTS // BLOCK):
                    for oi, sub in T.grid(T.min(BLOCK, O - ob * BLOCK), SUBS):
                        narrow = T.sblock_alloc_buffer((SPAN,), "int16", scope="local")
                        wide = T.sblock_alloc_buffer((SPAN,), "int32", scope="local")
                        o: T.let = ob * BLOCK + oi
                        for p in T.unroll(P):
                            for v in T.vectorized(V):
                                wide[p * V + v] = 0
                        for p in T.unroll(P):
                            for v in T.vectorized(V):
                                narrow[p * V + v] = T.int16(0)
                        for e in range(EXPONENTS):
                            plus: T.let = starts[o, e * 2]
                            minus: T.let = starts[o, e * 2 + 1]
                            end: T.let = starts[o, e * 2 + 2]
                            chunks: T.let = (T.max(minus - plus, end - minus) + CHUNK - 1) // CHUNK
                            widen: T.let = (starts[o, WIDEN] >> e) & 1
                            for c in range(T.max(chunks, 1)):
                                first: T.let = plus + c * CHUNK
                                second: T.let = minus + c * CHUNK
                                for j in range(first, T.min(minus, first + CHUNK)):
                                    at: T.let = offsets[o, j] + sub * SPAN
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            narrow[p * V + v] = (
                                                narrow[p * V + v] + planes[at + p * V + v]
                                            )
                                for j in range(second, T.min(end, second + CHUNK)):
                                    at: T.let = offsets[o, j] + sub * SPAN
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            narrow[p * V + v] = (
                                                narrow[p * V + v] - planes[at + p * V + v]
                                            )
                                if T.max(minus - first, end - second) > CHUNK or widen == 1:
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            wide[p * V + v] = wide[p * V + v] + (
                                                T.cast(narrow[p * V + v], "int32")
                                                << (EXPONENTS - 1 - e)
                                            )
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            narrow[p * V + v] = T.int16(0)
                                else:
                                    for p in T.unroll(P):
                                        for v in T.vectorized(V):
                                            narrow[p * V + v] = narrow[p * V + v] << T.int16(1)
                        for p in T.unroll(P):
                            for v in T.vectorized(V):
                                sums[oi, sub * SPAN + p * V + v] = wide[p * V + v]
                    for pixel in range(PIXELS // BLOCK):
                        to_channels(tile, sums, total, vb, vt, pixel, ob)
        for b, y, xo, o in T.grid(N, OH, OW, O):
            with T.sblock("biased"):
                vb, vy, vx, vo = T.axis.remap("SSSS", [b, y, xo, o])
                out[vb, vy, vx, vo] = total[vb, vy // ROWS, vy % ROWS, vx, vo] + bias[vo]

    return shiftadd_conv2d
