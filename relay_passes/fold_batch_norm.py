"""Fold batch normalisation, and constant factors a channel, into the layer on either side.

Inference batch norm is y = s x + t for each channel. Behind a layer with constant weights it
scales that layer's output channels (an adder layer has an operand for the factors, since no weight
of |x - w| can take them); in front of an unpadded convolution it scales the input
channels (zero padding would have to see t at the border, so a padded one cannot take it). With
neither neighbour it becomes a 1x1 depthwise convolution, which converts like any other layer. A
product with a constant is the same with t = 0, and is folded backwards only: an output scale, say,
is better left to the host in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay_passes.base import ModulePass, Rewriter
from relay_passes.canonicalize import add_offset, channel_axis
from relay_passes.expressions import (
    array,
    constant,
    dtype,
    ints,
    op_name,
    per_channel,
    static_shape,
)
from tvm_shiftadd._compat import GenericConst, ir, relax
from tvm_shiftadd.errors import ModelError

#: Output-channel axis of the weight of every layer that can absorb a batch norm.
OUTPUT_AXIS = {"relax.nn.conv2d": 0, "relax.nn.conv2d_transpose": 1, "relax.matmul": 1}

#: Layers whose weight can take no factor; they have an operand for it.
ADDERS = frozenset({"shiftadd.float_adder_conv2d", "shiftadd.float_adder_dense"})


@dataclass(frozen=True)
class FoldBatchNorm(ModulePass):
    """Remove every inference batch norm of a canonical, channels-first module."""

    requires = ("canonical",)
    ensures = ("batch_norm_folded",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return _Fold().run(mod)


class _Fold(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.standing: dict[relax.Var, str] = {}

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        if op_name(value) == "relax.nn.batch_norm" and is_inference(value):
            # Only the first of its three results is read in inference.
            return relax.Tuple([self._fold(name, value), value.args[3], value.args[4]])
        if op_name(value) == "relax.nn.conv2d":
            return self._absorb_input(name, value)
        if op_name(value) in ("relax.multiply", "relax.divide"):
            return self._absorb_factor(name, value)
        if op_name(value) == "relax.add":
            return self._absorb_offset(value)
        return value

    def _fold(self, name: str, call: relax.Call) -> Any:
        x, name = call.args[0], name.removesuffix(".statistics")
        gamma, beta, mean, variance = (_array(arg) for arg in call.args[1:5])
        if not call.attrs["scale"]:
            gamma = np.ones_like(mean)
        if not call.attrs["center"]:
            beta = np.zeros_like(mean)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = gamma / np.sqrt(variance + float(call.attrs["epsilon"]))
            shift = beta - mean * scale
        if not (_finite(scale) and _finite(shift)):
            raise ModelError(
                f"expected batch norm {name} to have finite factors, but its variance plus epsilon "
                "is not positive or its numbers are too large; check the model's checkpoint"
            )
        layer, bias = self._layer_before(x)
        # A batch norm is over axis 1, which of a product of three or more axes is not the channel.
        if layer is None or channel_axis(self, x) != 1:
            return self._stand_alone(name, x, scale, shift)
        self.folded[name] = f"batch norm folded into {layer.name}"
        return self._scale_layer(layer, bias, scale, shift)

    def _absorb_factor(self, name: str, call: relax.Call) -> Any:
        lhs, rhs = call.args
        divides = op_name(call) == "relax.divide"
        if constant(lhs) is not None and not divides:
            lhs, rhs = rhs, lhs
        factor = constant(rhs)
        layer, bias = self._layer_before(lhs)
        if factor is None or layer is None:
            return call
        scale = per_channel(factor, static_shape(lhs), channel_axis(self, lhs))
        if scale is None or (divides and not scale.all()):
            return call
        factors = scale.reshape(-1).astype(np.float64)
        factors = 1 / factors if divides else factors
        self.folded[name] = f"constant factor folded into {layer.name}"
        return self._scale_layer(layer, bias, factors, np.zeros(1))

    def _absorb_offset(self, call: relax.Call) -> Any:
        """A constant behind a layer joins the bias that the layer may have got from this pass."""
        offset = constant(call.args[1])
        if offset is None or dtype(call) != "float32":
            return call
        return add_offset(self, call.args[0], offset)

    def _scale_layer(self, layer: relax.Var, bias: Any, scale: Any, shift: Any) -> relax.Var:
        """The layer again, its output multiplied by scale and moved by shift."""
        layer_call = self.defined(layer)
        bias = scale * bias + shift
        if op_name(layer_call) in ADDERS:
            x, weight, factor = layer_call.args
            factor = _const(_array(factor) * scale)
            return self._layer(layer.name, layer_call, [x, weight, factor], bias)
        axis = OUTPUT_AXIS[op_name(layer_call)]
        weight = _array(layer_call.args[1])
        weight = weight * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        return self._layer(layer.name, layer_call, [layer_call.args[0], _const(weight)], bias)

    def _layer_before(self, x: Any) -> tuple[relax.Var | None, NDArray[np.float64]]:
        """The layer that alone feeds x, looking through its bias, and that bias."""
        bias = np.zeros(1)
        if op_name(self.defined(x)) == "relax.add" and self.read_once(x):
            offset = constant(self.defined(x).args[1])
            shape, axis = static_shape(x), channel_axis(self, x)
            values = None if offset is None else per_channel(offset, shape, axis)
            if values is None:
                return None, bias
            bias = values.reshape(-1).astype(np.float64)
            x = self.defined(x).args[0]
        call = self.defined(x)
        if op_name(call) not in OUTPUT_AXIS.keys() | ADDERS or not self.read_once(x):
            return None, bias
        weight = constant(call.args[1])
        if weight is None or (op_name(call) == "relax.matmul" and weight.ndim != 2):
            return None, bias
        if op_name(call) == "relax.nn.conv2d_transpose" and int(call.attrs["groups"]) != 1:
            return None, bias
        return x, bias

    def _layer(self, name: str, call: Any, operands: Any, bias: NDArray[Any]) -> relax.Var:
        """Emit a layer again with other operands and another bias."""
        new = self.emit(relax.Call(call.op, operands, call.attrs), name)
        offset = channel_const(bias, len(static_shape(new)), channel_axis(self, new))
        return self.emit(relax.op.add(new, offset), f"{name}.bias")

    def _stand_alone(self, name: str, x: Any, scale: Any, shift: NDArray[Any]) -> relax.Var:
        rank = len(static_shape(x))
        if rank != 4:
            scaled = self.emit(relax.op.multiply(x, channel_const(scale, rank)), f"{name}.scale")
            return self.emit(relax.op.add(scaled, channel_const(shift, rank)), name)
        self.folded[name] = "batch norm as a 1x1 depthwise convolution"
        conv = relax.op.nn.conv2d(x, _const(scale.reshape(-1, 1, 1, 1)), groups=scale.size)
        result = self._layer(name, conv, list(conv.args), shift)
        self.standing[result] = name
        return result

    def _absorb_input(self, name: str, call: relax.Call) -> Any:
        """Take a stand-alone batch norm in front of an unpadded convolution into its weight."""
        x = call.args[0]
        absorbs = constant(call.args[1]) is not None and not any(ints(call.attrs["padding"]))
        if x not in self.standing or not self.read_once(x) or not absorbs:
            return call
        if int(call.attrs["groups"]) != 1:
            return call
        offset = self.defined(x)
        depthwise = self.defined(offset.args[0])
        weight = _array(call.args[1])
        bias = np.einsum("oihw,i->o", weight, _array(offset.args[1]).reshape(-1))
        weight = weight * _array(depthwise.args[1]).reshape(1, -1, 1, 1)
        self.folded[self.standing[x]] = f"batch norm folded into {name}"
        return self._layer(name, call, [depthwise.args[0], _const(weight)], bias)


def channel_const(values: NDArray[Any], rank: int, axis: int = 1) -> GenericConst:
    """Per-channel values as a constant that broadcasts over a tensor with channels at ``axis``."""
    shape = (-1,) if axis == rank - 1 else (1, -1, *[1] * (rank - 2))
    return _const(values.reshape(shape))


def is_inference(call: relax.Call) -> bool:
    """Whether scale, offset, mean and variance are constants of the channels-first axis."""
    return int(call.attrs["axis"]) == 1 and all(constant(a) is not None for a in call.args[1:5])


def _array(expr: Any) -> NDArray[np.float64]:
    return array(expr).astype(np.float64)


def _const(values: NDArray[Any]) -> GenericConst:
    if not _finite(values):
        raise ModelError(
            "expected finite weights after constant factors are folded into their layers, but got "
            "infinity or NaN; check the factors in the model"
        )
    return relax.const(np.ascontiguousarray(values, dtype=np.float32))


def _finite(values: NDArray[Any]) -> bool:
    """Whether all of them are finite as float32, in which layers hold them."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())
