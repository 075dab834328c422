"""Between plain maps and stored ones."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import batch_size, kernel

from .stored import Stored, Wide

_WIDEST = 64


def fill_border(out: Any, image: Any, layout: Stored | Wide) -> None:
    """Write the zeros around a stored map; a wide one has none."""
    if isinstance(layout, Wide):
        return
    for start, size, step, count in layout.borders():
        if size == 0 or count == 0:
            continue
        whole, rest = divmod(size, _WIDEST)
        with build.serial(count) as piece:
            base = piece * step + start
            if whole:
                with build.serial(whole) as part:
                    _fill(out, image, base + part * _WIDEST, _WIDEST, layout.zero)
            at = whole * _WIDEST
            for bit in (32, 16, 8, 4, 2, 1):
                if rest & bit:
                    _fill(out, image, base + at, bit, layout.zero)
                    at += bit


def fill_map(out: Any, image: Any, layout: Stored) -> None:
    """Write zeros over a whole stored map, its border and slack included."""
    with build.serial(layout.size // _WIDEST) as part:
        _fill(out, image, part * _WIDEST, _WIDEST, layout.zero)


def _fill(out: Any, image: Any, at: Any, size: int, zero: int) -> None:
    T.buffer_store(out, _constant(zero, size), [image, T.ramp(at, 1, size) if size > 1 else at])


def store_map(layout: Stored, dtype: str, batch: Any) -> tirx.PrimFunc:
    """PrimFunc from ``[batch, H, W, C]`` of ``dtype`` to a stored map."""
    return _copy("shiftadd_store", layout, dtype, batch, to_stored=True)


def plain_map(layout: Stored, dtype: str, batch: Any) -> tirx.PrimFunc:
    """PrimFunc from a stored map to ``[batch, H, W, C]`` of ``dtype``."""
    return _copy("shiftadd_plain", layout, dtype, batch, to_stored=False)


def _copy(name: str, layout: Stored, dtype: str, batch: Any, to_stored: bool) -> tirx.PrimFunc:
    n = batch_size(batch)
    lanes = _lanes(layout.channels)
    types = [f"{kind}x{lanes}" if lanes > 1 else kind for kind in (dtype, "uint8")]
    parts = layout.channels // lanes
    plain = ((n, layout.height, layout.width, layout.channels), dtype)
    stored = ((n, layout.size), "uint8")
    tensors = {"x": plain, "out": stored} if to_stored else {"x": stored, "out": plain}
    with kernel(name, tensors, None) as made:
        x, out = made["x"], made["out"]
        with build.serial(n) as image:
            if to_stored:
                fill_border(out, image, layout)
            with build.grid(layout.height, layout.width, parts) as (y, column, part):
                places = [
                    ([image, y, column], part * lanes),
                    ([image], layout.at(y, column) + part * lanes),
                ]
                (there, first), (here, start) = places if to_stored else places[::-1]
                value = x.vload([*there, first], dtype=types[0 if to_stored else 1])
                value = T.reinterpret(value, dtype=types[1])
                if layout.zero:
                    value = value ^ _constant(layout.zero, lanes)
                value = T.reinterpret(value, dtype=types[1 if to_stored else 0])
                where = T.ramp(start, 1, lanes) if lanes > 1 else start
                T.buffer_store(out, value, [*here, where])
    return made.function


def _constant(value: int, lanes: int) -> Any:
    return T.broadcast(T.uint8(value), lanes) if lanes > 1 else T.uint8(value)


def _lanes(channels: int) -> int:
    return max(lane for lane in (64, 32, 16, 8, 4, 2, 1) if channels % lane == 0)
