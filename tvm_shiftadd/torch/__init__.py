"""Shift-add operators as PyTorch modules, for training what the compiler will run.

A module computes with real numbers that lie on the integers' scales, so that it can take the
place of a float layer: ``x = integer * 2^-exponent``. In eval mode it works in float64, where every
accumulator is exact, and its result is, bit for bit, that of ``tvm_shiftadd.formats.reference``.
In training mode it works in the type of its input. Gradients go straight through every rounding
and stop where a value saturates.

Feature maps are ``[N, C, H, W]`` and weights ``[O, I/groups, kh, kw]``, as everywhere in PyTorch.
Operators that do the same on integers as on real numbers have no module here: max pooling,
clipping, padding, joining, up-sampling by repetition, and, in float64, addition.

Needs the extra ``torch``.
"""

from __future__ import annotations

from tvm_shiftadd.errors import DependencyError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise DependencyError(
        "PyTorch is needed for tvm_shiftadd.torch: pip install 'tvm-shiftadd[torch]'."
    ) from None

from tvm_shiftadd.torch.activations import Quantize, Requantize, Scale, ShiftAvgPool2d
from tvm_shiftadd.torch.adder import AdderConv2d, AdderLinear
from tvm_shiftadd.torch.layers import ShiftConv2d, ShiftConvTranspose2d, ShiftLinear

__all__ = [
    "AdderConv2d",
    "AdderLinear",
    "Quantize",
    "Requantize",
    "Scale",
    "ShiftAvgPool2d",
    "ShiftConv2d",
    "ShiftConvTranspose2d",
    "ShiftLinear",
]
