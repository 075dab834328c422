"""Sizes of convolutions, as the kernels of every target see them.

All are plain integers; the batch is not among them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_shiftadd.formats.windows import conv_map_size, transpose_map_size


def round_up(value: int, step: int) -> int:
    """The least multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


@dataclass(frozen=True)
class ConvShape:
    """One convolution over ``height x width x channels`` maps with ``outputs`` channels.

    ``spread`` puts that many minus one zeros between input pixels and ``flip`` turns the kernel
    round: with both, and ``origin`` the padding before the map, a transposed convolution is a
    plain one.
    """

    height: int
    width: int
    channels: int
    outputs: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    origin: tuple[int, int]
    terms: int
    groups: int = 1
    spread: tuple[int, int] = (1, 1)
    flip: bool = False

    @property
    def group_channels(self) -> int:
        """Input channels that one output channel reads."""
        return self.channels // self.groups

    @property
    def reduction(self) -> int:
        """R, the weights of one output channel."""
        return self.kernel[0] * self.kernel[1] * self.group_channels

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of the input makes one of the result."""
        return self.groups == self.channels == self.outputs > 1

    @property
    def is_pixel(self) -> bool:
        """Whether it makes one pixel of one, as a dense layer does."""
        maps = (self.height, self.width, self.out_height, self.out_width)
        return (*maps, *self.kernel, *self.origin, self.groups) == (1, 1, 1, 1, 1, 1, 0, 0, 1)


def conv_shape(
    map_shape: tuple[int, int, int],
    outputs: int,
    terms: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> ConvShape:
    """The convolution of ``map_shape`` (H, W, C); padding is (top, left, bottom, right)."""
    extents = conv_map_size(map_shape[:2], kernel, strides, padding, dilation)
    return ConvShape(
        *map_shape, outputs, *extents, kernel, strides, dilation, padding[:2], terms, groups
    )


def transposed_shape(
    map_shape: tuple[int, int, int],
    outputs: int,
    terms: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    output_padding: tuple[int, int],
    dilation: tuple[int, int],
) -> ConvShape:
    """A transposed convolution as a convolution with stride 1 over the spread input."""
    extents = transpose_map_size(map_shape[:2], kernel, strides, padding, dilation, output_padding)
    top, left = ((kernel[axis] - 1) * dilation[axis] - padding[axis] for axis in range(2))
    return ConvShape(
        *map_shape,
        outputs,
        *extents,
        kernel,
        (1, 1),
        dilation,
        (top, left),
        terms,
        spread=strides,
        flip=True,
    )
