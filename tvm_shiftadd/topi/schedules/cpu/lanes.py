# TVMScript has the syntax of Python but not its types.
# mypy: ignore-errors
"""Kernels whose vectors are output channels: depthwise convolution and matrix product.

Here every lane has its own weight, so a term is a shift by a vector of amounts:

    term = ((x << amount) where the code is not zero) ^ sign,   sign = -1 for a negative term

The complement ~v stands for -v; it is one too small, and that one depends on the codes alone, so
it is added once for each pair of codes. Codes are decoded from their packed bytes, two reduction
steps a byte, and used for a few pixels or rows. With two codes of at most 112 and int8 inputs the
sum of a pair is at most 2 * 112 * 128 < 2^15: 16-bit lanes hold it, and widen once a pair. With
uint8 inputs they hold one product, at most 112 * 255, and widen after each.
"""

from __future__ import annotations

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import batch_size
from tvm_shiftadd.topi.schedules.shapes import ConvShape

from .geometry import Tile
from .spatial import useful_lanes
from .tiled import TILE_BLOCK, int64

#: Pixels or rows that share decoded codes; with two vectors of sums each they fill 16 registers.
SHARED = 8


def lane_count(outputs: int, lanes: int) -> int:
    """Lanes of a block of output channels: a power of two, at least 8, or 0 if there is none."""
    count = lanes
    while count > outputs:
        count //= 2
    return count if count >= 8 else 0


class _Decoder:
    """Terms of packed codes as vectors of ``lanes`` output channels from ``start``."""

    def __init__(self, codes, terms, lanes, dtype):
        self.codes, self.terms, self.lanes, self.dtype = codes, terms, lanes, dtype

    def vector(self, value):
        return T.broadcast(tirx.const(value, self.dtype), self.lanes)

    def widened(self, value):
        return value.astype(f"{self.dtype}x{self.lanes}")

    def pair(self, row, start):
        """(amount, sign, present) of each term of two reduction steps, and their correction."""
        decoded = ([], [])
        correction = self.vector(0)
        for term in range(self.terms):
            byte = self.codes.vload([term, row, start], dtype=f"uint8x{self.lanes}")
            byte = T.bind(self.widened(byte))
            for step, code in enumerate((byte & self.vector(15), byte >> self.vector(4))):
                code = T.bind(code)
                magnitude = T.bind(code & self.vector(7))
                sign = T.bind(self.vector(0) - (code >> self.vector(3)))
                # Lanes whose code is zero shift by -1; the select drops them.
                decoded[step].append(
                    (
                        T.bind(magnitude - self.vector(1)),
                        sign,
                        # Not bound: TVM's analyser cannot take a variable of truth values.
                        magnitude > self.vector(0),
                    )
                )
                correction = T.bind(correction - sign)
        return decoded, correction

    def add_terms(self, total, x, terms):
        """``total`` plus the terms of one reduction step times the vector ``x``."""
        x = T.bind(x)
        for amount, sign, present in terms:
            total = total + (tirx.Select(present, x << amount, self.vector(0)) ^ sign)
        return total


def _widens_each(source: str, lane: str) -> bool:
    """Whether a lane holds the product of one input only."""
    return source == "uint8" and lane == "int16"


def _accumulate(sums, index, lanes, value):
    """Widen a vector and add it to the int32 sums at ``index``."""
    where = T.ramp(index * lanes, 1, lanes)
    before = sums.vload([index * lanes], dtype=f"int32x{lanes}")
    T.buffer_store(sums, before + value.astype(f"int32x{lanes}"), [where])


def depthwise_conv(
    tile: Tile, batch, lanes: int, dtype: str, source: str = "int8"
) -> tirx.PrimFunc:
    """PrimFunc (x, codes, bias) -> int32 ``[batch, OH, OW, C]``, one weight window a channel.

    x is ``[batch, H, W, C]`` of type ``source``, int8 or uint8, codes packed uint8
    ``[K, ceil(kh*kw/2), C]``. ``dtype`` is the type of a lane. Not yet scheduled.
    """
    shape: ConvShape = tile.shape
    H, W, C = shape.height, shape.width, shape.channels
    OH, OW, K, R = shape.out_height, shape.out_width, shape.terms, shape.reduction
    stride_y, stride_x = shape.strides
    top, left = shape.origin
    kw = shape.kernel[1]
    V, X = lane_count(C, lanes), min(SHARED, OW)
    ROWS, TILES = tile.rows, tile.count
    IN_ROWS = (ROWS - 1) * stride_y + (shape.kernel[0] - 1) * shape.dilation[0] + 1
    IN_COLS = (OW - 1) * stride_x + (kw - 1) * shape.dilation[1] + 1
    COPY = useful_lanes(C)
    ZERO = tirx.const(0, source)
    N = batch_size(batch)

    def taps(window, codes, sums, row, column, start):
        decoder = _Decoder(codes, K, V, dtype)
        for pair in range((R + 1) // 2):
            decoded, correction = decoder.pair(pair, start)
            for j in range(X):
                total = correction
                for tap in range(2 * pair, min(2 * pair + 2, R)):
                    y = row * stride_y + tap // kw * shape.dilation[0]
                    x = (column + j) * stride_x + tap % kw * shape.dilation[1]
                    pixel = window.vload([y, x, start], dtype=f"{source}x{V}")
                    total = decoder.add_terms(total, decoder.widened(pixel), decoded[tap % 2])
                    if _widens_each(source, dtype):
                        _accumulate(sums, j, V, total)
                        total = decoder.vector(0)
                if not _widens_each(source, dtype):
                    _accumulate(sums, j, V, total)

    @T.prim_func(s_tir=True)
    def shiftadd_depthwise(
        x: T.Buffer((N, *int64(H, W, C)), source),
        codes: T.Buffer(int64(K, (R + 1) // 2, C), "uint8"),
        bias: T.Buffer(int64(C), "int32"),
        out: T.Buffer((N, *int64(OH, OW, C)), "int32"),
    ):
        # Pattern 4: element-wise consumers are fused behind it.
        T.func_attr({"tirx.noalias": True, "op_pattern": 4})
        total = T.sblock_alloc_buffer((N, *int64(TILES, ROWS, OW, C)), "int32")
        for b, t in T.grid(N, TILES):
            with T.sblock(TILE_BLOCK):
                vb = T.axis.spatial(N, b)
                vt = T.axis.spatial(TILES, t)
                T.reads(x[vb, 0:H, 0:W, 0:C], codes[0:K, 0 : (R + 1) // 2, 0:C])
                T.writes(total[vb, vt, 0:ROWS, 0:OW, 0:C])
                window = T.sblock_alloc_buffer((IN_ROWS, IN_COLS, C), source)
                for r, c, part in T.grid(IN_ROWS, IN_COLS, C // COPY):
                    y: T.let = vt * (ROWS * stride_y) + r - top
                    col: T.let = c - left
                    for i in T.vectorized(COPY):
                        window[r, c, part * COPY + i] = T.if_then_else(
                            y >= 0 and y < H and col >= 0 and col < W,
                            x[vb, y, col, part * COPY + i],
                            ZERO,
                        )
                for block, row, run in T.grid((C + V - 1) // V, ROWS, (OW + X - 1) // X):
                    sums = T.sblock_alloc_buffer((X * V,), "int32", scope="local")
                    # The last block and the last run step back, and compute some values again.
                    start: T.let = T.min(block * V, C - V)
                    column: T.let = T.min(run * X, OW - X)
                    for j in T.unroll(X):
                        for v in T.vectorized(V):
                            sums[j * V + v] = 0
                    taps(window, codes, sums, row, column, start)
                    for j in T.unroll(X):
                        for v in T.vectorized(V):
                            total[vb, vt, row, column + j, start + v] = sums[j * V + v]
        for b, y, xo, c in T.grid(N, OH, OW, C):
            with T.sblock("biased"):
                vb, vy, vx, vc = T.axis.remap("SSSS", [b, y, xo, c])
                out[vb, vy, vx, vc] = total[vb, vy // ROWS, vy % ROWS, vx, vc] + bias[vc]

    return shiftadd_depthwise


def matrix_product(
    batch, inputs: int, outputs: int, terms: int, lanes: int, dtype: str, source: str = "int8"
) -> tirx.PrimFunc:
    """PrimFunc (x, codes, bias) -> int32 ``[batch, O]``.

    x is ``[batch, I]`` of type ``source``, int8 or uint8, codes packed uint8
    ``[K, ceil(I/2), O]``. ``dtype`` is the type of a lane. Not yet scheduled.
    """
    I, O, K = inputs, outputs, terms  # noqa: E741
    V = lane_count(O, lanes)
    N = batch_size(batch)
    TILES = (N + (SHARED - 1)) // SHARED

    def step(x, codes, sums, first, rows, pair, start, steps):
        decoder = _Decoder(codes, K, V, dtype)
        decoded, correction = decoder.pair(pair, start)
        for j in range(rows):
            total = correction
            for tap in range(steps):
                value = x[first + j, pair * 2 + tap].astype(dtype)
                total = decoder.add_terms(total, T.broadcast(value, V), decoded[tap])
                if _widens_each(source, dtype):
                    _accumulate(sums, j, V, total)
                    total = decoder.vector(0)
            if not _widens_each(source, dtype):
                _accumulate(sums, j, V, total)

    @T.prim_func(s_tir=True)
    def shiftadd_dense(
        x: T.Buffer((N, *int64(I)), source),
        codes: T.Buffer(int64(K, (I + 1) // 2, O), "uint8"),
        bias: T.Buffer(int64(O), "int32"),
        out: T.Buffer((N, *int64(O)), "int32"),
    ):
        # Pattern 4: element-wise consumers are fused behind it.
        T.func_attr({"tirx.noalias": True, "op_pattern": 4})
        total = T.sblock_alloc_buffer((N, *int64(O)), "int32")
        for t in range(TILES):
            with T.sblock(TILE_BLOCK):
                vt = T.axis.spatial(TILES, t)
                T.reads(x[0:N, 0:I], codes[0:K, 0 : (I + 1) // 2, 0:O])
                # Rows of this tile; all, since their number cannot be proved from a symbolic batch.
                T.writes(total[0:N, 0:O])
                first: T.let = vt * SHARED
                for block in range((O + V - 1) // V):
                    # The last block steps back, and computes some values again.
                    start: T.let = T.min(block * V, O - V)
                    if first + SHARED <= N:
                        sums = T.sblock_alloc_buffer((SHARED * V,), "int32", scope="local")
                        for j in T.unroll(SHARED):
                            for v in T.vectorized(V):
                                sums[j * V + v] = 0
                        for pair in range(I // 2):
                            step(x, codes, sums, first, SHARED, pair, start, 2)
                        if I % 2 == 1:
                            step(x, codes, sums, first, SHARED, I // 2, start, 1)
                        for j in T.unroll(SHARED):
                            for v in T.vectorized(V):
                                total[first + j, start + v] = sums[j * V + v]
                    else:
                        for row in range(N - first):
                            alone = T.sblock_alloc_buffer((V,), "int32", scope="local")
                            for v in T.vectorized(V):
                                alone[v] = 0
                            for pair in range(I // 2):
                                step(x, codes, alone, first + row, 1, pair, start, 2)
                            if I % 2 == 1:
                                step(x, codes, alone, first + row, 1, I // 2, start, 1)
                            for v in T.vectorized(V):
                                total[first + row, start + v] = alone[v]
        for n, o in T.grid(N, O):
            with T.sblock("biased"):
                vn, vo = T.axis.remap("SS", [n, o])
                out[vn, vo] = total[vn, vo] + bias[vo]

    return shiftadd_dense
