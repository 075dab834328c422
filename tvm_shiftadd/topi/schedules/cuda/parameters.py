"""What may differ between two CUDA kernels of one layer that compute the same integers.

Which kernel a layer gets follows from its record; ``space`` has the choice without tuning and what
is worth a trial.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Raised when a record's fields change their meaning, or a kernel so much that times change.
VERSION = 1


@dataclass(frozen=True)
class TileParameters:
    """How the kernel of sums in registers is cut up.

    A block of ``across x down`` threads computes ``across`` quads of outputs for ``down *
    pixels`` pixels, ``pixels`` of them a thread, and holds ``depth`` words of the reduction of all
    of them in shared memory at a time. ``pixels`` is a multiple of four, ``depth`` of two.
    """

    across: int = 16
    down: int = 16
    pixels: int = 4
    depth: int = 8


@dataclass(frozen=True)
class MatrixParameters:
    """How the kernel on tensor cores is cut up.

    ``down x across`` warps make a block; each computes ``rows`` tiles of sixteen pixels times
    ``panels`` panels of outputs. ``stages`` slabs of the reduction, two or more, are in shared
    memory at a time.
    """

    down: int = 2
    across: int = 2
    rows: int = 4
    panels: int = 1
    stages: int = 4


@dataclass(frozen=True)
class VectorParameters:
    """How the kernel of a few images is cut up.

    ``warps`` of a block share the reduction, each with the weights of ``unroll`` slabs under way:
    with ``copies`` to shared memory, else to registers. ``matrix``: products are those of tensor
    cores.
    """

    warps: int = 8
    unroll: int = 4
    copies: bool = False
    matrix: bool = False


@dataclass(frozen=True)
class DenseParameters:
    """Those of a dense layer of any number of images: of up to eight, and of more."""

    few: VectorParameters
    many: MatrixParameters


@dataclass(frozen=True)
class DepthwiseParameters:
    """How the depthwise kernel is cut up: ``threads`` of a block, neighbouring ``pixels`` each."""

    threads: int = 128
    pixels: int = 2


Parameters = (
    TileParameters | MatrixParameters | VectorParameters | DenseParameters | DepthwiseParameters
)
