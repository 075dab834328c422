"""A layer as a CUDA kernel sees it: sizes in words of four bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tvm_shiftadd.topi.schedules.shapes import ConvShape, round_up

from .intrinsics import QUAD

#: Bytes that are copied to shared memory at once.
CHUNK = 16
#: Bytes of the reduction that tensor cores take two products for, the least that is loaded.
SLAB = 64

#: Images that one pass over a dense layer's weights computes at most: the rows of a tensor core's
#: matrix that are used.
IMAGES = 8
#: The shapes of a kernel's input and its result.
Shapes = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True)
class Problem:
    """A convolution, or a dense layer as one of single pixels.

    ``dtype`` is the type of the input. ``kind``: sums of products, or distances of an adder layer.
    """

    shape: ConvShape
    dtype: str
    kind: Literal["dot", "adder"] = "dot"

    @property
    def coded(self) -> bool:
        """Whether the packed weights are codes of four bits; else they are bytes."""
        return self.kind == "dot" and self.shape.terms == 1

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.shape.group_channels

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        return self.shape.outputs // self.shape.groups

    @property
    def tap_words(self) -> int:
        """Words of a tap: a group's channels, the last word filled up with zeros."""
        return -(-self.channels // QUAD)

    @cached_property
    def words(self) -> int:
        """Words of the reduction, in the order (kernel row, kernel column, channels)."""
        return self.shape.kernel[0] * self.shape.kernel[1] * self.tap_words

    @property
    def pixels(self) -> int:
        """Output pixels of an image."""
        return self.shape.out_height * self.shape.out_width

    @property
    def padded_outputs(self) -> int:
        """Output channels of a group in the packed weights."""
        return round_up(self.outputs, QUAD)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of the input makes one of the result."""
        return self.kind == "dot" and self.shape.is_depthwise

    # For tensor cores.

    @property
    def slabs(self) -> int:
        """Slabs of the reduction, the last filled up with zeros."""
        taps = self.shape.kernel[0] * self.shape.kernel[1]
        return -(-taps * self.channels // SLAB)

    @property
    def panel_tiles(self) -> int:
        """Tiles of eight outputs in a panel, whose outputs lie together in each thread."""
        return 2 if self.outputs <= 16 else 4

    @property
    def unit_tiles(self) -> int:
        """Tiles whose weights a thread loads at once."""
        return 2 if self.coded else 1

    @property
    def panel(self) -> int:
        """Outputs of a panel."""
        return 8 * self.panel_tiles

    @property
    def fits_matrix(self) -> bool:
        """Whether tensor cores can take it: inputs are copied sixteen bytes at a time."""
        return self.kind == "dot" and self.channels % CHUNK == 0

    @property
    def fits_vector(self) -> bool:
        """Whether it is a dense layer whose weights the kernel of a few images takes."""
        return self.fits_matrix and self.shape.is_pixel
