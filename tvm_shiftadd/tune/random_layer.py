"""Layers with random numbers, and what the NumPy reference computes for them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats import codes, packing, reference
from tvm_shiftadd.topi.schedules.shapes import ConvShape

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A layer with random numbers; always the same for the same ``text``.

    ``dtype`` is the type of its input and ``result`` that of what comes out: "int8", "uint8" or,
    where sums are not requantised, "int32". ``other``: the type of what is added, "" for nothing.
    ``scaled``: a factor for each channel comes before that. ``adder``: sums are distances.
    """

    text: str
    shape: ConvShape
    dtype: str
    result: str
    other: str = ""
    scaled: bool = False
    adder: bool = False
    images: int = 1

    def _random(self, name: str) -> np.random.Generator:
        """Numbers of their own for each part, in whatever order parts are asked for."""
        return np.random.default_rng(zlib.crc32(f"{name} of {self.text}".encode()))

    @cached_property
    def x(self) -> Array:
        """The input, ``[N, H, W, C]``, over the whole range."""
        shape = self.shape
        low, high = _range(self.dtype)
        kind = self.dtype
        if self.adder:
            # On one scale with its weights an input without negative values is an int8 as well.
            kind, high = "int8", 127
        size = (self.images, shape.height, shape.width, shape.channels)
        return self._random("x").integers(low, high + 1, size).astype(kind)

    @cached_property
    def values(self) -> Array:
        """The weights, ``[R, O]``: int32 sums of terms, of an adder layer int8."""
        size = (self.shape.reduction, self.shape.outputs)
        if self.adder:
            return self._random("weights").integers(-128, 128, size).astype(np.int8)
        values = codes.representable(self.shape.terms)
        return self._random("weights").choice(values, size).astype(np.int32)

    @cached_property
    def weight(self) -> Array:
        """The weights as the kernels are given them: packed codes, or bytes."""
        if self.adder:
            return self.values
        return packing.pack(codes.encode(self.values, self.shape.terms))

    @cached_property
    def bias(self) -> Array:
        """int32 ``[O]``."""
        return self._random("bias").integers(-5000, 5000, self.shape.outputs).astype(np.int32)

    @cached_property
    def addend(self) -> Array:
        """An addition's other operand, as large as the result."""
        shape = self.shape
        size = (self.images, shape.out_height, shape.out_width, shape.outputs)
        if self.other == "int32":
            return self._random("other").integers(-50_000, 50_000, size).astype(np.int32)
        low, high = _range(self.other)
        return self._random("other").integers(low, high + 1, size).astype(self.other)

    @cached_property
    def operands(self) -> dict[str, Array]:
        """The constants of what follows the sums, as ``fusion.epilogue.constants`` wants them."""
        outputs, found = self.shape.outputs, {}
        if self.scaled:
            found["factor"] = codes.encode(self._random("factor").choice([1, 3, -5, 7], outputs), 3)
        if self.other:
            for name in ("lhs_shift", "rhs_shift"):
                found[name] = self._random(name).integers(0, 3, outputs).astype(np.int32)
        if self.result != "int32":
            spread = max(1, int(np.abs(self._sums(found)).mean()) // 64).bit_length()
            shift = spread + self._random("shift").integers(-1, 3, outputs)
            found["shift"] = np.clip(shift, 0, 24).astype(np.int32)
        return found

    @cached_property
    def expected(self) -> Array:
        """The reference's result, ``[N, OH, OW, O]``."""
        sums = self._sums(self.operands)
        if self.result == "int32":
            return sums
        kind = np.dtype(self.result).type
        return reference.requantize(sums, self.operands["shift"], *_range(self.result), kind)

    def _sums(self, operands: dict[str, Array]) -> Array:
        sums = self._accumulators
        if "factor" in operands:
            sums = reference.scale(sums, operands["factor"])
        if "lhs_shift" in operands:
            shifts = operands["lhs_shift"], operands["rhs_shift"]
            sums = reference.add(sums, self.addend, *shifts)
        return sums

    @cached_property
    def _accumulators(self) -> Array:
        shape = self.shape
        filters = self.values.reshape(*shape.kernel, shape.group_channels, shape.outputs)
        # What the map has beyond the last window is read by none.
        named: dict[str, Any] = {"strides": shape.strides, "padding": padding(shape)}
        if self.adder:
            return reference.adder_conv2d(self.x, filters, self.bias, **named)
        named |= {"dilation": shape.dilation, "groups": shape.groups}
        return reference.conv2d(self.x, filters, self.bias, **named)


def padding(shape: ConvShape) -> tuple[int, int, int, int]:
    """Zeros (top, left, bottom, right) that a layer's windows reach around its map."""
    ends = []
    for axis, size, out in ((0, shape.height, shape.out_height), (1, shape.width, shape.out_width)):
        reach = (out - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilation[axis]
        ends.append(max(0, reach + 1 - shape.origin[axis] - size))
    return (*shape.origin, ends[0], ends[1])


def difference(expected: Array, got: Array) -> str:
    """How results ``[N, ...]`` differ from the reference's, for people; "" where they do not."""
    wrong = np.argwhere(expected != got)
    if not len(wrong):
        return ""
    first = tuple(int(index) for index in wrong[0])
    return (
        f"{len(wrong)} of {expected.size} results are wrong: at {first[1:]} "
        f"{got[first]} instead of {expected[first]}"
    )


def _range(dtype: str) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max
