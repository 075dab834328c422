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

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size, kernel

from .convert import fill_border
from .epilogue import Epilogue
from .instructions import QUAD, fetch
from .plan import ConvPlan, reach_of


class _Tile:
    """Code of one tile: ``rows x columns`` pixels times ``vectors`` vectors of outputs.

    ``image``, ``y`` and ``column`` say where it is, ``group`` and ``channel`` which channels it
    computes. Sums are in ``sums``, in registers.
    """

    def __init__(self, task: _Task, image: Any, y: Any, column: Any) -> None:
        self.task, self.plan, self.epilogue = task, task.plan, task.epilogue
        self.image, self.y, self.column = image, y, column
        plan = task.plan
        self.isa, self.lanes = plan.isa, plan.isa.lanes
        self.pixels = [(y, x) for y in range(plan.rows) for x in range(plan.columns)]
        source, strides = plan.source, plan.shape.strides
        self.step_y, self.step_x = strides[0] * source.row, strides[1] * source.pitch
        self.count = len(self.pixels) * plan.vectors
        self.sums = T.alloc_buffer((self.count * self.lanes,), "int32")
        #: Which vector of each quad of the next segment is fetched on the way, if any.
        self.ahead: Any = None

    def _put(self, index: int, value: Any) -> None:
        T.buffer_store(self.sums, value, [T.ramp(index * self.lanes, 1, self.lanes)])

    def _get(self, index: int) -> Any:
        return self.sums.vload([index * self.lanes], dtype=self.isa.vector_of("int32"))

    def fetch_ahead(self, index: Any) -> None:
        """Fetch the next weights while these are used: of each quad one vector, by turns."""
        if self.plan.parameters.fetch:
            self.ahead = T.bind(index % self.plan.vectors)

    def begin(self) -> None:
        """Let every sum begin with its channel's bias; sums of minima with zero."""
        constants, vectors = self.task.made["constants"], self.plan.vectors
        for v in range(vectors):
            channel = self.task.channel + v * self.lanes
            bias = T.bind(self.epilogue.constant(constants, "bias", channel))
            if self.plan.adder:
                bias = self.isa.every(0)
            for p in range(len(self.pixels)):
                self._put(p * vectors + v, bias)

    def load(self, partial: Any, start: Any) -> None:
        """Take up the sums where ``save`` has left them."""
        kind = self.isa.vector_of("int32")
        for index in range(self.count):
            self._put(index, partial.vload([start + index * self.lanes], dtype=kind))

    def save(self, partial: Any, start: Any) -> None:
        """Keep the sums for the next segment."""
        for index in range(self.count):
            where = [T.ramp(start + index * self.lanes, 1, self.lanes)]
            T.buffer_store(partial, self._get(index), where)

    def _multiply(self, base: Any, quad: Any) -> None:
        """Add the products of ``unroll`` quads; ``base`` is the first pixel's first."""
        vectors = range(self.plan.vectors)
        for u in range(self.plan.parameters.unroll):
            if self.ahead is not None:
                self.task.fetch(quad + (u + self.plan.distance), self.ahead)
            weights = [T.bind(self.task.weights(quad + u, v)) for v in vectors]
            for p, (row, column) in enumerate(self.pixels):
                where = base + (row * self.step_y + column * self.step_x + u * QUAD)
                pixel = T.bind(self.isa.spread_quad(self.task.made["x"], self.image, where))
                for v in vectors:
                    index = p * self.plan.vectors + v
                    self._put(index, self._add(self._get(index), pixel, weights[v]))

    def _add(self, total: Any, pixel: Any, weights: Any) -> Any:
        """Sums with the products, or with the minima, of a vector of inputs and of weights."""
        if not self.plan.adder:
            return self.isa.dot(total, pixel, weights, self.plan.most)
        least = tirx.min(T.reinterpret(pixel, dtype=self.isa.vector_of("uint8")), weights)
        return self.isa.count(total, least, T.broadcast(T.int8(1), self.isa.vector))

    def _distance(self, total: Any, channel: Any, inputs: Any) -> Any:
        """The layer's sums from those of minima: |x - w| = x + w - 2 min(x, w)."""
        bias = self.epilogue.constant(self.task.made["constants"], "bias", channel)
        return (total << self.isa.every(1)) + bias - inputs

    def _inputs(self, pixel: tuple[int, int]) -> Any:
        """The sum of a pixel's window, in all lanes."""
        plan, source, isa = self.plan, self.plan.source, self.isa
        total: Any = isa.every(0)
        start = self._start(pixel[0], pixel[1])
        for ky in range(plan.shape.kernel[0]):
            for run in range(plan.runs):
                row = ky * plan.shape.dilation[0] * source.row
                row += run * plan.shape.dilation[1] * source.pitch
                for first in range(0, plan.run, isa.vector):
                    counted = [
                        byte < plan.run and byte % source.pitch < plan.shape.group_channels
                        for byte in range(first, first + isa.vector)
                    ]
                    place = [self.image, start + (row + first)]
                    values = self.task.made["x"].vload(place, dtype=isa.vector_of("uint8"))
                    total = T.bind(isa.count(total, values, isa.ones(counted)))
        return T.bind(T.broadcast(isa.sum_of_lanes(total), self.lanes))

    def _start(self, row: Any, column: Any) -> Any:
        """Where the window of a pixel of the tile begins."""
        source, (top, left) = self.plan.source, self.plan.shape.origin
        # The stored border may be wider than this layer's padding.
        corner = source.origin - top * source.row - left * source.pitch
        first = self.y * self.step_y + self.column * self.step_x + self.task.first_input
        return first + (corner + row * self.step_y + column * self.step_x)

    def reduce(self, ky: Any, run: Any, segment: Any) -> None:
        """Add the products of one segment of one run of the window."""
        plan, source, shape = self.plan, self.plan.source, self.plan.shape
        top, span = shape.origin[0], plan.parameters.unroll
        row = self.y * shape.strides[0] + ky * shape.dilation[0]
        base = self._start(0, 0) + ky * (shape.dilation[0] * source.row)
        base = T.bind(
            base + run * (shape.dilation[1] * source.pitch) + segment * (plan.segment * QUAD)
        )
        first = T.bind((ky * plan.runs + run) * plan.run_quads + segment * plan.segment)

        def turns() -> None:
            with build.serial(plan.segment // span) as turn:
                self._multiply(base + turn * (span * QUAD), first + turn * span)

        if plan.zero or plan.rows > 1 or reach_of(shape) == (0, 0):
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
            inputs = self._inputs((row, column)) if self.plan.adder else None
            for v in range(self.plan.vectors):
                channel = task.channel + v * self.lanes
                operand = epilogue.operand(made, self.image, y, x, channel)
                value = self._get(p * self.plan.vectors + v)
                if inputs is not None:
                    value = self._distance(value, channel, inputs)
                results.append(epilogue.shifted(value, made["constants"], channel, operand))
                # Offset from the first pixel: what lies side by side is stored together.
                down, beside = epilogue.out.step
                places.append(row * down + column * beside + v * self.lanes)
        at = epilogue.out.at(self.y, self.column) + task.channel
        epilogue.store(made["out"], self.image, at, places, results)


class _Task:
    """What one turn of the outermost loop computes: a block of outputs for a part of the rows."""

    def __init__(self, plan: ConvPlan, epilogue: Epilogue, made: Kernel, task: Any) -> None:
        self.plan, self.epilogue, self.made = plan, epilogue, made
        shape, parts, isa = plan.shape, plan.parameters.parts, plan.isa
        self.block, self.part = T.bind(task // parts), T.bind(task % parts)
        group = T.bind(self.block // plan.panels)
        first = plan.first_vector(self.block % plan.panels) * isa.lanes
        self.channel = T.bind(group * (shape.outputs // shape.groups) + first)
        self.first_input = group * shape.group_channels
        self.panel = None
        if plan.coded:
            self.panel = T.alloc_buffer((plan.quads * plan.vectors * isa.vector,), "int8")
            self._decode()

    def _decode(self) -> None:
        """Fill the panel with the block's weights."""
        plan, isa = self.plan, self.plan.isa
        kind, size = isa.vector_of("uint8"), isa.vector
        with build.grid(plan.quads // 2, plan.vectors) as (pair, v):
            codes = T.bind(self.made["weights"].vload([self.block, pair, v, 0], dtype=kind))
            for half, decoded in enumerate(isa.decode(codes)):
                at = ((pair * 2 + half) * plan.vectors + v) * size
                T.buffer_store(self.panel, decoded, [T.ramp(at, 1, size)])

    def weights(self, quad: Any, vector: int) -> Any:
        """The block's weights of one quad and vector of outputs."""
        plan, isa = self.plan, self.plan.isa
        if self.panel is None:
            kind = isa.vector_of(plan.packed_type)
            return self.made["weights"].vload([self.block, quad, vector, 0], dtype=kind)
        at = (quad * plan.vectors + vector) * isa.vector
        return self.panel.vload([at], dtype=isa.vector_of("int8"))

    def fetch(self, quad: Any, vector: Any) -> None:
        """Bring the weights of a quad, maybe of the next block, into the cache."""
        plan = self.plan
        at = ((self.block * plan.quads + quad) * plan.vectors + vector) * plan.isa.vector
        fetch(self.made["weights"], plan.packed_shape, at)

    def tile(self, image: Any, row: Any, column: Any) -> _Tile:
        """A tile of the part; the last ones step back, and compute some values again."""
        plan, shape = self.plan, self.plan.shape
        rows = -(-shape.out_height // plan.rows)
        row = self.part * -(-rows // plan.parameters.parts) + row
        y = T.bind(T.min(row * plan.rows, shape.out_height - plan.rows))
        x = T.bind(T.min(column * plan.columns, shape.out_width - plan.columns))
        return _Tile(self, image, y, x)


def conv(plan: ConvPlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out).

    x is uint8 ``[batch, source.size]``, ``weights`` packed as ``plan.packed_shape`` says,
    ``constants`` int32 ``[len(epilogue.rows), outputs]``.
    """
    n = batch_size(batch)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, plan.packed_type),
        **epilogue.tensors(n),
    }
    with kernel("shiftadd_conv2d", tensors, plan.isa.computed_by) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        convolve(plan, epilogue, made, n)
    return made.function


def convolve(plan: ConvPlan, epilogue: Epilogue, made: Kernel, n: Any) -> None:
    """Code of a convolution between the parameters of a kernel, as those of ``conv``."""
    spread = build.parallel if plan.parameters.parallel else build.serial
    with spread(plan.tasks) as index:
        task = _Task(plan, epilogue, made, index)
        (_by_segments if plan.segmented else _by_tiles)(task, n)


def _by_tiles(task: _Task, n: Any) -> None:
    plan = task.plan
    columns = -(-plan.shape.out_width // plan.columns)
    with build.grid(n, plan.tiles // columns, columns) as (image, row, column):
        tile = task.tile(image, row, column)
        tile.fetch_ahead(row * columns + column)
        tile.begin()
        with build.grid(plan.shape.kernel[0], plan.runs) as (ky, run):
            tile.reduce(ky, run, 0)
        tile.end()


def _by_segments(task: _Task, n: Any) -> None:
    plan = task.plan
    columns = -(-plan.shape.out_width // plan.columns)
    rows, size = plan.tiles // columns, plan.rows * plan.columns * plan.vectors * plan.isa.lanes
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
            tile.fetch_ahead(row * columns + column)
            tile.load(partial, (row * columns + column) * size)
            tile.reduce(ky, run, segment)
            tile.save(partial, (row * columns + column) * size)
        with build.grid(rows, columns) as (row, column):
            tile = task.tile(image, row, column)
            tile.load(partial, (row * columns + column) * size)
            tile.end()
