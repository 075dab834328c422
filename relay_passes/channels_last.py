"""Move feature maps from channels first (NCHW), as ONNX and PyTorch keep them, to NHWC.

Every kernel of this project, and the accelerator, walks channels innermost. The pass carries each
map in the layout it was made in and transposes only where an operator asks for the other one;
operators that do not care about the layout take the one they are given
(``channels_last_rules.py``). The signature of ``main`` does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay_passes.base import ModulePass, Rewriter
from relay_passes.channels_last_rules import RULES, TO_LAST
from relay_passes.expressions import op_name
from tvm_shiftadd._compat import ir, relax


@dataclass(frozen=True)
class ChannelsLast(ModulePass):
    """Feature maps of layers with constant weights, and what lies between them, become NHWC."""

    requires = ("canonical", "batch_norm_folded")
    ensures = ("channels_last",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return LayoutRewriter().run(mod)


class LayoutRewriter(Rewriter):
    """Maps each old variable to a new one; those in ``last`` lie channels-last."""

    normalizes = False  # operands of either layout may stand in an old call until it is rewritten

    def __init__(self) -> None:
        super().__init__()
        self.last: set[relax.Var] = set()
        self._moved: dict[relax.Var, relax.Var] = {}

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        """Follow the operator's rule; without one, its operands lie channels-first."""
        rule = RULES.get(op_name(value))
        result = rule(self, value, old.value) if rule is not None else None
        if result is not None:
            return result
        if not isinstance(value, relax.Call):
            # Whoever reads a tuple asks for the layout of its fields.
            return value
        args = [self._plain(arg) for arg in value.args]
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    def finish(self, result: Any) -> Any:
        """Results leave the network as they did."""
        return self._plain(result)

    def emit_last(self, call: relax.Call, name: str) -> relax.Var:
        """Bind a call whose result lies channels-last."""
        var = self.emit(call, name)
        self.last.add(var)
        return var

    def to_last(self, x: Any) -> relax.Var:
        """A feature map with its channels last."""
        return x if x in self.last else self._move(x, (0, 2, 3, 1), "nhwc")

    def to_first(self, x: Any) -> Any:
        """An expression with its channels first."""
        return self._move(x, TO_LAST, "nchw") if x in self.last else x

    def _plain(self, expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._plain(field) for field in expr.fields])
        return self.to_first(expr) if isinstance(expr, relax.Var) else expr

    def _move(self, x: relax.Var, axes: tuple[int, ...], suffix: str) -> relax.Var:
        if x not in self._moved:
            moved = self.emit(relax.op.permute_dims(x, axes), f"{x.name}.{suffix}")
            self._moved[x] = moved
            self._moved[moved] = x
            if suffix == "nhwc":
                self.last.add(moved)
        return self._moved[x]
