"""The convolution kernel: a panel of decoded weights, and tiles of sums in registers.

A panel holds the int8 weights of a few vectors of output channels, in the order in which they
are used. It is decoded from the packed codes when a task begins, stays in the cache, and serves
all pixels of the task, so that the number of terms hardly matters. For each tile of pixels the
sums stay in registers from the bias to the requantised bytes.

The input's reduction runs over *quads*, four neighbouring bytes: those of one row of a window are
neighbours in memory where the dilation is 1, channels and columns alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.cpu.geometry import ConvShape, round_up

from .convert import fill_border
from .epilogue import Epilogue
from .function import Kernel, batch_size, kernel
from .instructions import LANES, QUAD, VECTOR, decode_terms, dot, spread_quad
from .stored import Stored

#: Vector registers that sums, weights and an input may fill.
REGISTERS = 31
#: Instructions of the innermost loop.
MAX_UNROLLED = 112
#: Multiply-accumulates below which starting threads costs more than they bring.
SERIAL = 1_500_000


@dataclass(frozen=True)
class ConvPlan:
    """A convolution of a stored map with its tile: ``rows x columns`` pixels, ``vectors`` outputs.

    ``shape`` has ``merged`` of the layer's groups in one of its own, where a group alone would
    not fill a vector of outputs; weights between them are zero.
    """

    shape: ConvShape
    source: Stored
    rows: int
    columns: int
    vectors: int
    merged: int = 1

    @property
    def run(self) -> int:
        """Neighbouring bytes of one window row that are read one after the other."""
        shape = self.shape
        if self._joined:
            return (shape.kernel[1] - 1) * self.source.pitch + shape.group_channels
        return shape.group_channels

    @property
    def _joined(self) -> bool:
        return self.shape.dilation[1] == 1 and self.shape.groups == 1

    @property
    def runs(self) -> int:
        """Runs of a window row."""
        return 1 if self._joined else self.shape.kernel[1]

    @property
    def run_quads(self) -> int:
        """Quads of a run; what reaches past its end has zero weights."""
        return -(-self.run // QUAD)

    @property
    def quads(self) -> int:
        """Quads of a window, an even number: two share a byte of codes."""
        return round_up(self.shape.kernel[0] * self.runs * self.run_quads, 2)

    @property
    def panels(self) -> int:
        """Blocks of output channels of a group."""
        return -(-self.group_vectors // self.vectors)

    @property
    def group_vectors(self) -> int:
        """Vectors of output channels of a group."""
        return -(-(self.shape.outputs // self.shape.groups) // LANES)

    def first_vector(self, panel: Any) -> Any:
        """Where a block begins in its group, in vectors; the last one steps back."""
        return tirx.min(panel * self.vectors, self.group_vectors - self.vectors)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: the byte at [.., lane, i] holds two codes."""
        pairs = self.quads // 2
        terms = self.shape.terms
        return (self.shape.groups * self.panels, pairs, self.vectors, terms, LANES * QUAD)

    @cached_property
    def unroll(self) -> int:
        """Quads of one turn of the innermost loop."""
        most = max(1, MAX_UNROLLED // (self.rows * self.columns * self.vectors))
        return max(u for u in range(1, min(8, most) + 1) if self.run_quads % u == 0)

    @property
    def parts(self) -> int:
        """Parts that a map's rows are cut in, so that two threads have equal work."""
        count = self.shape.groups * self.panels
        if count % 2 == 0 or count > 8 or self.shape.out_height < 2 * self.rows:
            return 1
        return 2

    @property
    def work(self) -> int:
        """Multiply-accumulates of an image."""
        shape = self.shape
        return shape.out_height * shape.out_width * shape.outputs * shape.reduction


def choose_plan(layer: ConvShape, source: Stored) -> ConvPlan:
    """The tile that keeps the dot products busy: the fewest wasted pixels, the fewest loads."""
    merged = _groups_to_merge(layer)
    shape = replace(layer, groups=layer.groups // merged)
    outputs = -(-(shape.outputs // shape.groups) // LANES)
    best, least = (1, 1, 1), math.inf
    for vectors in range(1, min(4, outputs) + 1):
        for rows in range(1, min(4, shape.out_height) + 1):
            for columns in range(1, min(28, shape.out_width) + 1):
                pixels = rows * columns
                if pixels * vectors + vectors + 1 > REGISTERS:
                    continue
                cost = _cost(shape, outputs, rows, columns, vectors)
                if cost < least:
                    best, least = (rows, columns, vectors), cost
    return ConvPlan(shape, source, *best, merged)


def _groups_to_merge(layer: ConvShape) -> int:
    """The fewest groups whose outputs are whole vectors, or all."""
    outputs = layer.outputs // layer.groups
    whole = [
        count
        for count in range(1, layer.groups + 1)
        if layer.groups % count == 0 and outputs * count % LANES == 0
    ]
    return whole[0] if whole and layer.groups > 1 else layer.groups


def _cost(shape: ConvShape, outputs: int, rows: int, columns: int, vectors: int) -> float:
    """Cycles an image takes, up to a constant, for a quad of the reduction."""
    pixels = rows * columns
    tiles = -(-shape.out_height // rows) * -(-shape.out_width // columns)
    # Two dot products or two loads a cycle, and eight sums are in flight at least.
    cycles = max(pixels * vectors, pixels + vectors, 8) / 2
    cycles *= 1 + 0.1 * (pixels + vectors) / (pixels * vectors)
    return tiles * -(-outputs // vectors) * (cycles + 0.3)


class _Tile:
    """Code of one tile: ``rows x columns`` pixels times ``vectors`` vectors of outputs."""

    def __init__(self, plan: ConvPlan, epilogue: Epilogue) -> None:
        self.plan, self.epilogue = plan, epilogue
        self.pixels = [(y, x) for y in range(plan.rows) for x in range(plan.columns)]
        source, shape = plan.source, plan.shape
        self.step_y, self.step_x = shape.strides[0] * source.row, shape.strides[1] * source.pitch
        # The stored border may be wider than this layer's padding.
        self.start = source.origin - shape.origin[0] * source.row - shape.origin[1] * source.pitch
        self.sums = T.alloc_buffer(
            (len(self.pixels) * plan.vectors * LANES,), "int32", scope="local"
        )

    def _where(self, pixel: int, vector: int) -> int:
        return (pixel * self.plan.vectors + vector) * LANES

    def begin(self, constants: Any, channel: Any) -> None:
        """Let every sum begin with its channel's bias."""
        for v in range(self.plan.vectors):
            bias = T.bind(self.epilogue.constant(constants, "bias", channel + v * LANES))
            for p in range(len(self.pixels)):
                T.buffer_store(self.sums, bias, [T.ramp(self._where(p, v), 1, LANES)])

    def multiply(self, x: Any, panel: Any, image: Any, base: Any, first: Any) -> None:
        """Add the products of ``plan.unroll`` quads; ``base`` is the first pixel's first."""
        vectors = range(self.plan.vectors)
        for u in range(self.plan.unroll):
            at = [((first + u) * self.plan.vectors + v) * VECTOR for v in vectors]
            weights = [T.bind(panel.vload([a], dtype="int8x64")) for a in at]
            for p, (row, column) in enumerate(self.pixels):
                where = base + (row * self.step_y + column * self.step_x + u * QUAD)
                pixel = T.bind(spread_quad(x, image, where))
                for v in vectors:
                    a = self._where(p, v)
                    total = dot(self.sums.vload([a], dtype="int32x16"), pixel, weights[v])
                    T.buffer_store(self.sums, total, [T.ramp(a, 1, LANES)])

    def reduce(self, x: Any, panel: Any, image: Any, y: Any, column: Any, channel: Any) -> None:
        """Run over the window of the tile at output row ``y`` and ``column``.

        ``channel`` is the first of the input's that are read.
        """
        plan, source, shape = self.plan, self.plan.source, self.plan.shape
        base = self.start + y * self.step_y + column * self.step_x + channel
        turns, span = plan.run_quads // plan.unroll, plan.unroll
        with build.grid(shape.kernel[0], plan.runs, turns) as (ky, run, turn):
            where = base + ky * (shape.dilation[0] * source.row)
            where = where + run * (shape.dilation[1] * source.pitch) + turn * (span * QUAD)
            first = (ky * plan.runs + run) * plan.run_quads + turn * span
            self.multiply(x, panel, image, where, first)

    def end(self, made: Kernel, image: Any, at: tuple[Any, Any], channel: Any) -> None:
        """Finish the sums and store them at output row and column ``at``."""
        epilogue = self.epilogue
        for p, (row, column) in enumerate(self.pixels):
            y, x = at[0] + row, at[1] + column
            for v in range(self.plan.vectors):
                first = channel + v * LANES
                value = self.sums.vload([self._where(p, v)], dtype="int32x16")
                operand = epilogue.operand(made, image, y, x, first)
                result = epilogue.finish(value, made["constants"], first, operand)
                epilogue.store(made["out"], image, y, x, first, result)


def conv(plan: ConvPlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out).

    x is uint8 ``[batch, source.size]``, ``weights`` packed as ``plan.packed_shape`` says,
    ``constants`` int32 ``[len(epilogue.rows), outputs]``.
    """
    shape, parts = plan.shape, plan.parts
    rows, columns = -(-shape.out_height // plan.rows), -(-shape.out_width // plan.columns)
    tasks = shape.groups * plan.panels * parts
    share = -(-rows // parts)
    spread = build.parallel if plan.work >= SERIAL and tasks > 1 else build.serial
    n = batch_size(batch)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, "uint8"),
        **epilogue.tensors(n),
    }
    with kernel("shiftadd_conv2d", tensors) as made:
        x, out = made["x"], made["out"]
        with build.serial(n) as image:
            fill_border(out, image, epilogue.out)
        with spread(tasks) as task:
            block, part = T.bind(task // parts), T.bind(task % parts)
            group = T.bind(block // plan.panels)
            first = plan.first_vector(block % plan.panels) * LANES
            channel = T.bind(group * (shape.outputs // shape.groups) + first)
            panel = T.alloc_buffer((plan.quads * plan.vectors * VECTOR,), "int8")
            _fill(plan, panel, made["weights"], block)
            with build.grid(n, share, columns) as (image, ty, tx):
                # The last tile steps back, and computes some values again.
                y = T.bind(T.min((part * share + ty) * plan.rows, shape.out_height - plan.rows))
                column = T.bind(T.min(tx * plan.columns, shape.out_width - plan.columns))
                tile = _Tile(plan, epilogue)
                tile.begin(made["constants"], channel)
                tile.reduce(x, panel, image, y, column, group * shape.group_channels)
                tile.end(made, image, (y, column), channel)
    return made.function


def _fill(plan: ConvPlan, panel: Any, weights: Any, block: Any) -> None:
    """Decode a block's weights."""
    with build.serial(plan.quads // 2) as pair:
        for v in range(plan.vectors):
            planes = [
                T.bind(weights.vload([block, pair, v, term, 0], dtype="uint8x64"))
                for term in range(plan.shape.terms)
            ]
            for half, decoded in enumerate(decode_terms(planes)):
                at = ((pair * 2 + half) * plan.vectors + v) * VECTOR
                T.buffer_store(panel, decoded, [T.ramp(at, 1, VECTOR)])
