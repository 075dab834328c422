"""Bring the two inputs of a residual addition to one scale, in integers.

``add(dequantize(p, e1), dequantize(q, e2))`` becomes ``dequantize(shiftadd.add(p << s1, q << s2),
max(e1, e2))``: the finer scale of each channel loses nothing, and an accumulator meets the
shortcut before it is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relay_passes.base import ModulePass, Rewriter
from relay_passes.expressions import array, op_name
from relay_passes.rewrite_to_dialect import int32
from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.dialect import ops


@dataclass(frozen=True)
class AlignResiduals(ModulePass):
    """Make every addition between integers an integer addition."""

    requires = ("dialect",)
    ensures = ("residuals_aligned",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return _Align().run(mod)


class _Align(Rewriter):
    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        if op_name(value) != "relax.add":
            return value
        sources = [self.defined(arg) for arg in value.args]
        if any(op_name(source) != "shiftadd.dequantize" for source in sources):
            return value
        exponents = [array(source.args[1]) for source in sources]
        finer = np.maximum(*exponents)
        shifts = [int32(finer - exponent) for exponent in exponents]
        integers = [source.args[0] for source in sources]
        name = name.removesuffix(".wide")
        total = self.emit(ops.add(*integers, *shifts), name)
        return self.emit(ops.dequantize(total, int32(finer)), f"{name}.wide")
