"""Turn each way through float between two integer tensors into one requantisation, or nothing.

``quantize(dequantize(p, e), a)`` is the integers p themselves where the scales agree, else a
rounding shift by e - a. A clip in between becomes the bounds of that requantisation: rounding is
monotone, so clamping afterwards on the integers' scale is what the specification asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from relay_passes.base import ModulePass, Rewriter
from relay_passes.expressions import array, clip_after, clip_bounds, op_name
from relay_passes.rewrite_to_dialect import int32
from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.convert.execute import integer_bounds
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats.ranges import activation_range


@dataclass(frozen=True)
class PlaceRequantize(ModulePass):
    """Leave quantize and dequantize only where the host meets a region."""

    requires = ("dialect", "residuals_aligned")
    ensures = ("requantized",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return _Place().run(mod)


class _Place(Rewriter):
    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        if op_name(value) != "shiftadd.quantize":
            return value
        source, bounds = self._through_clips(value.args[0])
        if op_name(source) != "shiftadd.dequantize":
            return value
        exponent, dtype = int(value.attrs["exponent"]), str(value.attrs["dtype"])
        lo, hi = integer_bounds(bounds, exponent, dtype)
        integers = source.args[0]
        shift = array(source.args[1]) - exponent
        if integers.ty.dtype == dtype and not np.any(shift):
            whole = (lo, hi) == activation_range(dtype)
            return integers if whole else ops.clip(integers, lo=lo, hi=hi)
        return ops.requantize(integers, int32(shift), lo=lo, hi=hi, dtype=dtype)

    def _through_clips(self, x: Any) -> tuple[Any, tuple[float, float]]:
        """What lies behind the clips in front of x, and the bounds they set together."""
        bounds = (-math.inf, math.inf)
        source = self.defined(x)
        while op_name(source) == "relax.clip":
            bounds = clip_after(clip_bounds(source), bounds)
            source = self.defined(source.args[0])
        return source, bounds
