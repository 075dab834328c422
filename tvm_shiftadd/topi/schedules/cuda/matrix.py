"""Convolution on tensor cores: products of bytes by mma.m16n8k32, from compute capability 8.0 on.

The layer is one product of matrices whose left one, the windows of all pixels, is never written:
each row's pieces of sixteen channels are copied from the map to shared memory as they are used,
some slabs of the reduction ahead. Weights come in the order in which threads hold them; codes of
four bits are decoded in registers.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size

from .epilogue import Epilogue, Writer
from .gemv import emit_gemv
from .intrinsics import (
    WARP,
    commit,
    copy,
    decode,
    keep_whole,
    load_matrix,
    matrix_product,
    wait,
)
from .launch import grid, guarded, layer_function, matrix_views, split
from .parameters import DenseParameters, MatrixParameters
from .problem import CHUNK, IMAGES, SLAB, Problem, Shapes
from .weights import fragments_shape

#: The instruction of tensor cores.
_PRODUCT = "mma.m16n8k32"
#: Rows of a tile of pixels, columns of one of outputs, and the sums of both in a thread.
_ROWS, _COLUMNS, _SUMS = 16, 8, 4
#: Pieces of a row in a slab, and products that a slab takes.
_PIECES, _STEPS = SLAB // CHUNK, SLAB // 32


def matrix(
    problem: Problem,
    epilogue: Epilogue,
    batch: Any,
    shapes: Shapes,
    parameters: MatrixParameters,
) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out); ``shapes`` are those of x and out.

    Weights are as ``pack_fragments`` makes them; the constants as ``fusion.epilogue.constants``.
    """
    name, fragments = "shiftadd_cuda_matrix", fragments_shape(problem)
    with layer_function(name, _PRODUCT, problem, epilogue, shapes, fragments) as made:
        _Matrix(problem, epilogue, made, batch_size(batch), parameters).emit()
    return made.function


def dense(
    problem: Problem,
    epilogue: Epilogue,
    batch: Any,
    shapes: Shapes,
    parameters: DenseParameters,
) -> tirx.PrimFunc:
    """A dense layer of any number of images: ``gemv`` of a few of them, else as ``matrix``."""
    name, fragments = "shiftadd_cuda_dense", fragments_shape(problem)
    with layer_function(name, _PRODUCT, problem, epilogue, shapes, fragments) as made:
        # Loops of one turn or none: TVM puts no barriers into a launch under a condition.
        with build.serial(T.Select(batch <= IMAGES, T.int64(1), T.int64(0))):
            emit_gemv(problem, epilogue, made, batch, parameters.few)
        with build.serial(T.Select(batch > IMAGES, T.int64(1), T.int64(0))):
            _Matrix(problem, epilogue, made, batch, parameters.many).emit()
    return made.function


class _Matrix:
    """The code of one thread."""

    def __init__(
        self, problem: Problem, epilogue: Epilogue, made: Kernel, batch: Any, p: MatrixParameters
    ) -> None:
        self.problem, self.epilogue, self.made, self.p = problem, epilogue, made, p
        self.total = batch * problem.pixels
        self.tiles = p.panels * problem.panel_tiles
        self.rows = p.down * p.rows * _ROWS
        self.columns = p.across * self.tiles * _COLUMNS
        self.threads = p.down * p.across * WARP
        self.views = matrix_views(made, problem, epilogue, batch)
        #: Units of weights: of all outputs, of a block, of a warp.
        _, _, self.all_units, _, self.words = fragments_shape(problem)
        self.block_units = self.columns // _COLUMNS // problem.unit_tiles
        self.units = self.tiles // problem.unit_tiles

    def emit(self) -> None:
        problem, p = self.problem, self.p
        blocks = tirx.ceildiv(self.total, self.rows)
        panels = -(-problem.outputs // self.columns)
        size = p.stages * self.rows * SLAB
        self.inputs = build.sblock_alloc_buffer((size,), "uint8", scope="shared")
        size = p.stages * self.block_units * WARP * self.words
        self.weights = build.sblock_alloc_buffer((size,), "int32", scope="shared")
        with grid(blocks, panels, problem.shape.groups, self.threads) as (bx, by, group, thread):
            keep_whole(self.inputs)
            keep_whole(self.weights)
            self.first, self.group, self.thread = T.bind(bx * self.rows), group, thread
            self.panel = T.bind(by * self.columns)
            self.lane, warp = T.bind(thread % WARP), T.bind(thread // WARP)
            self.down, self.across = T.bind(warp // p.across), T.bind(warp % p.across)
            self._locate()
            self.sums = T.alloc_buffer((p.rows * self.tiles * _SUMS,), "int32", scope="local")
            for index in range(p.rows * self.tiles * _SUMS):
                T.buffer_store(self.sums, T.int32(0), [index])
            for slab in range(p.stages - 1):
                self._load(slab, slab, slab < problem.slabs)
                commit()
            with build.serial(problem.slabs) as slab:
                wait(p.stages - 2)
                T.evaluate(T.tvm_storage_sync("shared"))
                ahead = T.bind(slab + (p.stages - 1))
                with T.If(ahead < problem.slabs), T.Then():
                    self._load(ahead, T.bind(ahead % p.stages), True)
                commit()
                self._multiply(T.bind(slab % p.stages))
            self._finish()

    # Copies to shared memory, ahead of their use.

    def _locate(self) -> None:
        """Image and first row and column of the window of each pixel that the thread copies."""
        shape = self.problem.shape
        self.share = -(-self.rows * _PIECES // self.threads)
        self.at = T.alloc_buffer((self.share, 3), "int32", scope="local")
        for slot in range(self.share):
            pixel = T.bind(self.first + self._row(slot))
            image, y, x = split(pixel, shape.out_height, shape.out_width)
            # A pixel behind the last one reads none: its rows are outside every map.
            top = T.Select(pixel < self.total, y * shape.strides[0] - shape.origin[0], 1 << 30)
            T.buffer_store(self.at, image * shape.height, [slot, 0])
            T.buffer_store(self.at, top, [slot, 1])
            T.buffer_store(self.at, x * shape.strides[1] - shape.origin[1], [slot, 2])

    def _row(self, slot: int) -> Any:
        return self.thread // _PIECES + slot * (self.threads // _PIECES)

    def _load(self, slab: Any, stage: Any, needed: bool) -> None:
        if needed:
            self._load_inputs(slab, stage)
            self._load_weights(slab, stage)

    def _load_inputs(self, slab: Any, stage: Any) -> None:
        problem, shape = self.problem, self.problem.shape
        piece = T.bind(self.thread % _PIECES)
        place = T.bind(slab * _PIECES + piece)
        pieces = problem.channels // CHUNK
        tap = T.bind(place // pieces)
        channel = T.bind(self.group * problem.channels + place % pieces * CHUNK)
        down = T.bind(tap // shape.kernel[1] * shape.dilation[0])
        right = T.bind(tap % shape.kernel[1] * shape.dilation[1])
        taps = shape.kernel[0] * shape.kernel[1]
        for slot in range(self.share):
            row = T.bind(self._row(slot))
            with guarded(row < self.rows, (slot + 1) * self.threads > self.rows * _PIECES):
                y, x = T.bind(self.at[slot, 1] + down), T.bind(self.at[slot, 2] + right)
                inside = tirx.all(y >= 0, y < shape.height, x >= 0, x < shape.width, tap < taps)
                inside = T.bind(inside)
                pixel = (self.at[slot, 0] + y) * shape.width + x
                pixel = T.bind(tirx.Cast("int64", T.Select(inside, pixel, 0)))
                source = T.address_of(self.views["x"][pixel, channel])
                to = stage * (self.rows * SLAB) + row * SLAB + _turned(row, piece) * CHUNK
                copy(T.address_of(self.inputs[to]), source, T.Select(inside, CHUNK, 0))

    def _load_weights(self, slab: Any, stage: Any) -> None:
        chunks = self.block_units * WARP
        first = self.panel // (_COLUMNS * self.problem.unit_tiles)
        for slot in range(-(-chunks // self.threads)):
            index = T.bind(self.thread + slot * self.threads)
            unit = T.bind(first + index // WARP)
            # What lies behind the last unit is not loaded, and its sums are not stored.
            there = tirx.all(index < chunks, unit < self.all_units)
            rest = self.all_units % self.block_units or (slot + 1) * self.threads > chunks
            with guarded(there, bool(rest)):
                source = self.made["weights"][self.group, slab, unit, index % WARP, 0]
                to = self.weights[(stage * chunks + index) * self.words]
                copy(T.address_of(to), T.address_of(source), CHUNK)

    # Products.

    def _multiply(self, stage: Any) -> None:
        """Add the products of a slab to the sums."""
        p = self.p
        words = T.alloc_buffer((self.units * self.words,), "int32", scope="local")
        first = stage * self.block_units + self.across * self.units
        first = T.bind((first * WARP + self.lane) * self.words)
        for unit in range(self.units):
            at = first + unit * (WARP * self.words)
            value = self.weights.vload([at], dtype=f"int32x{self.words}")
            T.buffer_store(words, value, [T.ramp(unit * self.words, 1, self.words)])
        fragments = T.alloc_buffer((p.rows * 4,), "uint32", scope="local")
        weights = T.alloc_buffer((self.tiles * 2,), "uint32", scope="local")
        keep_whole(fragments)
        row = T.bind(self.down * (p.rows * _ROWS) + self.lane % _ROWS)
        for step in range(_STEPS):
            at = stage * (self.rows * SLAB) + row * SLAB
            at = T.bind(at + _turned(row, step * 2 + self.lane // _ROWS) * CHUNK)
            for tile in range(p.rows):
                source = T.address_of(self.inputs[at + tile * (_ROWS * SLAB)])
                load_matrix(T.address_of(fragments[tile * 4]), source)
            for tile in range(self.tiles):
                for half, word in enumerate(self._fragment(words, tile, step)):
                    word = word.astype("uint32")
                    T.buffer_store(weights, word, [tile * 2 + half])
            for tile in range(p.rows):
                for column in range(self.tiles):
                    matrix_product(
                        T.address_of(self.sums[(tile * self.tiles + column) * _SUMS]),
                        T.address_of(fragments[tile * 4]),
                        T.address_of(weights[column * 2]),
                        self.problem.dtype,
                    )

    def _fragment(self, words: Any, tile: int, step: int) -> tuple[Any, Any]:
        """A thread's two words of weights for a product."""
        if self.problem.coded:
            return decode(words[tile * 2 + step])
        return words[tile * 4 + step * 2], words[tile * 4 + step * 2 + 1]

    def _finish(self) -> None:
        problem, p = self.problem, self.p
        width = 2 * problem.panel_tiles
        writer = Writer(self.epilogue, self.made["constants"], self.views, problem.outputs)
        limit = T.bind((self.group + 1) * problem.outputs)
        start = self.group * problem.outputs + self.panel
        start = start + self.across * (self.tiles * _COLUMNS) + self.lane % 4 * width
        first = T.bind(self.first + self.down * (p.rows * _ROWS) + self.lane // 4)
        for panel in range(p.panels):
            channel = T.bind(start + panel * problem.panel)
            with T.If(channel < limit), T.Then():
                constant = writer.load_constants(channel, width)
                for half in range(p.rows * 2):
                    pixel = T.bind(first + half * 8)
                    tiles = (half // 2) * self.tiles + panel * problem.panel_tiles
                    sums = [
                        self.sums[(tiles + lane // 2) * _SUMS + half % 2 * 2 + lane % 2]
                        for lane in range(width)
                    ]
                    with T.If(pixel < self.total), T.Then():
                        writer.store(tirx.Cast("int64", pixel), channel, sums, constant, limit)


def _turned(row: Any, piece: Any) -> Any:
    """Where a piece of a row is, so that eight rows' pieces meet all banks of shared memory."""
    return T.bitwise_xor(piece, row // 2 % _PIECES)
