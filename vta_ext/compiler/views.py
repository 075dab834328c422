"""Views: what slicing, padding and permuting make of a stored map, read without being made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.layers import MatrixTerm, Pair, Phase, Tensor, Window

#: Copies of one input by terms +-2^6 at most; beyond, the ALU shifts.
_MAX_SHIFT = 6


@dataclass(frozen=True, eq=False)
class View:
    """Position (y, x), channel c is ``source[y * step + offset, channels[c]]``, or 0 outside.

    channels: int64 ``[C]``; -1 is a channel of zeros. size: (height, width).
    """

    source: Tensor
    offset: Pair
    step: Pair
    size: Pair
    channels: NDArray[np.int64]

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """The whole of a tensor."""
        size = (tensor.height, tensor.width)
        return cls(tensor, (0, 0), (1, 1), size, np.arange(tensor.channels))

    @property
    def whole(self) -> bool:
        """Whether this is its source, as it is."""
        same = self.offset == (0, 0) and self.step == (1, 1)
        here = (self.source.height, self.source.width) == self.size
        channels = np.arange(self.source.channels)
        return same and here and np.array_equal(self.channels, channels)

    @property
    def bordered(self) -> bool:
        """Whether what lies outside the view is outside its source too, so that it reads as 0."""
        return all(
            offset <= 0 and offset + (size - 1) * step >= length - 1
            for offset, step, size, length in zip(
                self.offset,
                self.step,
                self.size,
                (self.source.height, self.source.width),
                strict=True,
            )
        )

    def sliced(self, axis: int, begin: int, end: int, step: int) -> View | None:
        """A slice along H, W or C (0 to 2); None where a view cannot say it."""
        if axis == 2:
            return replace(self, channels=self.channels[slice(begin, end, step)])
        if step < 1:
            return None
        count = len(range(*slice(begin, end, step).indices(self.size[axis])))
        first = slice(begin, end, step).indices(self.size[axis])[0]
        return replace(
            self,
            offset=_with(self.offset, axis, self.offset[axis] + first * self.step[axis]),
            step=_with(self.step, axis, self.step[axis] * step),
            size=_with(self.size, axis, count),
        )

    def padded(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> View | None:
        """Zeros around it; None where what lies around the view is not zero."""
        spatial = any(before[:2]) or any(after[:2])
        if spatial and not (self.bordered and self.step == (1, 1)):
            return None
        channels = np.pad(self.channels, (before[2], after[2]), constant_values=-1)
        return replace(
            self,
            offset=(self.offset[0] - before[0], self.offset[1] - before[1]),
            size=(self.size[0] + before[0] + after[0], self.size[1] + before[1] + after[1]),
            channels=channels,
        )

    def term(self, shift: NDArray[np.int64], mode: str, upsample: Pair = (1, 1)) -> MatrixTerm:
        """A copy of the view, shifted left by ``shift`` a channel, as a product with powers of two.

        upsample: how often each row and column is repeated.
        """
        shift = np.broadcast_to(shift, self.channels.shape).astype(np.int64)
        codes = mode == "shift"
        # One more than the largest term is two copies of it, and cheaper than a pass of the ALU.
        copies = 2 if codes and int(shift.max(initial=0)) == _MAX_SHIFT + 1 else 1
        shape = (1, copies, self.source.channels, len(self.channels))
        weights = np.zeros(shape, np.uint8 if codes else np.int8)
        here = np.flatnonzero(self.channels >= 0)
        held = np.minimum(shift, _MAX_SHIFT)
        weights[0, 0, self.channels[here], here] = held[here] + 1 if codes else 1 << held[here]
        if copies == 2:
            double = here[shift[here] > _MAX_SHIFT]
            weights[0, 1, self.channels[double], double] = _MAX_SHIFT + 1
            held = shift
        taps = ((self.offset[0], self.offset[1], 0),)
        phases = tuple(Phase((y, x), taps) for y in range(upsample[0]) for x in range(upsample[1]))
        window = Window(self.step, upsample, phases)
        return MatrixTerm(self.source, window, mode, weights, shift - held)


def _with(pair: Pair, axis: int, value: int) -> Pair:
    return (value, pair[1]) if axis == 0 else (pair[0], value)
