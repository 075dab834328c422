"""Quantise, requantise, a factor a channel, average pooling: the operators without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvm_shiftadd.convert.plan import ChannelFactor
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.ranges import activation_range
from tvm_shiftadd.formats.reciprocal import reciprocal
from tvm_shiftadd.formats.windows import pool_counts
from tvm_shiftadd.torch.rounding import along, power, straight_through


class Quantize(nn.Module):
    """float to int8 or uint8 of the scale ``2^-exponent``, as a real number on that scale.

    NaN is 0, ties round to even, values saturate. dtype: "int8" or "uint8".
    """

    def __init__(self, exponent: int, dtype: str = "int8") -> None:
        super().__init__()
        self.exponent, self.dtype = int(exponent), str(dtype)
        self.lo, self.hi = activation_range(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, the same shape and type."""
        step = power(self.exponent, x)
        clean = torch.nan_to_num(x, nan=0.0, posinf=None, neginf=None)
        lowest, highest = self.lo / step, self.hi / step
        inside = clean.clamp(float(lowest), float(highest))
        return straight_through(torch.round(inside.detach() * step) / step, inside)

    def integers(self, x: Tensor) -> NDArray[Any]:
        """The integers, of type ``dtype``, of a tensor that this module made."""
        return integers(x, self.exponent).astype(self.dtype)

    def extra_repr(self) -> str:
        """What the module's text says."""
        return f"exponent={self.exponent}, dtype={self.dtype}"


class Requantize(nn.Module):
    """An accumulator to int8 or uint8 of the scale ``2^-exponent``, clamped to [lo, hi].

    Halves round up. ReLU and clips are the bounds, by default the whole range of ``dtype``: lo = 0
    for a ReLU. The accumulator's own scale does not matter, because it lies on it as a real number.
    The result is float32.
    """

    def __init__(
        self, exponent: int, lo: int | None = None, hi: int | None = None, dtype: str = "int8"
    ) -> None:
        super().__init__()
        least, most = activation_range(dtype)
        lo, hi = least if lo is None else lo, most if hi is None else hi
        if not least <= lo <= hi <= most:
            raise InputError(
                f"expected {least} <= lo <= hi <= {most}, got {lo} and {hi}; change them"
            )
        self.exponent, self.lo, self.hi = int(exponent), int(lo), int(hi)
        self.dtype = str(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, the same shape in float32."""
        step = power(self.exponent, x)
        inside = x.clamp(float(self.lo / step), float(self.hi / step))
        rounded = torch.floor(x.detach() * step + 0.5).clamp(self.lo, self.hi) / step
        return straight_through(rounded, inside).to(torch.float32)

    def integers(self, x: Tensor) -> NDArray[Any]:
        """The integers, of type ``dtype``, of a tensor that this module made."""
        return integers(x, self.exponent).astype(self.dtype)

    def extra_repr(self) -> str:
        """What the module's text says."""
        return f"exponent={self.exponent}, lo={self.lo}, hi={self.hi}, dtype={self.dtype}"


class Scale(nn.Module):
    """An accumulator times a factor a channel: a sum of at most three shifted copies of it.

    ``term_codes``: uint8 ``[K, C]``, the factor ``F`` in term codes; ``shift``: int32 ``[C]``, q in
    ``F * 2^-q``. The result has the scale exponent of the accumulator plus q.
    """

    def __init__(self, term_codes: NDArray[np.uint8], shift: NDArray[np.int32]) -> None:
        super().__init__()
        exponent = np.asarray(shift, np.int32)
        factor = np.ldexp(codes.decode(term_codes).astype(np.float64), -exponent)
        self.term_codes = np.array(term_codes, np.uint8)
        self.register_buffer("factor", torch.from_numpy(np.ascontiguousarray(factor)))
        self.register_buffer("exponent", torch.from_numpy(exponent.copy()))

    @classmethod
    def from_plan(cls, plan: ChannelFactor) -> Scale:
        """The factor that a conversion put behind a layer."""
        return cls(plan.codes, plan.exponent)

    def to_plan(self) -> ChannelFactor:
        """The factor for a compiler: the inverse of from_plan."""
        return ChannelFactor(self.term_codes, self.exponent.cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, ...]``, the same shape and type."""
        return x * along(self.factor.to(x.dtype), x.ndim)


class ShiftAvgPool2d(nn.Module):
    """Average pooling with a shift-add reciprocal: ``[N, C, H, W]`` on one scale to a wide one.

    padding: (top, left, bottom, right). The window's sum is exact; 1 / count is a short sum of
    powers of two, exact where count is one.
    """

    def __init__(
        self,
        pool_size: Sequence[int],
        strides: Sequence[int] | None = None,
        padding: Sequence[int] = (0, 0, 0, 0),
        *,
        count_include_pad: bool = False,
    ) -> None:
        super().__init__()
        self.pool_size = (int(pool_size[0]), int(pool_size[1]))
        steps = self.pool_size if strides is None else strides
        self.strides = (int(steps[0]), int(steps[1]))
        self.padding = (int(padding[0]), int(padding[1]), int(padding[2]), int(padding[3]))
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """The averages; float64 in eval mode."""
        x = working(self, x)
        top, left, bottom, right = self.padding
        padded = nn.functional.pad(x, (left, right, top, bottom))
        total = nn.functional.avg_pool2d(padded, self.pool_size, self.strides, divisor_override=1)
        counts = pool_counts(
            (int(x.shape[2]), int(x.shape[3])),
            pool_size=self.pool_size,
            strides=self.strides,
            padding=self.padding,
            count_include_pad=self.count_include_pad,
        )
        found = reciprocal([int(count) for count in np.unique(counts)])
        factors = np.vectorize(lambda count: float(found.value(int(count))))(counts)
        return total * torch.from_numpy(factors).to(x)


def working(module: Any, x: Tensor) -> Tensor:
    """``x`` in the type a module computes in: exact in eval mode, fast in training."""
    return x if module.training else x.to(torch.float64)


def integers(x: Tensor, exponent: int | NDArray[Any]) -> NDArray[np.int64]:
    """The integers that a tensor ``[N, C, ...]`` on the scale ``2^-exponent`` stands for.

    exponent: one, or one a channel. Raises InputError where a value lies beside the scale.
    """
    values = x.detach().cpu().to(torch.float64).numpy()
    shifts = np.asarray(exponent, np.int64)
    if shifts.ndim:
        shifts = shifts.reshape([-1 if axis == 1 else 1 for axis in range(values.ndim)])
    steps = np.ldexp(values, shifts)
    if not np.array_equal(steps, np.rint(steps)):
        raise InputError(
            "expected values on the scale given, got some beside it; pass the exponent of the "
            "module that made them, in eval mode"
        )
    return steps.astype(np.int64)
