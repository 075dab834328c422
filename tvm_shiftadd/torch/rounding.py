"""Rounding to the integers of the specification, with gradients that pass straight through."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_shiftadd.formats import codes


def straight_through(rounded: Tensor, x: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``x``.

    The sum ``x + (rounded - x)`` would do the same but for a rounding error of its own.
    """
    return _StraightThrough.apply(rounded, x)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rounded: Tensor, x: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def power(exponent: Tensor | int, like: Tensor) -> Tensor:
    """``2^exponent`` exactly, in the type of ``like``."""
    # torch.ldexp multiplies by pow(2, exponent), which need not be exact on every device.
    steps = exponent.detach().cpu().numpy() if isinstance(exponent, Tensor) else exponent
    return torch.as_tensor(np.ldexp(1.0, steps), dtype=like.dtype, device=like.device)


def along(values: Tensor, dims: int, axis: int = 1) -> Tensor:
    """``values [C]`` shaped to broadcast along ``axis`` of a tensor of ``dims`` axes."""
    return values.reshape([-1 if index == axis % dims else 1 for index in range(dims)])


def to_steps(x: Tensor, exponent: Tensor | int) -> Tensor:
    """``x * 2^exponent`` rounded half to even; the gradient is that of the product."""
    scaled = x * power(exponent, x)
    return straight_through(torch.round(scaled.detach()), scaled)


def nearest_terms(scaled: Tensor, terms: int) -> Tensor:
    """Each element's nearest sum of at most ``terms`` terms; a value in the middle goes up.

    The gradient passes straight through, but for values beyond the largest sum.
    """
    values, middles = _tables(terms, scaled.dtype)
    index = torch.bucketize(scaled.detach(), middles.to(scaled.device), right=True)
    rounded = values.to(scaled.device)[index]
    return straight_through(rounded, scaled.clamp(float(values[0]), float(values[-1])))


@cache
def _tables(terms: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    values = torch.tensor(codes.representable(terms).tolist(), dtype=dtype)
    return values, (values[1:] + values[:-1]) / 2
