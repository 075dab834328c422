# TVMScript has the syntax of Python but not its types.
# mypy: ignore-errors
"""Planes of a tile: pixels that neighbouring outputs read, side by side in 16 bits, and back.

The statements are written into the kernel that is being parsed when a function is called.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .geometry import BLOCK, Tile
from .transpose import transpose_bytes, transpose_words


def to_planes(
    tile: Tile, window: Any, planes: Any, kx: Any, ci: Any, phase: Any, q: Any, xb: Any
) -> None:
    """Sixteen pixels of sixteen channels: a row of each of sixteen planes."""
    shape, dtype = tile.shape, str(window.dtype)
    stride_y, stride_x = shape.strides
    columns = [(xb * BLOCK + j) * stride_x + kx * shape.dilation[1] for j in range(BLOCK)]
    y = q * stride_y + phase
    pixels = [window.vload([y, x, ci * BLOCK], dtype=f"{dtype}x16") for x in columns]
    for j, row in enumerate(transpose_bytes(pixels)[: tile.plane_channels]):
        plane = (kx * tile.plane_channels + ci * BLOCK + j) * tile.phases + phase
        start = plane * tile.plane + q * shape.out_width + xb * BLOCK
        T.buffer_store(planes, row.astype("int16x16"), [T.ramp(start, 1, BLOCK)])


def to_channels(tile: Tile, sums: Any, total: Any, b: Any, t: Any, pixel: Any, ob: Any) -> None:
    """Sixteen pixels of sixteen output channels, from planes to channels last."""
    width = tile.shape.out_width
    rows = [T.bind(sums.vload([j, pixel * BLOCK], dtype="int32x16")) for j in range(BLOCK)]
    for j, row in enumerate(transpose_words(rows)):
        at = pixel * BLOCK + j
        where = [b, t, at // width, at % width, T.ramp(ob * BLOCK, 1, BLOCK)]
        T.buffer_store(total, row, where)
