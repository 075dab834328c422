"""Dense layers of a few images, whose time is that of reading the weights once.

A block computes sixteen outputs; its warps share the reduction, so that enough loads are under way
everywhere. Each thread loads sixteen bytes of weights at a time, decodes codes in registers, and
takes the products of all images: of one by dp4a, whose sums are added up by shuffles, of several
on tensor cores, to which the images are rows of one operand.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size

from .epilogue import Epilogue, Writer
from .intrinsics import (
    QUAD,
    WARP,
    add_lanes,
    commit,
    copy,
    decode,
    dot,
    keep_whole,
    magnitudes,
    matrix_product,
    wait,
)
from .launch import layer_function, matrix_views
from .parameters import VectorParameters
from .problem import CHUNK, IMAGES, SLAB, Problem, Shapes
from .weights import fragments_shape

#: Outputs of a block, in two tiles of eight.
_OUTPUTS, _TILES = 16, 2
#: Pieces of a slab's reduction that a thread has a word of weights for.
_PARTS = SLAB // CHUNK
#: The sign bits of eight codes, as an int32.
_SIGNS = -0x77777778


def gemv(
    problem: Problem,
    epilogue: Epilogue,
    images: int,
    shapes: Shapes,
    parameters: VectorParameters,
) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out) for one to eight ``images``.

    Weights are as ``pack_fragments`` makes them; the constants as ``fusion.epilogue.constants``.
    """
    by = "mma.m16n8k32" if parameters.matrix else "dp4a"
    name, fragments = "shiftadd_cuda_gemv", fragments_shape(problem)
    with layer_function(name, by, problem, epilogue, shapes, fragments) as made:
        emit_gemv(problem, epilogue, made, images, parameters)
    return made.function


def emit_gemv(
    problem: Problem,
    epilogue: Epilogue,
    made: Kernel,
    images: Any,
    parameters: VectorParameters,
) -> None:
    """The launch of ``gemv`` within a function; ``images`` may be a variable of at most eight."""
    _Vector(problem, epilogue, made, images, parameters).emit()


class _Vector:
    """The code of one thread."""

    def __init__(
        self, problem: Problem, epilogue: Epilogue, made: Kernel, images: Any, p: VectorParameters
    ) -> None:
        self.problem, self.epilogue, self.made, self.p = problem, epilogue, made, p
        #: Images that there is room for, and those that there are.
        self.images = images if isinstance(images, int) else IMAGES
        self.count = batch_size(images)
        self.views = matrix_views(made, problem, epilogue, self.count)
        #: Loads of a slab, and the words of each.
        self.units = _TILES // problem.unit_tiles
        self.words = fragments_shape(problem)[-1]
        #: Slabs of a turn of all warps, and whether every turn has so many.
        self.step = p.warps * p.unroll
        self.whole = problem.slabs % self.step == 0
        #: Of one image, codes are not put together from both signs' look-ups, but summed up apart.
        self.apart = problem.coded and not p.matrix and images <= 2

    def emit(self) -> None:
        problem, p = self.problem, self.p
        blocks = -(-problem.outputs // problem.panel) * problem.panel // _OUTPUTS
        size = p.warps * _OUTPUTS * self.images
        if p.copies:
            place = p.unroll * self.units * p.warps * WARP * self.words
            self.copied = build.sblock_alloc_buffer((place,), "int32", scope="shared")
        self.shared = build.sblock_alloc_buffer((size,), "int32", scope="shared")
        with (
            build.thread_binding(0, blocks, "blockIdx.x") as self.block,
            build.thread_binding(0, p.warps * WARP, "threadIdx.x") as self.thread,
        ):
            self.lane = T.bind(self.thread % WARP)
            self.warp = T.bind(self.thread // WARP)
            count = _TILES * (4 if p.matrix else self.images * (2 if self.apart else 1))
            self.sums = T.alloc_buffer((count,), "int32", scope="local")
            for index in range(count):
                T.buffer_store(self.sums, T.int32(0), [index])
            turns = -(-problem.slabs // self.step)
            if p.copies:
                keep_whole(self.copied)
                for index in range(p.unroll):
                    self._copy(index, T.bind(self.warp + index * p.warps))
            with build.serial(turns) as turn:
                self._turn(T.bind(turn * self.step + self.warp))
            self._share()
            self._finish()

    def _turn(self, first: Any) -> None:
        """Add the products of some slabs, and have those of the next turn copied."""
        p, size = self.p, self.units * self.words
        slabs = [T.bind(first + index * p.warps) for index in range(p.unroll)]
        held = [T.alloc_buffer((size,), "int32", scope="local") for _ in slabs]
        if not p.copies:
            for slab, words in zip(slabs, held, strict=True):
                self._load(slab, words)
        for index, (slab, words) in enumerate(zip(slabs, held, strict=True)):
            if p.copies:
                wait(p.unroll - 1)
                self._read(index, words)
            if p.matrix:
                self._on_tensor_cores(slab, words)
            else:
                self._by_words(slab, words)
            if p.copies:
                self._copy(index, T.bind(slab + self.step))

    def _source(self, slab: Any, unit: int) -> list[Any]:
        return [0, slab, self.block * self.units + unit, self.lane, 0]

    def _place(self, index: int, unit: int) -> Any:
        """Where a thread keeps what it copied: nobody else reads it, so nobody waits."""
        return ((index * self.units + unit) * (self.p.warps * WARP) + self.thread) * self.words

    def _copy(self, index: int, slab: Any) -> None:
        """Begin to copy a thread's weights of a slab, if there is one."""
        with T.If(slab < self.problem.slabs), T.Then():
            for unit in range(self.units):
                source = self.made["weights"][self._source(slab, unit)]
                to = self.copied[self._place(index, unit)]
                copy(T.address_of(to), T.address_of(source), CHUNK)
        commit()

    def _read(self, index: int, words: Any) -> None:
        for unit in range(self.units):
            value = self.copied.vload([self._place(index, unit)], dtype="int32x4")
            T.buffer_store(words, value, [T.ramp(unit * self.words, 1, self.words)])

    def _load(self, slab: Any, words: Any) -> None:
        for unit in range(self.units):
            value = self.made["weights"].vload(self._source(slab, unit), dtype="int32x4")
            if not self.whole:
                zeros = T.broadcast(T.int32(0), self.words)
                value = T.if_then_else(slab < self.problem.slabs, value, zeros)
            T.buffer_store(words, value, [T.ramp(unit * self.words, 1, self.words)])

    def _input(self, image: Any, slab: Any, part: int) -> Any:
        """The word of an image's input that meets a thread's part of a slab's weights."""
        problem = self.problem
        place = slab * SLAB + (part * CHUNK + self.lane % QUAD * QUAD)
        word = self.views["x"].vload([image, place], dtype=f"{problem.dtype}x{QUAD}")
        word = T.reinterpret(word, dtype="int32")
        if self.whole and problem.channels % SLAB == 0:
            return T.bind(word)
        return T.bind(T.if_then_else(place < problem.channels, word, T.int32(0)))

    def _weights(self, words: list[Any], tile: int, pair: int) -> tuple[Any, Any]:
        """A thread's weights of a tile for two parts of a slab."""
        if self.problem.coded:
            return decode(words[tile * 2 + pair])
        return words[tile * _PARTS + pair * 2], words[tile * _PARTS + pair * 2 + 1]

    def _by_words(self, slab: Any, words: list[Any]) -> None:
        for pair in range(_PARTS // 2):
            inputs = [
                [self._input(image, slab, pair * 2 + half) for image in range(self.images)]
                for half in range(2)
            ]
            for tile in range(_TILES):
                if self.apart:
                    codes = T.bind(words[tile * 2 + pair])
                    self._add_apart(tile, inputs, codes)
                    continue
                for half, weights in enumerate(self._weights(words, tile, pair)):
                    self._add(tile * self.images, inputs[half], weights)

    def _add_apart(self, tile: int, inputs: list[list[Any]], codes: Any) -> None:
        """Add products with eight codes to sums of positive and of negative terms."""
        for sign, turned in enumerate((codes, T.bind(codes ^ T.int32(_SIGNS)))):
            for half, found in enumerate((turned, turned >> T.int32(16))):
                self._add((tile * 2 + sign) * self.images, inputs[half], magnitudes(found))

    def _add(self, first: int, inputs: list[Any], weights: Any) -> None:
        weights = T.bind(weights)
        for image, word in enumerate(inputs):
            total = dot(word, weights, self.sums[first + image], self.problem.dtype)
            T.buffer_store(self.sums, total, [first + image])

    def _on_tensor_cores(self, slab: Any, words: list[Any]) -> None:
        rows = T.alloc_buffer((4,), "uint32", scope="local")
        weights = T.alloc_buffer((_TILES * 2,), "uint32", scope="local")
        image = T.min(self.lane // QUAD, self.count - 1)
        for step in range(_PARTS // 2):
            for half in range(2):
                word = self._input(image, slab, step * 2 + half)
                T.buffer_store(rows, word.astype("uint32"), [half * 2])
                # The rows from the eighth on are no images.
                T.buffer_store(rows, T.uint32(0), [half * 2 + 1])
            for tile in range(_TILES):
                for half, value in enumerate(self._weights(words, tile, step)):
                    T.buffer_store(weights, value.astype("uint32"), [tile * 2 + half])
            for tile in range(_TILES):
                matrix_product(
                    T.address_of(self.sums[tile * 4]),
                    T.address_of(rows[0]),
                    T.address_of(weights[tile * 2]),
                    self.problem.dtype,
                )

    # Putting together what the threads have.

    def _share(self) -> None:
        """Write the warp's sums to shared memory, ``[warp, image, output of the block]``."""
        start = T.bind(self.warp * (self.images * _OUTPUTS))
        if self.p.matrix:
            image, quad = self.lane // QUAD, self.lane % QUAD * QUAD
            with T.If(image < self.images), T.Then():
                for index in range(_TILES * 2):
                    tile, column = divmod(index, 2)
                    place = start + image * _OUTPUTS + quad + index
                    T.buffer_store(self.shared, self.sums[tile * 4 + column], [place])
            return
        column = T.bind(self.lane // QUAD)
        for tile in range(_TILES):
            for image in range(self.images):
                total = T.bind(add_lanes(self._sum(tile, image), QUAD))
                place = start + image * _OUTPUTS + column // 2 * QUAD + tile * 2 + column % 2
                with T.If(self.lane % QUAD == 0), T.Then():
                    T.buffer_store(self.shared, total, [place])

    def _sum(self, tile: int, image: int) -> Any:
        if not self.apart:
            return self.sums[tile * self.images + image]
        positive, negative = ((tile * 2 + sign) * self.images + image for sign in range(2))
        return self.sums[positive] - self.sums[negative]

    def _finish(self) -> None:
        """Add up the warps' sums, four outputs of an image a thread."""
        problem, p = self.problem, self.p
        writer = Writer(self.epilogue, self.made["constants"], self.views, problem.outputs)
        with T.If(self.thread < self.count * QUAD), T.Then():
            image, quad = T.bind(self.thread // QUAD), T.bind(self.thread % QUAD)
            totals = T.alloc_buffer((QUAD,), "int32", scope="local")
            for lane in range(QUAD):
                T.buffer_store(totals, T.int32(0), [lane])
            with build.serial(p.warps) as warp:
                place = T.bind((warp * self.images + image) * _OUTPUTS + quad * QUAD)
                for lane in range(QUAD):
                    total = totals[lane] + self.shared[place + lane]
                    T.buffer_store(totals, total, [lane])
            channel = T.bind(self._channel(quad))
            sums = [totals[lane] for lane in range(QUAD)]
            limit = T.int32(problem.outputs)
            with T.If(channel < limit), T.Then():
                constant = writer.load_constants(channel, QUAD)
                writer.store(tirx.Cast("int64", image), channel, sums, constant, limit)

    def _channel(self, quad: Any) -> Any:
        """The first of four outputs of the block, which lie where its two tiles have a panel's."""
        pairs = self.problem.panel_tiles // 2
        panel, pair = self.block // pairs, self.block % pairs
        return panel * self.problem.panel + quad * (QUAD * pairs) + pair * QUAD
