"""Convolution by words: a tile of sums in each thread's registers, operands in shared memory.

It takes every layer: any channels, groups, strides and dilation. Products are those of dp4a, from
compute capability 6.1 on; adder layers add absolute differences of bytes in the same places.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size

from .epilogue import Epilogue, Writer
from .intrinsics import QUAD, TOP_BITS, decode, distance, dot
from .launch import grid, guarded, layer_function, matrix_views, split
from .parameters import TileParameters
from .problem import CHUNK, Problem, Shapes
from .weights import packed_shape

#: What separates the rows of inputs in shared memory, so that threads which store neighbouring
#: words of several pixels meet different banks.
PAD = 4


def tile(
    problem: Problem,
    epilogue: Epilogue,
    batch: Any,
    shapes: Shapes,
    parameters: TileParameters,
) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out); ``shapes`` are those of x and out.

    Weights are as ``pack_words`` makes them; the constants as ``fusion.epilogue.constants``.
    """
    name = f"shiftadd_cuda_tile_{problem.kind}"
    by = "vabsdiff4" if problem.kind == "adder" else "dp4a"
    with layer_function(name, by, problem, epilogue, shapes, packed_shape(problem)) as made:
        _Tile(problem, epilogue, made, batch_size(batch), parameters).emit()
    return made.function


class _Tile:
    """The code of one thread."""

    def __init__(
        self, problem: Problem, epilogue: Epilogue, made: Kernel, batch: Any, p: TileParameters
    ) -> None:
        self.problem, self.epilogue, self.made, self.p = problem, epilogue, made, p
        self.total = batch * problem.pixels
        self.rows, self.columns = p.down * p.pixels, p.across * QUAD
        self.threads = p.across * p.down
        #: Words that are loaded together, such pieces of a row, and those of a thread.
        together = problem.channels % CHUNK == 0 and p.depth % QUAD == 0
        self.together = QUAD if together else 1
        self.pieces = p.depth // self.together
        self.share = -(-self.rows * self.pieces // self.threads)
        self.views = matrix_views(made, problem, epilogue, batch)

    def emit(self) -> None:
        problem, p = self.problem, self.p
        blocks = tirx.ceildiv(self.total, self.rows)
        panels = -(-problem.outputs // self.columns)
        self.pitch = pitch = self.rows + PAD
        self.inputs = build.sblock_alloc_buffer((p.depth * pitch,), "int32", scope="shared")
        self.weights = build.sblock_alloc_buffer((p.depth * self.columns,), "int32", scope="shared")
        with grid(blocks, panels, problem.shape.groups, self.threads) as (bx, by, group, thread):
            self.first = T.bind(bx * self.rows)
            self.group, self.thread = group, thread
            self.panel = T.bind(by * self.columns)
            self.across, self.down = T.bind(thread % p.across), T.bind(thread // p.across)
            self._locate()
            self.sums = T.alloc_buffer((p.pixels * QUAD,), "int32", scope="local")
            for index in range(p.pixels * QUAD):
                T.buffer_store(self.sums, T.int32(0), [index])
            with build.serial(-(-problem.words // p.depth)) as turn:
                start = T.bind(turn * p.depth)
                self._load_inputs(start)
                self._load_weights(start)
                self._add()
            self._finish()

    # This thread's share of the inputs: pieces of one word, or of four that lie together.

    def _locate(self) -> None:
        """Image and first row and column of the window of each pixel that the thread loads."""
        shape = self.problem.shape
        self.at = T.alloc_buffer((self.share, 3), "int32", scope="local")
        for slot in range(self.share):
            pixel = T.bind(self.first + (self.thread + slot * self.threads) // self.pieces)
            image, y, x = split(pixel, shape.out_height, shape.out_width)
            # A pixel behind the last one reads none: its rows are outside every map.
            top = T.Select(pixel < self.total, y * shape.strides[0] - shape.origin[0], 1 << 30)
            T.buffer_store(self.at, image * shape.height, [slot, 0])
            T.buffer_store(self.at, top, [slot, 1])
            T.buffer_store(self.at, x * shape.strides[1] - shape.origin[1], [slot, 2])

    def _load_inputs(self, start: Any) -> None:
        words = T.alloc_buffer((self.together,), "int32", scope="local")
        for slot in range(self.share):
            index, count = self.thread + slot * self.threads, self.rows * self.pieces
            with guarded(index < count, (slot + 1) * self.threads > count):
                depth = T.bind(index % self.pieces * self.together)
                self._input(words, slot, T.bind(start + depth))
                place = T.bind(depth * self.pitch + index // self.pieces)
                for word in range(self.together):
                    T.buffer_store(self.inputs, words[word], [place + word * self.pitch])

    def _input(self, words: Any, slot: int, word: Any) -> None:
        """The words from ``word`` on of a pixel's window."""
        problem, shape = self.problem, self.problem.shape
        tap, quad = word // problem.tap_words, word % problem.tap_words
        y = T.bind(self.at[slot, 1] + tap // shape.kernel[1] * shape.dilation[0])
        x = T.bind(self.at[slot, 2] + tap % shape.kernel[1] * shape.dilation[1])
        inside = T.bind(tirx.all(y >= 0, y < shape.height, x >= 0, x < shape.width))
        row = T.bind(tirx.Cast("int64", (self.at[slot, 0] + y) * shape.width + x))
        view = self.views["x"]
        if self.together == 1:
            value = load_word(view, row, self.group, quad, inside, problem)
            T.buffer_store(words, value, [0])
        else:
            for lane in range(QUAD):
                T.buffer_store(words, T.int32(0), [lane])
            with T.If(inside), T.Then():
                channel = self.group * problem.channels + quad * QUAD
                value = view.vload([row, channel], dtype=f"{problem.dtype}x{CHUNK}")
                value = T.reinterpret(value, dtype="int32x4")
                T.buffer_store(words, value, [T.ramp(0, 1, QUAD)])
        if problem.kind == "adder":
            there = T.bind(word < problem.words)
            for lane in range(self.together):
                turned = T.Select(there, words[lane] ^ T.int32(TOP_BITS), T.int32(0))
                T.buffer_store(words, turned, [lane])

    def _load_weights(self, start: Any) -> None:
        problem, p = self.problem, self.p
        weights, half = self.made["weights"], 2 if problem.coded else 1
        words = packed_shape(problem)[1]
        depth, quads = p.depth // half, p.across
        held = T.alloc_buffer((QUAD,), "int32", scope="local")
        for slot in range(-(-depth * quads // self.threads)):
            index = self.thread + slot * self.threads
            with guarded(index < depth * quads, (slot + 1) * self.threads > depth * quads):
                row = T.bind(index // quads)
                column = T.bind(index % quads * QUAD)
                output, word = self.panel + column, T.bind(start // half + row)
                inside = tirx.all(word < words, output < problem.padded_outputs)
                zeros = T.broadcast(T.int32(0), QUAD)
                value = weights.vload([self.group, word, output], dtype="int32x4")
                T.buffer_store(held, T.if_then_else(inside, value, zeros), [T.ramp(0, 1, QUAD)])
                for lane in range(QUAD):
                    place = row * (half * self.columns) + column + lane
                    if not problem.coded:
                        T.buffer_store(self.weights, held[lane], [place])
                        continue
                    for decoded in decode(held[lane]):
                        T.buffer_store(self.weights, decoded, [place])
                        place = place + self.columns

    def _add(self) -> None:
        """Add what is in shared memory to the sums."""
        p, problem = self.p, self.problem
        inputs = T.alloc_buffer((p.pixels,), "int32", scope="local")
        weights = T.alloc_buffer((QUAD,), "int32", scope="local")
        with build.unroll(p.depth) as depth:
            for quad in range(0, p.pixels, QUAD):
                at = depth * self.pitch + self.down * p.pixels + quad
                value = self.inputs.vload([at], dtype="int32x4")
                T.buffer_store(inputs, value, [T.ramp(quad, 1, QUAD)])
            at = depth * self.columns + self.across * QUAD
            value = self.weights.vload([at], dtype="int32x4")
            T.buffer_store(weights, value, [T.ramp(0, 1, QUAD)])
            for pixel in range(p.pixels):
                for lane in range(QUAD):
                    at = pixel * QUAD + lane
                    args = (inputs[pixel], weights[lane], self.sums[at])
                    total = (
                        distance(*args) if problem.kind == "adder" else dot(*args, problem.dtype)
                    )
                    T.buffer_store(self.sums, total, [at])

    def _finish(self) -> None:
        p, problem = self.p, self.problem
        writer = Writer(self.epilogue, self.made["constants"], self.views, problem.outputs)
        channel = T.bind(self.panel + self.across * QUAD + self.group * problem.outputs)
        limit = T.bind((self.group + 1) * problem.outputs)
        with T.If(channel < limit), T.Then():
            constant = writer.load_constants(channel, QUAD)
            for index in range(p.pixels):
                pixel = T.bind(self.first + self.down * p.pixels + index)
                with T.If(pixel < self.total), T.Then():
                    sums = [self.sums[index * QUAD + lane] for lane in range(QUAD)]
                    if problem.kind == "adder":
                        sums = [T.int32(0) - value for value in sums]
                    writer.store(tirx.Cast("int64", pixel), channel, sums, constant, limit)


def load_word(view: Any, row: Any, group: Any, quad: Any, inside: Any, problem: Problem) -> Any:
    """Four channels of a pixel as an int32: zero where it is not ``inside`` its map."""
    first = group * problem.channels + quad * QUAD
    zero = T.int32(0)
    if problem.channels % QUAD == 0:
        value = view.vload([row, first], dtype=f"{problem.dtype}x{QUAD}")
        return T.if_then_else(inside, T.reinterpret(value, dtype="int32"), zero)
    word = zero
    for byte in range(QUAD):
        there = tirx.all(inside, quad * QUAD + byte < problem.channels)
        value = view[row, first + byte].astype("int32") & T.int32(255)
        word = word | (T.if_then_else(there, value, zero) << T.int32(8 * byte))
    return word
