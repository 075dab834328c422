"""What the compiler's middle works on: layers, each one pass over a stored output.

A layer is a sum of terms (windows of stored tensors through the matrix unit or the ALU), then
bias, shift and limits. Convolutions, dense layers, residual additions, concatenations, padding,
up-sampling and copies are all such sums; how one becomes instructions is one piece of code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Tensor:
    """One map ``[height, width, channels]`` in DRAM; a vector has height and width 1.

    dtype: int8 or uint8, or int32 for accumulators that leave the region.
    """

    name: str
    height: int
    width: int
    channels: int
    dtype: str = "int8"

    @property
    def unsigned(self) -> bool:
        """Whether values are 0 to 255."""
        return self.dtype == "uint8"

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows of the map in memory: which one is the first, the distance of two, and all."""
        return 0, 1, self.height

    def blocks(self, block: int) -> int:
        """Elements of ``block`` channels a position."""
        return -(-self.channels // block)


@dataclass(frozen=True)
class EveryRow(Tensor):
    """The map of that name with rows left out; ``height`` counts those that are read."""

    memory_rows: tuple[int, int, int] = (0, 1, 0)

    @property
    def rows(self) -> tuple[int, int, int]:
        """See :class:`Tensor`."""
        return self.memory_rows


@dataclass(frozen=True)
class Phase:
    """Output positions ``start + step * (u, v)`` of a window, and the taps that make them.

    A tap (dy, dx, t) reads input ``stride * (u, v) + (dy, dx)`` with weight t.
    """

    start: Pair
    taps: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Window:
    """Which inputs each output reads. A convolution has one phase; its transpose one for each
    remainder of the stride.
    """

    stride: Pair
    step: Pair
    phases: tuple[Phase, ...]


@dataclass(frozen=True, eq=False)
class MatrixTerm:
    """Products of the matrix unit.

    weights: uint8 term codes ``[T, K, I, O]`` of mode shift, or int8 ``[T, 1, I, O]``. The sum is
    multiplied by ``factor`` (term codes ``[K, O]``) or, where the ALU has a multiplier, by
    ``multiplier`` ``[O]``, then shifted left by ``shift`` ``[O]``.
    """

    source: Tensor
    window: Window
    mode: str
    weights: NDArray[Any]
    shift: Int64
    factor: NDArray[np.uint8] | None = None
    multiplier: Int64 | None = None


@dataclass(frozen=True, eq=False)
class PoolTerm:
    """Maxima or sums of windows, on the ALU.

    operation: max or add. reciprocal: for each output position the terms (sign, left shift) that a
    sum is multiplied by, as an index ``[H, W]`` into ``factors``; empty for a maximum.
    """

    source: Tensor
    window: Window
    operation: str
    shift: Int64
    reciprocal: NDArray[np.int64] | None = None
    factors: tuple[tuple[tuple[int, int], ...], ...] = ()


Term = MatrixTerm | PoolTerm


@dataclass(frozen=True, eq=False)
class Finish:
    """What ends a layer: ``(sum + bias)``, rounding shift, limits; ``[C]`` each.

    ``limits`` is None where the result leaves the region as it is, in 32 bits.
    """

    bias: Int64
    shift: Int64
    limits: Pair | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One stored tensor and how it is made; ``finish`` is None where the sum is it already.

    ``clip``: limits of stored values that are only clipped.
    """

    name: str
    output: Tensor
    terms: tuple[Term, ...]
    finish: Finish | None = None
    clip: Pair | None = None


@dataclass(frozen=True)
class Patches:
    """An input that the host arranges: at each position, all that a window reads of ``source``.

    Tap t of C channels fills channels ``t * C`` on; outside of the source is 0.
    """

    source: Tensor
    window: Window


@dataclass(frozen=True, eq=False)
class Region:
    """Layers in an order in which every tensor is made before it is read.

    ``inputs`` and ``outputs`` are the tensors that the host writes and reads; ``patches`` says, by
    name, which inputs it makes of others.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    patches: Mapping[str, Patches] = field(default_factory=dict)


def without_skipped_rows(term: MatrixTerm, height: int) -> MatrixTerm:
    """The same term, reading only the rows that it needs, where it skips some between them.

    So does a convolution of stride 2 whose kernel has one row. ``height``: rows of the output.
    """
    window, source = term.window, term.source
    offsets = {tap[0] for phase in window.phases for tap in phase.taps}
    first, step = min(offsets, default=0), window.stride[0]
    last = first + step * (height - 1)
    if step == 1 or len(offsets) != 1 or first < 0 or last >= source.height:
        return term
    rows = (first, step, source.height)
    kept = EveryRow(source.name, height, source.width, source.channels, source.dtype, rows)
    phases = tuple(
        Phase(phase.start, tuple((0, dx, tap) for _, dx, tap in phase.taps))
        for phase in window.phases
    )
    return replace(term, source=kept, window=Window((1, window.stride[1]), window.step, phases))


def convolution(
    kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> Window:
    """The window of a convolution or of pooling; padding is (top, left, bottom, right)."""
    taps = tuple(
        (ky * dilation[0] - padding[0], kx * dilation[1] - padding[1], ky * kernel[1] + kx)
        for ky in range(kernel[0])
        for kx in range(kernel[1])
    )
    return Window(stride, (1, 1), (Phase((0, 0), taps),))


def transposed(
    kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> Window:
    """The window of a transposed convolution: ``out[y * s - p + ky * d] += x[y] * w[ky]``."""

    def along(axis: int, start: int) -> list[tuple[int, int]]:
        found = []
        for k in range(kernel[axis]):
            distance = start + padding[axis] - k * dilation[axis]
            if distance % stride[axis] == 0:
                found.append((distance // stride[axis], k))
        return found

    phases = tuple(
        Phase(
            (py, px),
            tuple(
                (dy, dx, ky * kernel[1] + kx) for dy, ky in along(0, py) for dx, kx in along(1, px)
            ),
        )
        for py in range(stride[0])
        for px in range(stride[1])
    )
    return Window((1, 1), stride, phases)
