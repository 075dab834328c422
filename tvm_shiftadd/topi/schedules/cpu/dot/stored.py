"""How the fused kernels keep feature maps in memory between layers.

A map is uint8, channels last, with a border of zeros all round that is as wide as the padding of
the layers that read it: no kernel then asks where the map ends, and none copies it. ``zero`` is
the byte that stands for the integer 0: 0 for maps that hold no negative value, as behind a ReLU,
128 for others, whose top bit is flipped, since products of bytes take one operand unsigned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.epilogue import CHANNELS
from tvm_shiftadd.topi.schedules.shapes import round_up

#: Bytes behind an image: a kernel may read or write a vector that begins inside.
SLACK = 64


@dataclass(frozen=True)
class Lattice:
    """Every ``strides``-th pixel of a map from ``first`` on, both (y, x)."""

    strides: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)

    def __getitem__(self, inner: Lattice) -> Lattice:
        """The pixels of this lattice that another one counts of them."""
        strides = [mine * its for mine, its in zip(self.strides, inner.strides, strict=True)]
        first = [
            start + step * its
            for start, step, its in zip(self.first, self.strides, inner.first, strict=True)
        ]
        return Lattice((strides[0], strides[1]), (first[0], first[1]))


@dataclass(frozen=True)
class Stored:
    """A map of ``height x width`` pixels; ``border`` is (top, left, bottom, right) in pixels.

    ``pitch`` is the bytes from one pixel to the next: the channels and what pads them. ``lattice``
    are the pixels that ``at`` counts: all, or those that one phase of a kernel writes.
    """

    height: int
    width: int
    channels: int
    pitch: int
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    zero: int = 0
    lattice: Lattice = Lattice()

    @property
    def dtype(self) -> str:
        """The type of its elements."""
        return "uint8"

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return (self.width + self.border[1] + self.border[3]) * self.pitch

    @property
    def origin(self) -> int:
        """Where the pixel in row 0 and column 0 is."""
        return self.border[0] * self.row + self.border[1] * self.pitch

    @property
    def rows(self) -> int:
        """Rows with the border's."""
        return self.height + self.border[0] + self.border[2]

    @property
    def size(self) -> int:
        """Bytes of an image, the slack behind it included; a multiple of a cache line."""
        return round_up(self.rows * self.row + SLACK, 64)

    @property
    def step(self) -> tuple[int, int]:
        """Bytes from a pixel that is counted to the one below and to the one beside it."""
        return self.lattice.strides[0] * self.row, self.lattice.strides[1] * self.pitch

    def at(self, y: Any, x: Any) -> Any:
        """Where a pixel begins in its image."""
        (down, beside), (top, left) = self.step, self.lattice.first
        return y * down + x * beside + (top * self.row + left * self.pitch + self.origin)

    def borders(self) -> list[tuple[Any, int, int, int]]:
        """The border as (start, bytes, step, count): ``count`` pieces ``step`` bytes apart."""
        _, left, bottom, right = self.border
        across = (left + right) * self.pitch
        end = self.origin + (self.height - 1) * self.row + self.width * self.pitch
        return [
            (0, self.origin, 0, 1),
            (self.origin + self.width * self.pitch, across, self.row, self.height - 1),
            (end, right * self.pitch + bottom * self.row, 0, 1),
        ]


@dataclass(frozen=True)
class View(Stored):
    """A stored map with channels of zeros before and behind its own.

    The shortcut of a residual network without weights; ``before`` counts the channels in front.
    """

    before: int = 0

    def at(self, y: Any, x: Any) -> Any:
        """Where the view's first channel of a pixel would be."""
        return super().at(y, x) - self.before


@dataclass(frozen=True)
class Flat:
    """A stored map without a border, read as one pixel that has all values of an image.

    ``channels_first``: the layer that reads it has its weights in that order.
    """

    map: Stored
    channels_first: bool

    @property
    def layout(self) -> Stored:
        """The pixel; what pads those of the map is among its channels."""
        size = self.map.height * self.map.row
        return Stored(1, 1, size, size, zero=self.map.zero)

    def row(self, byte: Any) -> Any:
        """The row of the layer's weights for a byte of the pixel, -1 for none."""
        source = self.map
        pixel, channel = tirx.indexdiv(byte, source.pitch), tirx.indexmod(byte, source.pitch)
        row = pixel * source.channels + channel
        if self.channels_first:
            row = channel * (source.height * source.width) + pixel
        return tirx.if_then_else(channel < source.channels, row, -1)


@dataclass(frozen=True)
class Wide:
    """An int32 map ``[height, width, channels]`` whose channels are padded to whole sixteens."""

    height: int
    width: int
    channels: int
    lattice: Lattice = Lattice()

    @property
    def dtype(self) -> str:
        """The type of its elements."""
        return "int32"

    @property
    def pitch(self) -> int:
        """Elements from one pixel to the next."""
        return round_up(self.channels, CHANNELS)

    @property
    def row(self) -> int:
        """Elements from one row to the next."""
        return self.width * self.pitch

    @property
    def size(self) -> int:
        """Elements of an image."""
        return self.height * self.row

    @property
    def step(self) -> tuple[int, int]:
        """Elements from a pixel that is counted to the one below and to the one beside it."""
        return self.lattice.strides[0] * self.row, self.lattice.strides[1] * self.pitch

    def at(self, y: Any, x: Any) -> Any:
        """Where a pixel begins in its image."""
        (down, beside), (top, left) = self.step, self.lattice.first
        return y * down + x * beside + (top * self.row + left * self.pitch)


def pitch_of(channels: int, packed: bool) -> int:
    """The bytes of a pixel with so many channels.

    Kernels write and add whole vectors. What only convolutions read and no kernel has
    computed may be ``packed`` closer.
    """
    return next((few for few in (4, 8) if packed and channels <= few), round_up(channels, CHANNELS))
