"""The convolution kernel: a panel of weights, and tiles of sums in registers.

A panel holds the int8 weights of a few vectors of output channels, in the order in which they
are used. Weights of one term are decoded into it from codes of four bits when a task begins; it
stays in the cache and serves all pixels. For each tile of pixels the sums stay in registers from
the bias to the requantised bytes, but where a panel is too large for the first-level cache: then
all tiles take its segments one after the other.

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
from .instructions import LANES, QUAD, VECTOR, decode, dot, fetch, spread_quad
from .stored import Stored

#: Vector registers that sums, weights and an input may fill.
REGISTERS = 31
#: Instructions of the innermost loop.
MAX_UNROLLED = 112
#: Bytes of weights, and of sums, that stay in the first-level cache while all tiles use them.
PANEL, ALL_SUMS = 24_576, 49_152
#: Relative cost of a dot product, by the vectors of outputs of a tile.
_VECTOR_COST = {1: 1.13, 2: 1.0, 3: 1.03, 4: 1.04}
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
        """Quads of a window; an even number where two share a byte of codes."""
        quads = self.shape.kernel[0] * self.runs * self.run_quads
        return round_up(quads, 2) if self.coded else quads

    @property
    def coded(self) -> bool:
        """Whether weights are kept as codes: the sum of two terms or more takes less as int8."""
        return self.shape.terms == 1

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
        """Shape of the packed weights: a vector of int8, or of bytes with two codes each."""
        vectors = self.quads // 2 if self.coded else self.quads
        return (self.shape.groups * self.panels, vectors, self.vectors, VECTOR)

    @property
    def packed_type(self) -> str:
        """Element type of the packed weights."""
        return "uint8" if self.coded else "int8"

    @property
    def segment(self) -> int:
        """Quads of a run that are used together: all, or what the first-level cache holds."""
        all_sums = self.tiles * self.rows * self.columns * self.vectors * VECTOR
        if self.quads * self.vectors * VECTOR <= PANEL or all_sums > ALL_SUMS:
            return self.run_quads
        step = 2 if self.coded else 1
        most = PANEL // (self.vectors * VECTOR)
        fit = [q for q in range(step, most + 1, step) if self.run_quads % q == 0]
        return max(fit, default=self.run_quads)

    @property
    def segmented(self) -> bool:
        """Whether sums leave the registers between the segments of a panel."""
        runs = self.shape.kernel[0] * self.runs * self.run_quads
        return (
            runs * self.vectors * VECTOR > PANEL and self.segment * self.vectors * VECTOR <= PANEL
        )

    @property
    def tiles(self) -> int:
        """Tiles of a part of the map."""
        rows = -(-self.shape.out_height // self.rows)
        return -(-rows // self.parts) * -(-self.shape.out_width // self.columns)

    @cached_property
    def unroll(self) -> int:
        """Quads of one turn of the innermost loop.

        Neighbouring pixels must not read the same ones in it: the compiler would keep them in
        registers that the sums need.
        """
        apart = self.shape.strides[1] * self.source.pitch // QUAD
        most = max(1, MAX_UNROLLED // (self.rows * self.columns * self.vectors))
        most = min(most, max(1, apart)) if self.columns > 1 else most
        return max(u for u in range(1, min(8, most) + 1) if self.segment % u == 0)

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
    """Cycles an image takes, up to a constant, for a quad of the reduction.

    Fitted to all tiles of six layers on a Zen 5: sums must cover the latency of a dot product, and
    two vectors of outputs balance loads of inputs and of weights best.
    """
    pixels = rows * columns
    tiles = -(-shape.out_height // rows) * -(-shape.out_width // columns)
    sums = pixels * vectors
    cycles = max(sums, 12) * _VECTOR_COST[vectors]
    if sums > 16:
        cycles *= 1.03
    cycles *= 1 + 0.02 * (rows - 1)
    return tiles * -(-outputs // vectors) * (cycles + 0.3)


class _Tile:
    """Code of one tile: ``rows x columns`` pixels times ``vectors`` vectors of outputs.

    ``image``, ``y`` and ``column`` say where it is, ``group`` and ``channel`` which channels it
    computes. Sums are in ``sums``, in registers.
    """

    def __init__(self, task: _Task, image: Any, y: Any, column: Any) -> None:
        self.task, self.plan, self.epilogue = task, task.plan, task.epilogue
        self.image, self.y, self.column = image, y, column
        plan = task.plan
        self.pixels = [(y, x) for y in range(plan.rows) for x in range(plan.columns)]
        source, strides = plan.source, plan.shape.strides
        self.step_y, self.step_x = strides[0] * source.row, strides[1] * source.pitch
        self.count = len(self.pixels) * plan.vectors
        self.sums = T.alloc_buffer((self.count * LANES,), "int32")

    def _put(self, index: int, value: Any) -> None:
        T.buffer_store(self.sums, value, [T.ramp(index * LANES, 1, LANES)])

    def _get(self, index: int) -> Any:
        return self.sums.vload([index * LANES], dtype="int32x16")

    def begin(self) -> None:
        """Let every sum begin with its channel's bias."""
        constants, vectors = self.task.made["constants"], self.plan.vectors
        for v in range(vectors):
            channel = self.task.channel + v * LANES
            bias = T.bind(self.epilogue.constant(constants, "bias", channel))
            for p in range(len(self.pixels)):
                self._put(p * vectors + v, bias)

    def load(self, partial: Any, start: Any) -> None:
        """Take up the sums where ``save`` has left them."""
        for index in range(self.count):
            self._put(index, partial.vload([start + index * LANES], dtype="int32x16"))

    def save(self, partial: Any, start: Any) -> None:
        """Keep the sums for the next segment."""
        for index in range(self.count):
            where = [T.ramp(start + index * LANES, 1, LANES)]
            T.buffer_store(partial, self._get(index), where)

    def _multiply(self, base: Any, quad: Any) -> None:
        """Add the products of ``plan.unroll`` quads; ``base`` is the first pixel's first."""
        vectors = range(self.plan.vectors)
        for u in range(self.plan.unroll):
            weights = [T.bind(self.task.weights(quad + u, v)) for v in vectors]
            for p, (row, column) in enumerate(self.pixels):
                where = base + (row * self.step_y + column * self.step_x + u * QUAD)
                pixel = T.bind(spread_quad(self.task.made["x"], self.image, where))
                for v in vectors:
                    index = p * self.plan.vectors + v
                    self._put(index, dot(self._get(index), pixel, weights[v]))

    def reduce(self, ky: Any, run: Any, segment: Any) -> None:
        """Add the products of one segment of one run of the window."""
        plan, source, shape = self.plan, self.plan.source, self.plan.shape
        (top, left), span = shape.origin, plan.unroll
        # The stored border may be wider than this layer's padding.
        start = source.origin - top * source.row - left * source.pitch
        row = self.y * shape.strides[0] + ky * shape.dilation[0]
        base = start + row * source.row + self.column * self.step_x + self.task.first_input
        base = T.bind(
            base + run * (shape.dilation[1] * source.pitch) + segment * (plan.segment * QUAD)
        )
        first = T.bind((ky * plan.runs + run) * plan.run_quads + segment * plan.segment)

        def turns() -> None:
            with build.serial(plan.segment // span) as turn:
                self._multiply(base + turn * (span * QUAD), first + turn * span)

        if source.zero or plan.rows > 1 or reach_of(shape) == (0, 0):
            turns()
            return
        # Rows of zeros above and below add nothing.
        with build.If(T.And(row >= top, row < top + shape.height)), build.Then():
            turns()

    def end(self) -> None:
        """Finish the sums and store them."""
        epilogue, made, task = self.epilogue, self.task.made, self.task
        results, places = [], []
        for p, (row, column) in enumerate(self.pixels):
            y, x = self.y + row, self.column + column
            for v in range(self.plan.vectors):
                channel = task.channel + v * LANES
                operand = epilogue.operand(made, self.image, y, x, channel)
                value = self._get(p * self.plan.vectors + v)
                results.append(epilogue.shifted(value, made["constants"], channel, operand))
                # Offset from the first pixel: what lies side by side is stored together.
                out = epilogue.out
                places.append(row * out.row + column * out.pitch + v * LANES)
        at = epilogue.out.at(self.y, self.column) + task.channel
        epilogue.store(made["out"], self.image, at, places, results)


class _Task:
    """What one turn of the outermost loop computes: a block of outputs for a part of the rows."""

    def __init__(self, plan: ConvPlan, epilogue: Epilogue, made: Kernel, task: Any) -> None:
        self.plan, self.epilogue, self.made = plan, epilogue, made
        shape = plan.shape
        self.block, self.part = T.bind(task // plan.parts), T.bind(task % plan.parts)
        group = T.bind(self.block // plan.panels)
        first = plan.first_vector(self.block % plan.panels) * LANES
        self.channel = T.bind(group * (shape.outputs // shape.groups) + first)
        self.first_input = group * shape.group_channels
        self.panel = None
        if plan.coded:
            self.panel = T.alloc_buffer((plan.quads * plan.vectors * VECTOR,), "int8")
            self._decode()

    def _decode(self) -> None:
        """Fill the panel with the block's weights."""
        plan = self.plan
        with build.grid(plan.quads // 2, plan.vectors) as (pair, v):
            codes = T.bind(self.made["weights"].vload([self.block, pair, v, 0], dtype="uint8x64"))
            for half, decoded in enumerate(decode(codes)):
                at = ((pair * 2 + half) * plan.vectors + v) * VECTOR
                T.buffer_store(self.panel, decoded, [T.ramp(at, 1, VECTOR)])

    def weights(self, quad: Any, vector: int) -> Any:
        """The block's weights of one quad and vector of outputs."""
        if self.panel is None:
            return self.made["weights"].vload([self.block, quad, vector, 0], dtype="int8x64")
        return self.panel.vload([(quad * self.plan.vectors + vector) * VECTOR], dtype="int8x64")

    def fetch_ahead(self, quad: Any, turn: Any) -> None:
        """Bring a part of the segment behind the one at ``quad`` into the cache.

        ``turn`` counts the tiles: each has an equal part to fetch. The segment may be of the next
        block.
        """
        plan = self.plan
        if plan.coded:
            return
        lines = -(-plan.segment * plan.vectors // plan.tiles)
        start = (self.block * plan.quads + quad + plan.segment) * plan.vectors + turn * lines
        with build.serial(lines) as line:
            fetch(self.made["weights"], plan.packed_shape, (start + line) * VECTOR)

    def tile(self, image: Any, row: Any, column: Any) -> _Tile:
        """A tile of the part; the last ones step back, and compute some values again."""
        plan, shape = self.plan, self.plan.shape
        rows = -(-shape.out_height // plan.rows)
        row = self.part * -(-rows // plan.parts) + row
        y = T.bind(T.min(row * plan.rows, shape.out_height - plan.rows))
        x = T.bind(T.min(column * plan.columns, shape.out_width - plan.columns))
        return _Tile(self, image, y, x)


def conv(plan: ConvPlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out).

    x is uint8 ``[batch, source.size]``, ``weights`` packed as ``plan.packed_shape`` says,
    ``constants`` int32 ``[len(epilogue.rows), outputs]``.
    """
    tasks = plan.shape.groups * plan.panels * plan.parts
    spread = build.parallel if plan.work >= SERIAL and tasks > 1 else build.serial
    n = batch_size(batch)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, plan.packed_type),
        **epilogue.tensors(n),
    }
    with kernel("shiftadd_conv2d", tensors) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        with spread(tasks) as index:
            task = _Task(plan, epilogue, made, index)
            (_by_segments if plan.segmented else _by_tiles)(task, n)
    return made.function


def _by_tiles(task: _Task, n: Any) -> None:
    plan = task.plan
    columns = -(-plan.shape.out_width // plan.columns)
    with build.grid(n, plan.tiles // columns, columns) as (image, row, column):
        tile = task.tile(image, row, column)
        tile.begin()
        with build.grid(plan.shape.kernel[0], plan.runs) as (ky, run):
            tile.reduce(ky, run, 0)
        tile.end()


def _by_segments(task: _Task, n: Any) -> None:
    plan = task.plan
    columns = -(-plan.shape.out_width // plan.columns)
    rows, size = plan.tiles // columns, plan.rows * plan.columns * plan.vectors * LANES
    partial = T.alloc_buffer((plan.tiles * size,), "int32")
    segments = plan.run_quads // plan.segment
    with build.serial(n) as image:
        with build.grid(rows, columns) as (row, column):
            tile = task.tile(image, row, column)
            tile.begin()
            tile.save(partial, (row * columns + column) * size)
        turns = (plan.shape.kernel[0], plan.runs, segments, rows, columns)
        with build.grid(*turns) as (ky, run, segment, row, column):
            tile = task.tile(image, row, column)
            quad = (ky * plan.runs + run) * plan.run_quads + segment * plan.segment
            task.fetch_ahead(quad, row * columns + column)
            tile.load(partial, (row * columns + column) * size)
            tile.reduce(ky, run, segment)
            tile.save(partial, (row * columns + column) * size)
        with build.grid(rows, columns) as (row, column):
            tile = task.tile(image, row, column)
            tile.load(partial, (row * columns + column) * size)
            tile.end()


def reach_of(shape: ConvShape) -> tuple[int, int]:
    """Rows above and below the map that windows reach."""
    last = (shape.out_height - 1) * shape.strides[0] + (shape.kernel[0] - 1) * shape.dilation[0]
    return shape.origin[0], max(0, last - shape.origin[0] + 1 - shape.height)
