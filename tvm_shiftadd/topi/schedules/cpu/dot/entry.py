"""From floats to a stored map: quantised, and channels moved last where they are not."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.scaling import quantized
from tvm_shiftadd.topi.schedules.fusion.function import batch_size, kernel

from .convert import fill_border
from .instructions import QUAD
from .moves import runs
from .stored import Stored

#: Pixels that are quantised together.
_LANES = 16
#: Elements of an image below which starting threads costs more than they bring.
_SERIAL = 100_000


def can_enter(layout: Stored) -> bool:
    """Whether ``quantize_store`` makes maps of this layout."""
    return layout.pitch == QUAD and layout.width >= _LANES


def quantize_store(layout: Stored, exponent: int, dtype: str, batch: Any) -> tirx.PrimFunc:
    """PrimFunc from float32 ``[batch, C, H, W]``, C at most 4, to a stored map of ``dtype``.

    Sixteen pixels at a time: the bytes of each are put together in a 32-bit lane.
    """
    n: Any = batch_size(batch)
    sizes: tuple[Any, ...] = (n, layout.channels, layout.height, layout.width)
    # Flipping the top bit of all bytes at once makes signed ones stored.
    flip = T.broadcast(T.int32(int.from_bytes([layout.zero] * QUAD, "little", signed=True)), _LANES)

    def constant(value: int) -> Any:
        return T.broadcast(T.int32(value), _LANES)

    tensors = {"x": (sizes, "float32"), "out": ((n, layout.size), "uint8")}
    with kernel("shiftadd_quantize", tensors, None) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, layout)
        with _rows(layout) as y, build.grid(n, -(-layout.width // _LANES)) as (image, run):
            # The last run steps back, and quantises some pixels again.
            x = T.bind(T.min(run * _LANES, layout.width - _LANES))
            word = flip
            for channel in range(layout.channels):
                values = made["x"].vload([image, channel, y, x], dtype="float32x16")
                integers = quantized(
                    T.reinterpret(values, dtype="int32x16"), exponent, dtype, constant
                )
                byte = T.bind(integers & constant(255))
                word = T.bind(word ^ (byte << constant(8 * channel)))
            value = T.reinterpret(word, dtype="uint8x64")
            at = layout.at(y, x)
            T.buffer_store(made["out"], value, [image, T.ramp(at, 1, _LANES * QUAD)])
    return made.function


def quantize_pixels(layout: Stored, exponent: int, dtype: str, batch: Any) -> tirx.PrimFunc:
    """PrimFunc from float32 ``[batch, H, W, C]`` to a stored map of ``dtype``."""
    n: Any = batch_size(batch)
    sizes: tuple[Any, ...] = (n, layout.height, layout.width, layout.channels)
    tensors = {"x": (sizes, "float32"), "out": ((n, layout.size), "uint8")}
    with kernel("shiftadd_quantize", tensors, None) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, layout)
        with _rows(layout) as y, build.grid(n, layout.width) as (image, x):
            for size, start, count in runs(layout.channels, _LANES):
                with build.serial(count) as part:
                    channel = part * size + start
                    value = _quantized(made["x"], [image, y, x, channel], size, exponent, dtype)
                    if layout.zero:
                        value = value ^ _every(T.uint8(layout.zero), size)
                    at = layout.at(y, x) + channel
                    where = T.ramp(at, 1, size) if size > 1 else at
                    T.buffer_store(made["out"], value, [image, where])
    return made.function


def _quantized(x: Any, where: list[Any], size: int, exponent: int, dtype: str) -> Any:
    """``size`` neighbouring floats as uint8, those of int8 with the same bits."""
    lanes = f"x{size}" if size > 1 else ""
    bits = T.reinterpret(x.vload(where, dtype=f"float32{lanes}"), dtype=f"int32{lanes}")
    integers = quantized(bits, exponent, dtype, lambda value: _every(T.int32(value), size))
    return integers.astype(f"uint8{lanes}")


def _every(value: Any, size: int) -> Any:
    return T.broadcast(value, size) if size > 1 else value


def _rows(layout: Stored) -> Any:
    """A loop over the rows of a map, by threads where it is large."""
    large = layout.height * layout.row >= _SERIAL
    return (build.parallel if large else build.serial)(layout.height)
