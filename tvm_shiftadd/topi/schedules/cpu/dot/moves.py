"""Operators that only move values, between stored maps: concatenation, up-sampling, padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import batch_size, kernel

from .convert import fill_border, fill_map
from .stored import Stored

#: Bytes of a map below which starting threads costs more than they bring.
_SERIAL = 200_000
#: Bytes that are moved at once, the most first.
_SIZES = (64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Piece:
    """A map that is written into a larger one, whose pixel and channel ``first`` it begins at.

    Each of its pixels is repeated ``scale`` times, down and across.
    """

    source: Stored
    first: tuple[int, int, int] = (0, 0, 0)
    scale: tuple[int, int] = (1, 1)


def move(name: str, pieces: Sequence[Piece], out: Stored, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (a map for each piece, out) between stored maps.

    What no piece covers is zero.
    """
    n = batch_size(batch)
    tensors = {f"x{i}": ((n, piece.source.size), "uint8") for i, piece in enumerate(pieces)}
    tensors["out"] = ((n, out.size), "uint8")
    with kernel(name, tensors, None) as made:
        with build.serial(n) as image:
            (fill_border if _covered(pieces, out) else fill_map)(made["out"], image, out)
        for i, piece in enumerate(pieces):
            _write(piece, made[f"x{i}"], made["out"], out, n)
    return made.function


def _covered(pieces: Sequence[Piece], out: Stored) -> bool:
    """Whether pieces, which do not overlap, make up the whole map."""
    sizes = (
        s.height * p.scale[0] * s.width * p.scale[1] * s.channels
        for p, s in ((piece, piece.source) for piece in pieces)
    )
    return sum(sizes) == out.height * out.width * out.channels


def _write(piece: Piece, x: Any, y: Any, out: Stored, n: Any) -> None:
    source, (top, left, channel) = piece.source, piece.first
    spread = build.parallel if source.height * source.row >= _SERIAL else build.serial
    with spread(source.height) as row, build.grid(n, source.width) as (image, column):
        begin = T.bind(source.at(row, column))
        to = T.bind(out.at(row * piece.scale[0] + top, column * piece.scale[1] + left) + channel)
        for size, start, count in runs(source.channels):
            with build.serial(count) as part:
                at = part * size + start
                value = x.vload([image, begin + at], dtype=f"uint8x{size}" if size > 1 else "uint8")
                if source.zero != out.zero:
                    flip = T.uint8(source.zero ^ out.zero)
                    value = value ^ (T.broadcast(flip, size) if size > 1 else flip)
                value = T.bind(value)
                for down in range(piece.scale[0]):
                    for across in range(piece.scale[1]):
                        where = to + (at + down * out.row + across * out.pitch)
                        where = T.ramp(where, 1, size) if size > 1 else where
                        T.buffer_store(y, value, [image, where])


def runs(channels: int, most: int = _SIZES[0]) -> Iterator[tuple[int, int, int]]:
    """So many channels as (size, start, count): ``count`` vectors of ``size`` from ``start`` on.

    Vectors are powers of two of at most ``most``, the longest first.
    """
    start = 0
    for size in _SIZES:
        count = (channels - start) // size
        if count and size <= most:
            yield size, start, count
            start += size * count
