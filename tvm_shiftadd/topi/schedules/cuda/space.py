"""Which parameters a CUDA kernel may have, and which it has without tuning.

All follow from the layer and the compute capability that the code is made for, never from the
GPU at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from tvm_shiftadd.topi.schedules.shapes import round_up

from .intrinsics import QUAD, WARP
from .parameters import (
    DenseParameters,
    DepthwiseParameters,
    MatrixParameters,
    Parameters,
    TileParameters,
    VectorParameters,
)
from .problem import CHUNK, IMAGES, SLAB, Problem
from .tile import PAD

#: The first compute capability with the kernels' tensor cores and asynchronous copies: 8.0.
TENSOR_CORES = 80
#: Bytes of shared memory that a kernel can have without asking for more.
_SHARED = 48 << 10
#: Processors of a large GPU, for which untuned kernels have work enough: between those of an A100,
#: 108, and of an H100, 132.
_PROCESSORS = 120
#: Images of a batch whose size is not known.
_BATCH = 8
#: What loading a row or a column of a block's operands costs, in products of the same slab that
#: tensor cores do meanwhile; with it the largest blocks come out before the middling ones where
#: both fill the GPU.
_LOAD = 32


def by_rule(problem: Problem, batch: Any, arch: int) -> Parameters:
    """The parameters of a layer's kernel without tuning.

    ``batch`` is a number of images or, where any may come, a variable; ``arch`` is the compute
    capability, 80 for 8.0.
    """
    new = arch >= TENSOR_CORES
    known = isinstance(batch, int)
    images = batch if known else _BATCH
    if problem.is_depthwise:
        return DepthwiseParameters(pixels=min(2, problem.shape.out_width))
    if problem.fits_vector and known and batch <= IMAGES:
        return _vector(problem, batch, new)
    if not (new and problem.fits_matrix):
        return _tile(problem, images)
    matrix = min(_matrices(problem), key=lambda p: _cost(problem, images, p))
    if problem.fits_vector and not known:
        return DenseParameters(_vector(problem, IMAGES, new), matrix)
    return matrix


def candidates(problem: Problem, batch: Any, arch: int) -> list[Parameters]:
    """The parameters that are worth a trial, that of ``by_rule`` first."""
    first = by_rule(problem, batch, arch)
    found: Iterator[Parameters]
    if isinstance(first, MatrixParameters):
        found = _matrices(problem)
    elif isinstance(first, VectorParameters):
        found = _vectors(problem, first)
    elif isinstance(first, DenseParameters):
        few = _vectors(problem, first.few)
        found = (DenseParameters(*pair) for pair in product(few, _matrices(problem)))
    elif isinstance(first, DepthwiseParameters):
        pixels = {min(p, problem.shape.out_width) for p in (1, 2, 4)}
        found = (DepthwiseParameters(*pair) for pair in product((64, 128, 256), sorted(pixels)))
    else:
        found = _tiles(problem)
    return [first, *(parameters for parameters in found if parameters != first)]


def _tile(problem: Problem, batch: int) -> TileParameters:
    """The largest blocks that are twice as many as the GPU's processors, or the smallest."""
    for p in _tiles(problem):
        rows, columns = p.down * p.pixels, p.across * QUAD
        blocks = -(-batch * problem.pixels // rows) * -(-problem.outputs // columns)
        if blocks * problem.shape.groups >= 2 * _PROCESSORS:
            break
    return p


def _tiles(problem: Problem) -> Iterator[TileParameters]:
    """Blocks from the largest to the smallest that fit shared memory."""
    across, depth = _across(problem), _depth(problem)
    for threads, pixels in ((256, 8), (128, 8), (256, 4), (128, 4), (64, 4)):
        p = TileParameters(across, threads // across, pixels, depth)
        if (p.down * p.pixels + PAD + p.across * QUAD) * p.depth * 4 <= _SHARED:
            yield p


def _across(problem: Problem) -> int:
    """Threads for a row's outputs: a power of two, at most sixteen."""
    return min(16, 1 << (-(-problem.outputs // QUAD) - 1).bit_length())


def _depth(problem: Problem) -> int:
    return min(8, round_up(problem.words, 2))


def _matrices(problem: Problem) -> Iterator[MatrixParameters]:
    """All that fit registers and shared memory and are no wider than the layer's outputs."""
    outputs = round_up(problem.outputs, problem.panel)
    for down, across, rows, panels in product((1, 2, 4), (1, 2, 4), (1, 2, 4), (1, 2)):
        width = across * panels * problem.panel
        sums = rows * panels * problem.panel_tiles * 4
        if not 2 <= down * across <= 8 or sums > 128 or width > outputs:
            continue
        size = down * rows * 16 * SLAB + width * (SLAB // problem.unit_tiles)
        stages = min(4, _SHARED // size)
        if stages >= 3:
            yield MatrixParameters(down, across, rows, panels, stages)


def _cost(problem: Problem, batch: int, p: MatrixParameters) -> tuple[float, int]:
    """The work of the processor that has most of it; between equals, four warps are best."""
    down, across = p.down * p.rows * 16, p.across * p.panels * problem.panel
    blocks = -(-batch * problem.pixels // down) * -(-problem.outputs // across)
    blocks *= problem.shape.groups
    # A warp with few sums waits longer for its operands from shared memory.
    waits = 8 * 16 * 8 / (p.rows * 16 * p.panels * problem.panel)
    each = down * across * (1 + waits) + _LOAD * (down + across)
    return (-(-blocks // _PROCESSORS) * each, abs(p.down * p.across - 4))


def _vector(problem: Problem, images: int, new: bool) -> VectorParameters:
    # As many warps as have a slab, and as many loads under way as shared memory has room for.
    warps = min(8, 1 << (problem.slabs - 1).bit_length())
    unroll = min(8 if problem.coded and new else 4, -(-problem.slabs // warps))
    return VectorParameters(warps, unroll, new, new and images > 1)


def _vectors(problem: Problem, first: VectorParameters) -> Iterator[VectorParameters]:
    units = 2 // problem.unit_tiles
    for warps, unroll in product((4, 8, 16), (1, 2, 4, 8)):
        size = warps * WARP * unroll * units * CHUNK if first.copies else 0
        if size <= _SHARED - warps * 16 * IMAGES * 4 and warps * unroll < 2 * problem.slabs:
            yield VectorParameters(warps, unroll, first.copies, first.matrix)
