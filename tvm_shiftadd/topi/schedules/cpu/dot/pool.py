"""Maximum pooling of stored maps without negative values, whose border of zeros never wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.dialect.attrs import MaxPool2DAttrs

from .convert import fill_border
from .function import batch_size, kernel
from .stored import Stored

#: Bytes of a map below which starting threads costs more than they bring.
_SERIAL = 200_000


@dataclass(frozen=True)
class PoolPlan:
    """Pooling of one stored map into another, both with zero 0 and one pitch."""

    attrs: MaxPool2DAttrs
    source: Stored
    out: Stored


def max_pool(plan: PoolPlan, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, out) between stored maps."""
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
            best = None
            for ky in range(attrs.pool_size[0]):
                for kx in range(attrs.pool_size[1]):
                    row = y * attrs.strides[0] + (ky * attrs.dilation[0] - attrs.padding[0])
                    column = x * attrs.strides[1] + (kx * attrs.dilation[1] - attrs.padding[1])
                    at = source.at(row, column) + part * lanes
                    value = T.bind(made["x"].vload([image, at], dtype=f"uint8x{lanes}"))
                    best = value if best is None else T.bind(tirx.max(best, value))
            at = out.at(y, x) + part * lanes
            T.buffer_store(made["out"], best, [image, T.ramp(at, 1, lanes)])
    return made.function
