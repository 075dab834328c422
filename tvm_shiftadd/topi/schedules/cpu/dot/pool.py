"""Maximum and average pooling of stored maps.

The bytes of a map keep the order of their values, so that the greatest byte is the maximum. A
border of zeros never wins over values without a sign; of others the windows are cut at the map's
edges. An average adds the window up, border included, and multiplies once by the
reciprocal of its count, which is a sum of shifts in the definition: ``epilogue`` does the rest. An
addition, a requantisation or a clip behind no layer is that with windows of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.dialect.attrs import AvgPool2DAttrs, MaxPool2DAttrs
from tvm_shiftadd.formats.reference import avg_pool_reciprocal
from tvm_shiftadd.formats.windows import pool_counts
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size, kernel

from .convert import fill_border
from .epilogue import Epilogue
from .stored import Stored

#: Bytes of a map below which starting threads costs more than they bring.
_SERIAL = 200_000
#: Vectors of channels whose sums are in registers together.
_VECTORS = 4


@dataclass(frozen=True)
class PoolPlan:
    """Pooling of one stored map into another of the same pitch, type and zero."""

    attrs: MaxPool2DAttrs
    source: Stored
    out: Stored

    def tap(self, axis: int, index: Any, tap: int) -> Any:
        """The row or column of the map that a tap of output ``index`` reads.

        Where the border may win, a tap outside the map reads what the nearest tap inside reads.
        """
        attrs, size = self.attrs, (self.source.height, self.source.width)[axis]
        out = (self.out.height, self.out.width)[axis]
        stride, before, dilation = (
            attrs.strides[axis],
            attrs.padding[axis],
            attrs.dilation[axis],
        )
        last = (out - 1) * stride - before + (attrs.pool_size[axis] - 1) * dilation
        if self.source.zero:
            # Taps from the first to the last inside the map; there always is one.
            if before:
                tap = tirx.max(tap, (before - index * stride + (dilation - 1)) // dilation)
            if last >= size:
                tap = tirx.min(tap, (size - 1 + before - index * stride) // dilation)
        return index * stride + (tap * dilation - before)


def has_taps(attrs: MaxPool2DAttrs, source: Any, out: Any) -> bool:
    """Whether every window has a tap inside the map; ``source`` and ``out`` are [H, W, C]."""
    for axis in range(2):
        taps = np.arange(attrs.pool_size[axis]) * attrs.dilation[axis] - attrs.padding[axis]
        rows = np.arange(int(out[axis]))[:, None] * attrs.strides[axis] + taps
        if not ((rows >= 0) & (rows < int(source[axis]))).any(axis=1).all():
            return False
    return True


def max_pool(plan: PoolPlan, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, out) between stored maps; every window has a tap inside the map."""
    attrs, source, out = plan.attrs, plan.source, plan.out
    n = batch_size(batch)
    lanes = next(lanes for lanes in (64, 32, 16) if source.pitch % lanes == 0)
    spread = build.parallel if out.height * out.row >= _SERIAL else build.serial
    tensors = {"x": ((n, source.size), "uint8"), "out": ((n, out.size), "uint8")}
    # At a batch of one the rows are what threads can share.
    with kernel("shiftadd_max_pool2d", tensors, None) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, out)
        with spread(out.height) as y, build.grid(n, out.width, out.pitch // lanes) as place:
            image, x, part = place
            rows = [T.bind(plan.tap(0, y, tap)) for tap in range(attrs.pool_size[0])]
            columns = [T.bind(plan.tap(1, x, tap)) for tap in range(attrs.pool_size[1])]
            best = None
            for row in rows:
                for column in columns:
                    at = source.at(row, column) + part * lanes
                    value = T.bind(made["x"].vload([image, at], dtype=f"uint8x{lanes}"))
                    best = value if best is None else T.bind(tirx.max(best, value))
            at = out.at(y, x) + part * lanes
            T.buffer_store(made["out"], best, [image, T.ramp(at, 1, lanes)])
    return made.function


def reciprocals(attrs: AvgPool2DAttrs, source: Stored) -> NDArray[np.int32]:
    """What each sum is multiplied by, int32 ``[OH * OW]``: the shifts of its count, added up."""
    where: dict[str, Any] = {
        "pool_size": attrs.pool_size,
        "strides": attrs.strides,
        "padding": attrs.padding,
        "dilation": attrs.dilation,
        "ceil_mode": attrs.ceil_mode,
        "count_include_pad": attrs.count_include_pad,
    }
    size = (source.height, source.width)
    terms = avg_pool_reciprocal(size, **where).terms
    values = {count: sum(sign << left for sign, left in terms[count]) for count in terms}
    counts = pool_counts(size, **where).reshape(-1)
    return np.array([values[int(count)] for count in counts], np.int32)


def average(attrs: AvgPool2DAttrs, source: Stored, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, factors, constants[, residual], out); ``factors`` as ``reciprocals`` gives."""
    factors = ((epilogue.out.height * epilogue.out.width,), "int32")
    tensors = {"x": ((batch_size(batch), source.size), "uint8"), "factors": factors}
    computed_by = epilogue.isa.computed_by
    return _reduce("shiftadd_avg_pool2d", computed_by, tensors, attrs, source, epilogue, batch)


def elementwise(name: str, source: Stored, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, constants[, residual], out): what follows a layer, of a map as it is."""
    same = AvgPool2DAttrs((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), False, False, 0)
    tensors = {"x": ((batch_size(batch), source.size), "uint8")}
    return _reduce(name, None, tensors, same, source, epilogue, batch)


def _reduce(
    name: str,
    computed_by: str | None,
    tensors: dict[str, Any],
    attrs: AvgPool2DAttrs,
    source: Stored,
    epilogue: Epilogue,
    batch: Any,
) -> tirx.PrimFunc:
    """The kernel of windows' sums, times factors where there are any, and of the epilogue."""
    out, n = epilogue.out, batch_size(batch)
    spread = build.parallel if source.height * source.row >= _SERIAL else build.serial
    vectors = epilogue.outputs // epilogue.isa.lanes
    together = min(_VECTORS, vectors)
    with kernel(name, {**tensors, **epilogue.tensors(n)}, computed_by) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, out)
        with spread(out.height) as y, build.grid(n, out.width, -(-vectors // together)) as place:
            image, x, block = place
            # The last block steps back, and computes some values again.
            first = tirx.min(block * together, vectors - together)
            factor = made["factors"][y * out.width + x] if "factors" in tensors else None
            _Sums(attrs, source, epilogue, made, together).pixel(image, y, x, first, factor)
    return made.function


@dataclass(frozen=True)
class _Sums:
    """Code for the sums of a window's values in ``vectors`` vectors of channels."""

    attrs: AvgPool2DAttrs
    source: Stored
    epilogue: Epilogue
    made: Kernel
    vectors: int

    def pixel(self, image: Any, y: Any, x: Any, first: Any, factor: Any) -> None:
        """The outputs of a pixel from a vector on; ``factor`` is what sums are multiplied by."""
        epilogue, made, lanes = self.epilogue, self.made, self.epilogue.isa.lanes
        channel = T.bind(first * lanes)
        sums = self._sums(image, y, x, channel)
        if factor is not None:
            factor = T.bind(T.broadcast(factor, lanes))
        places, results = [v * lanes for v in range(self.vectors)], []
        for place in places:
            at = channel + place
            total = sums.vload([place], dtype=f"int32x{lanes}")
            total = total if factor is None else total * factor
            total = total + epilogue.constant(made["constants"], "bias", at)
            operand = epilogue.operand(made, image, y, x, at)
            results.append(epilogue.shifted(total, made["constants"], at, operand))
        epilogue.store(made["out"], image, epilogue.out.at(y, x) + channel, places, results)

    def _sums(self, image: Any, y: Any, x: Any, channel: Any) -> Any:
        """The sums of a window, int32, in a buffer that stays in registers."""
        attrs, source, lanes = self.attrs, self.source, self.epilogue.isa.lanes
        row = y * attrs.strides[0] - attrs.padding[0]
        column = x * attrs.strides[1] - attrs.padding[1]
        start = T.bind(source.at(row, column) + channel)
        sums = T.alloc_buffer((self.vectors * lanes,), "int32")
        # What the bytes that stand for zero add to a window is taken off.
        zeros = -source.zero * attrs.pool_size[0] * attrs.pool_size[1]
        places = [(v * lanes, T.ramp(v * lanes, 1, lanes)) for v in range(self.vectors)]
        for _, where in places:
            T.buffer_store(sums, self.epilogue.isa.every(zeros), [where])
        with build.grid(*attrs.pool_size) as (ky, kx):
            down, across = attrs.dilation[0] * source.row, attrs.dilation[1] * source.pitch
            tap = T.bind(start + ky * down + kx * across)
            for place, where in places:
                values = self.made["x"].vload([image, tap + place], dtype=f"uint8x{lanes}")
                total = sums.vload([place], dtype=f"int32x{lanes}")
                T.buffer_store(sums, total + values.astype(f"int32x{lanes}"), [where])
        return sums
