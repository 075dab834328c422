"""Replace every selected operator by its integer form, each still between its own scales.

An operator whose result is stored becomes ``dequantize(op(quantize(x)))``, a layer's accumulator
``dequantize(conv2d(quantize(x), codes, bias))``. Additions and clips stay as they are in float
here: which integers they see follows from what surrounds them, and the next passes settle it by
cancelling the pairs in between. The plan of the converter supplies all numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relay_passes.base import ModulePass, Rewriter
from relay_passes.classify import Match, classify
from relay_passes.select_regions import REGIONS_ATTR
from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS
from tvm_shiftadd.convert.plan import ChannelFactor, LayerPlan, Plan
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats.packing import pack


@dataclass(frozen=True)
class RewriteToDialect(ModulePass):
    """Insert the operators of the dialect where ``SelectRegions`` decided so."""

    plan: Plan

    requires = ("regions_selected",)
    ensures = ("dialect",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass.

        Raises ConversionError if the plan lacks a layer or a scale that the module needs.
        """
        return _Rewrite(self.plan, mod["main"]).run(mod)


def int32(values: Any) -> Any:
    """An int32 vector constant."""
    return relax.const(np.atleast_1d(np.asarray(values, dtype=np.int32)))


class _Rewrite(Rewriter):
    def __init__(self, plan: Plan, func: relax.Function) -> None:
        super().__init__()
        self.plan = plan
        reasons = {str(k): str(v) for k, v in func.attrs[REGIONS_ATTR].items()}
        self.inside = {name for name, reason in reasons.items() if not reason}
        # The plan speaks of the float module's tensors; a bias's tensor lives on as its layer's.
        self._tensor: dict[relax.Var, str] = {}
        self._narrow: dict[relax.Var, relax.Var] = {}
        self._rounded: dict[relax.Var, relax.Var] = {}

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        if name not in self.inside:
            return value
        match = classify(value)
        if not isinstance(match, Match):
            # A bias, which the layer in front of it has taken in; its name is the result's.
            result = value.args[0]
        elif match.op in WEIGHT_OPS:
            result = self.emit(self._layer(name, match), f"{name}.wide")
        elif match.op in ADDER_OPS:
            result = self.emit(self._adder(name, match), f"{name}.wide")
        elif match.op in ("add", "clip"):
            inputs = [self._in_region(x) for x in match.inputs]
            call = relax.Call(value.op, [*inputs, *value.args[len(inputs) :]], value.attrs)
            result = self.emit(call, f"{name}.wide" if name in self.plan.exponents else name)
        else:
            result = self.emit(self._mover(name, match, value), f"{name}.wide")
        self._tensor[result] = name
        return self._stored(result, name)

    def _stored(self, result: relax.Var, name: str) -> relax.Var:
        """The result as its readers see it: through 8 bits where the plan stores it so."""
        if name not in self.plan.exponents:
            return result
        narrow = self._integers(result)
        stored = self.emit(ops.dequantize(narrow, int32(self._exponent(result))), name)
        self._tensor[stored] = name
        self._narrow[stored] = narrow
        return stored

    def _exponent(self, x: relax.Var) -> int:
        tensor = self._tensor.get(x, x.name)
        if tensor not in self.plan.exponents:
            raise ConversionError(
                f"expected a scale for the tensor {tensor}, but the plan has none; "
                "convert the graph that was extracted from this very module"
            )
        return self.plan.exponents[tensor]

    def _dtype(self, x: relax.Var) -> str:
        return self.plan.dtype(self._tensor.get(x, x.name))

    def _integers(self, x: relax.Var) -> relax.Var:
        if x not in self._narrow:
            exponent, dtype = self._exponent(x), self._dtype(x)
            name = f"{self._tensor.get(x, x.name)}.{dtype}"
            self._narrow[x] = self.emit(ops.quantize(x, exponent, dtype=dtype), name)
        return self._narrow[x]

    def _in_region(self, x: relax.Var) -> relax.Var:
        """A float that integers stand behind: what the host made goes through 8 bits first."""
        if x in self._tensor:
            return x
        if x not in self._rounded:
            rounded = ops.dequantize(self._integers(x), int32(self._exponent(x)))
            self._rounded[x] = self.emit(rounded, f"{x.name}.rounded")
        return self._rounded[x]

    def _layer(self, name: str, match: Match) -> Any:
        if name not in self.plan.layers:
            raise ConversionError(f"expected a plan for the layer {name}, but there is none")
        layer: LayerPlan = self.plan.layers[name]
        (x,) = match.inputs
        codes, bias = relax.const(pack(layer.codes)), relax.const(layer.bias)
        acc = self.emit(_layer_call(match, self._integers(x), codes, bias), name)
        return self._scaled(name, acc, layer.weight_exponent + self._exponent(x), layer.factor)

    def _adder(self, name: str, match: Match) -> Any:
        if name not in self.plan.adders:
            raise ConversionError(f"expected a plan for the adder layer {name}, but there is none")
        layer = self.plan.adders[name]
        (x,) = match.inputs
        operands = (self._integers(x), relax.const(layer.weight), relax.const(layer.bias))
        if match.op == "adder_dense":
            call = ops.adder_dense(*operands)
        else:
            assert match.weight is not None, "a layer that matches has a weight"
            kernel = match.weight.shape[:2]
            call = ops.adder_conv2d(*operands, kernel_size=kernel, **match.attrs)
        return self._scaled(name, self.emit(call, name), self._exponent(x), layer.factor)

    def _scaled(self, name: str, acc: Any, exponent: Any, factor: ChannelFactor | None) -> Any:
        """An accumulator as a float, multiplied by its factor if it has one."""
        if factor is not None:
            acc = self.emit(ops.scale(acc, relax.const(factor.codes)), f"{name}.factor")
            exponent = exponent + factor.exponent
        return ops.dequantize(acc, int32(exponent))

    def _mover(self, name: str, match: Match, value: Any) -> Any:
        if match.op == "concat":
            return self._concat(name, match)
        exponent = self._exponent(match.inputs[0])
        moved = self.emit(
            _mover_call(match, [self._integers(x) for x in match.inputs], value), name
        )
        if match.op == "avg_pool2d":
            exponent += int(self.defined(moved).attrs["reciprocal_shift"])
        return ops.dequantize(moved, int32(exponent))

    def _concat(self, name: str, match: Match) -> Any:
        """Every input of the result's scale and type, which those read elsewhere may not have."""
        exponent, dtype = self.plan.exponents[name], self.plan.dtype(name)
        parts = []
        for x in match.inputs:
            if (self._exponent(x), self._dtype(x)) == (exponent, dtype):
                parts.append(self._integers(x))
            else:
                part = ops.quantize(self._in_region(x), exponent, dtype=dtype)
                parts.append(self.emit(part, f"{self._tensor.get(x, x.name)}.for.{name}"))
        joined = self.emit(ops.concat(parts, axis=match.attrs["axis"]), name)
        return ops.dequantize(joined, int32(exponent))


def _layer_call(match: Match, x: Any, codes: Any, bias: Any) -> Any:
    if match.op == "dense":
        return ops.dense(x, codes, bias)
    build = ops.conv2d if match.op == "conv2d" else ops.conv2d_transpose
    attrs = dict(match.attrs)
    if match.op == "conv2d_transpose":
        del attrs["groups"]
    assert match.weight is not None, "a layer that matches has a weight"
    return build(x, codes, bias, kernel_size=match.weight.shape[:2], **attrs)


def _mover_call(match: Match, xs: list[Any], value: Any) -> Any:
    attrs = match.attrs
    if match.op == "avg_pool2d":
        return ops.avg_pool2d(xs[0], **attrs)
    if match.op == "max_pool2d":
        return ops.max_pool2d(xs[0], **attrs)
    if match.op == "pad":
        return ops.pad(xs[0], pad_width=[side for pair in attrs["pad_width"] for side in pair])
    if match.op == "upsample2d":
        return ops.upsample2d(xs[0], scale=attrs["scale"])
    # Reshape, transposition and slice move bytes of any type: Relax's own operators do.
    return relax.Call(value.op, [xs[0], *value.args[1:]], value.attrs)
