"""Sizes of the planar convolution kernel: what one tile reads, holds and computes.

All sizes are plain integers except the batch, which may be symbolic. See ``planar`` for what the
names mean in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tvm_shiftadd.topi.schedules.shapes import ConvShape, round_up

#: Pixels and channels of one transposed block.
BLOCK = 16
#: Exponents a term may have, 0..6; each has a positive and a negative list of inputs.
EXPONENTS = 7
#: Terms of one sign that are added before a 16-bit sum is widened: with int8 inputs, plus and
#: minus reach 2 * 127 * 128 < 2^15; with uint8 inputs one of them does, 127 * 255 < 2^15.
CHUNK = 127
#: Vectors of 16-bit sums a sub-tile keeps in registers.
MAX_VECTORS = 8
#: Bytes that stay in the first-level and the second-level cache while a tile is computed.
FIRST_CACHE, SECOND_CACHE = 32_768, 160_000


@dataclass(frozen=True)
class Tile:
    """A tile of ``rows`` output rows of one image, computed with vectors of ``lanes`` pixels."""

    shape: ConvShape
    rows: int
    lanes: int

    @property
    def count(self) -> int:
        """Tiles of an image; the last may reach below it."""
        return -(-self.shape.out_height // self.rows)

    @property
    def pixels(self) -> int:
        """Output pixels of a tile."""
        return self.rows * self.shape.out_width

    @property
    def sub_tiles(self) -> int:
        """Passes over a tile, each with its sums in registers."""
        return -(-self.pixels // (self.lanes * MAX_VECTORS))

    @property
    def vectors(self) -> int:
        """Vectors of a sub-tile."""
        return -(-self.pixels // (self.lanes * self.sub_tiles))

    @property
    def padded_pixels(self) -> int:
        """Pixels that are computed, those past the tile's end included."""
        return self.sub_tiles * self.vectors * self.lanes

    @property
    def phases(self) -> int:
        """Row phases kept apart: rows y, y + stride, ... of the input are neighbours."""
        shape = self.shape
        return 1 + max(
            (tap * shape.dilation[0]) % shape.strides[0] for tap in range(shape.kernel[0])
        )

    @property
    def plane_rows(self) -> int:
        """Rows of one phase that a tile reads."""
        shape = self.shape
        return self.rows + (shape.kernel[0] - 1) * shape.dilation[0] // shape.strides[0]

    @property
    def plane(self) -> int:
        """Elements from one plane to the next; a last block may write past the last row."""
        return round_up(self.plane_rows * self.shape.out_width + BLOCK - 1, 32)

    @property
    def channels(self) -> int:
        """Input channels, rounded up to whole blocks."""
        return round_up(self.shape.channels, BLOCK)

    @property
    def plane_channels(self) -> int:
        """Input channels that have planes: all of whole blocks, or those of a part of one."""
        return self.shape.channels if self.shape.channels < BLOCK else self.channels

    @property
    def outputs(self) -> int:
        """Output channels, rounded up to whole blocks."""
        return round_up(self.shape.outputs, BLOCK)

    @property
    def column_blocks(self) -> int:
        """Blocks of pixels in an output row."""
        return -(-self.shape.out_width // BLOCK)

    @property
    def planes_size(self) -> int:
        """Elements of all planes, and room for the last vector to read past them."""
        used = self.shape.kernel[1] * self.plane_channels * self.phases * self.plane
        return used + self.padded_pixels + 64

    @property
    def input_rows(self) -> int:
        """Rows of the padded input copied for a tile."""
        return (self.plane_rows - 1) * self.shape.strides[0] + self.phases

    @property
    def input_columns(self) -> int:
        """Columns of the padded input copied for a tile."""
        shape = self.shape
        last = (self.column_blocks * BLOCK - 1) * shape.strides[1]
        return last + (shape.kernel[1] - 1) * shape.dilation[1] + 1

    @cached_property
    def cost(self) -> float:
        """Estimated cycles an image takes; the constants were fitted on AVX-512 machines."""
        shape = self.shape
        # A term costs its additions and the loop around them, an exponent its widening.
        terms = 0.85 * shape.terms * shape.reduction
        adds = (self.vectors + 0.4) * terms + 8 * 4 * self.vectors
        adds *= 1 + 0.6 * _beyond(2 * self.planes_size, FIRST_CACHE)
        sums = shape.outputs * self.sub_tiles * (adds + 15 * 2 * EXPONENTS)
        blocks = self.plane_rows * self.phases * self.column_blocks * self.channels // BLOCK
        pack = 100 * blocks * shape.kernel[1] + self.input_rows * self.input_columns * 2
        stored = 4 * self.pixels * self.outputs
        unpack = stored / 10 * (1 + 2 * _beyond(stored, SECOND_CACHE))
        return self.count * (sums + pack + unpack)


def _beyond(size: int, cache: int) -> float:
    """How far data outgrows a cache: 0 if it fits, 1 from three times its size on."""
    return min(1.0, max(0.0, (size - cache) / (2 * cache)))


def choose_tile(shape: ConvShape, lanes: int) -> Tile:
    """The tile height with the least estimated cost."""
    most = max(1, 4 * MAX_VECTORS * lanes // shape.out_width)
    heights = range(1, min(most, shape.out_height) + 1)
    return min((Tile(shape, rows, lanes) for rows in heights), key=lambda tile: tile.cost)


def depthwise_tile(shape: ConvShape, lanes: int) -> Tile:
    """A tile whose padded input and sums stay in the second-level cache; equal parts."""
    row = shape.channels * (shape.width * shape.strides[0] + 4 * shape.out_width)
    rows = max(1, min(shape.out_height, 2 * SECOND_CACHE // row))
    parts = -(-shape.out_height // rows)
    return Tile(shape, -(-shape.out_height // parts), lanes)
