"""Depthwise convolution: four channels of neighbouring pixels a thread.

Bytes of one channel lie apart in a map, so four taps of four channels are turned in registers, by
eight permutations, into words of four taps of a channel each; dp4a then adds them up. That
is less than half of what sixteen single products take. Time is mostly that of reading the map.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size

from .epilogue import Epilogue, Writer
from .intrinsics import QUAD, dot, permute
from .launch import layer_function, matrix_views, split
from .parameters import DepthwiseParameters
from .problem import Problem, Shapes
from .weights import taps_shape


def depthwise(
    problem: Problem,
    epilogue: Epilogue,
    batch: Any,
    shapes: Shapes,
    parameters: DepthwiseParameters,
) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out); ``shapes`` are those of x and out.

    Weights are as ``pack_taps`` makes them; the constants as ``fusion.epilogue.constants``.
    """
    name, taps = "shiftadd_cuda_depthwise", taps_shape(problem)
    with layer_function(name, "dp4a", problem, epilogue, shapes, taps) as made:
        _Depthwise(problem, epilogue, made, batch_size(batch), parameters).emit()
    return made.function


class _Depthwise:
    """The code of one thread."""

    def __init__(
        self, problem: Problem, epilogue: Epilogue, made: Kernel, batch: Any, p: DepthwiseParameters
    ) -> None:
        self.problem, self.epilogue, self.made, self.p = problem, epilogue, made, p
        self.batch = batch
        self.views = matrix_views(made, problem, epilogue, batch)
        self.quads = taps_shape(problem)[1] // QUAD
        #: Runs of ``pixels`` neighbouring pixels in a row.
        self.runs = -(-problem.shape.out_width // p.pixels)

    def emit(self) -> None:
        p, shape = self.p, self.problem.shape
        total = self.batch * (shape.out_height * self.runs * self.quads)
        with (
            build.thread_binding(0, tirx.ceildiv(total, p.threads), "blockIdx.x") as block,
            build.thread_binding(0, p.threads, "threadIdx.x") as thread,
        ):
            # Neighbouring threads have neighbouring channels: what they read and write is too.
            index = T.bind(tirx.Cast("int64", block) * p.threads + thread)
            with T.If(index < total), T.Then():
                channel = T.bind(tirx.Cast("int32", index % self.quads) * QUAD)
                run = T.bind(tirx.Cast("int32", index // self.quads))
                image, y, x = split(run, shape.out_height, self.runs)
                # The last run steps back, and computes some values again.
                last = max(shape.out_width - p.pixels, 0)
                self._run(image, y, T.bind(T.min(x * p.pixels, last)), channel)

    def _run(self, image: Any, y: Any, x: Any, channel: Any) -> None:
        problem, shape = self.problem, self.problem.shape
        count = min(self.p.pixels, shape.out_width)
        sums = [T.alloc_buffer((QUAD,), "int32", scope="local") for _ in range(count)]
        for buffer in sums:
            for lane in range(QUAD):
                T.buffer_store(buffer, T.int32(0), [lane])
        taps = shape.kernel[0] * shape.kernel[1]
        weights = T.alloc_buffer((QUAD,), "int32", scope="local")
        for first in range(0, taps, QUAD):
            value = self.made["weights"].vload([first // QUAD, channel], dtype="int32x4")
            T.buffer_store(weights, value, [T.ramp(0, 1, QUAD)])
            for pixel in range(count):
                words = [
                    self._input(image, y, x + pixel, channel, tap) if tap < taps else T.int32(0)
                    for tap in range(first, first + QUAD)
                ]
                for lane, word in enumerate(_turned(words)):
                    total = dot(word, weights[lane], sums[pixel][lane], problem.dtype)
                    T.buffer_store(sums[pixel], total, [lane])
        writer = Writer(self.epilogue, self.made["constants"], self.views, QUAD)
        constant = writer.load_constants(channel, QUAD)
        row = T.bind(tirx.Cast("int64", (image * shape.out_height + y) * shape.out_width + x))
        for pixel in range(count):
            values = [sums[pixel][lane] for lane in range(QUAD)]
            writer.store(row + pixel, channel, values, constant, T.int32(shape.outputs))

    def _input(self, image: Any, y: Any, x: Any, channel: Any, tap: int) -> Any:
        """Four channels of the pixel under a tap as an int32; zeros beyond the map."""
        shape, dtype = self.problem.shape, self.problem.dtype
        ky, kx = divmod(tap, shape.kernel[1])
        row = T.bind(y * shape.strides[0] + (ky * shape.dilation[0] - shape.origin[0]))
        column = T.bind(x * shape.strides[1] + (kx * shape.dilation[1] - shape.origin[1]))
        inside = tirx.all(row >= 0, row < shape.height, column >= 0, column < shape.width)
        inside = T.bind(inside)
        pixel = (image * shape.height + row) * shape.width + column
        pixel = T.bind(tirx.Cast("int64", T.Select(inside, pixel, 0)))
        if shape.channels % QUAD == 0:
            value = self.views["x"].vload([pixel, channel], dtype=f"{dtype}x{QUAD}")
            word = T.reinterpret(value, dtype="int32")
            return T.bind(T.if_then_else(inside, word, T.int32(0)))
        word = T.int32(0)
        for lane in range(QUAD):
            there = tirx.all(inside, channel + lane < shape.channels)
            byte = self.views["x"][pixel, channel + lane].astype("int32") & T.int32(255)
            byte = T.if_then_else(there, byte, T.int32(0))
            word = word | (byte << T.int32(8 * lane))
        return T.bind(word)


def _turned(words: list[Any]) -> list[Any]:
    """The transpose of four by four bytes: the i-th byte of each word becomes the i-th word."""
    a, b, c, d = (word.astype("uint32") for word in words)
    pairs = [
        (T.bind(permute(a, b, selector)), T.bind(permute(c, d, selector)))
        for selector in (0x5140, 0x7362)
    ]
    return [
        T.bind(permute(*pair, selector).astype("int32"))
        for pair in pairs
        for selector in (0x5410, 0x7632)
    ]
