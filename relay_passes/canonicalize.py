"""Bring the many spellings of an importer to one.

After this pass a layer is ``conv2d``, ``conv2d_transpose`` or ``matmul`` with a constant right
operand, its bias one ``add`` of a constant with one value a channel, an activation clip is
``relax.clip`` (a ReLU is a clip to [0, inf]), a global average is ``mean`` with kept dimensions,
and reshapes have one name. Numbers do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay_passes.base import ModulePass, Rewriter, constant, ints, op_name, scalar, static_shape
from tvm_shiftadd._compat import ir, relax


@dataclass(frozen=True)
class Canonicalize(ModulePass):
    """One spelling for each layer, bias, clip, pooling and reshape of a channels-first module."""

    requires = ("float_form",)
    ensures = ("canonical",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return _Canonicalize().run(mod)


class _Canonicalize(Rewriter):
    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        rule = RULES.get(op_name(value))
        return value if rule is None else rule(self, name, value)


def _clip(rewriter: Rewriter, x: Any, lo: float, hi: float) -> Any:
    """A clip, merged with one directly in front of it; nothing where it cannot change a value."""
    before = rewriter.defined(x)
    if op_name(before) == "relax.clip" and rewriter.read_once(x):
        x = before.args[0]
        before_lo, before_hi = scalar(before.args[1]), scalar(before.args[2])
        lo, hi = min(max(before_lo, lo), hi), min(max(before_hi, lo), hi)
    if lo == -math.inf and hi == math.inf:
        return x
    return relax.op.clip(x, lo, hi)


def _relu(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    return _clip(rewriter, call.args[0], 0.0, math.inf)


def _relu6(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    return _clip(rewriter, call.args[0], 0.0, 6.0)


def _existing_clip(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    return _clip(rewriter, call.args[0], scalar(call.args[1]), scalar(call.args[2]))


def _minimum(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x, bound = _tensor_and_scalar(call)
    return call if bound is None else _clip(rewriter, x, -math.inf, bound)


def _maximum(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x, bound = _tensor_and_scalar(call)
    return call if bound is None else _clip(rewriter, x, bound, math.inf)


def _tensor_and_scalar(call: relax.Call) -> tuple[Any, float | None]:
    for x, other in (tuple(call.args), tuple(reversed(call.args))):
        if constant(x) is None and constant(other) is not None and scalar(other) is not None:
            return x, scalar(other)
    return None, None


def _add(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    """Constants go right; a constant behind a layer becomes its one bias of one value a channel."""
    lhs, rhs = call.args
    if constant(lhs) is not None and constant(rhs) is None:
        lhs, rhs = rhs, lhs
    offset = constant(rhs)
    if offset is None:
        return call
    return _offset(rewriter, lhs, offset.astype(np.float32))


def _subtract(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    offset = constant(call.args[1])
    if offset is None or offset.dtype != np.float32:
        return call
    return _offset(rewriter, call.args[0], -offset)


def _offset(rewriter: Rewriter, x: Any, offset: NDArray[np.float32]) -> Any:
    axis = len(static_shape(x)) - 1 if op_name(rewriter.defined(x)) == "relax.matmul" else 1
    values = per_channel(offset, static_shape(x), axis)
    if values is None:
        return relax.op.add(x, relax.const(offset))
    before = rewriter.defined(x)
    if op_name(before) == "relax.add" and rewriter.read_once(x):
        earlier = constant(before.args[1])
        if earlier is not None and earlier.size == values.size:
            x, values = before.args[0], values + earlier.reshape(values.shape)
    return relax.op.add(x, relax.const(values))


def per_channel(
    values: NDArray[Any], shape: tuple[int, ...], axis: int = 1
) -> NDArray[np.float32] | None:
    """Values that vary along the channel axis at most, spread to one a channel, else None.

    The result broadcasts over ``shape``; leading axes of length one are left out where the
    channel axis is the last.
    """
    rank = len(shape)
    if rank < 2 or values.ndim > rank or shape[axis] < 1:
        return None
    padded = values.reshape((1,) * (rank - values.ndim) + values.shape)
    if any(size != 1 for i, size in enumerate(padded.shape) if i != axis):
        return None
    if padded.shape[axis] not in (1, shape[axis]):
        return None
    spread = np.broadcast_to(padded.reshape(-1), (shape[axis],)).astype(np.float32)
    return spread if axis == rank - 1 else spread.reshape(1, -1, *[1] * (rank - 2))


def _permute(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    value = constant(call.args[0])
    axes = permutation(call)
    if value is not None:
        return relax.const(np.ascontiguousarray(value.transpose(axes)))
    return call.args[0] if axes == tuple(range(len(axes))) else call


def permutation(call: relax.Call) -> tuple[int, ...]:
    """The axes of a permute_dims, which reverses the dimensions where it names none."""
    axes = call.attrs["axes"]
    rank = len(static_shape(call.args[0]))
    return ints(axes) if axes is not None else tuple(reversed(range(rank)))


def _reshape(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    """Every shape change without data movement is a reshape; two in a row are one."""
    x = call.args[0]
    value = constant(x)
    if value is not None:
        return relax.const(value.reshape(static_shape(call)))
    if op_name(rewriter.defined(x)) == "relax.reshape":
        x = rewriter.defined(x).args[0]
    if static_shape(x) == static_shape(call):
        return x
    return relax.op.reshape(x, call.ty.shape)


def _mean(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    """A mean over both spatial axes keeps them; a reshape behind drops them where asked."""
    rank = len(static_shape(call.args[0]))
    axes = call.attrs["axis"]
    if rank != 4 or axes is None or bool(call.attrs["keepdims"]):
        return call
    if sorted(a % rank for a in ints(axes)) != [2, 3]:
        return call
    kept = rewriter.emit(relax.op.mean(call.args[0], axis=[2, 3], keepdims=True), f"{name}.mean")
    return relax.op.reshape(kept, call.ty.shape)


def _adaptive_average(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    if static_shape(call)[2:] != (1, 1):
        return call
    return relax.op.mean(call.args[0], axis=[2, 3], keepdims=True)


def _identity(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x = call.args[0]
    return x if x.ty.dtype == call.ty.dtype else call


Rule = Callable[[Rewriter, str, relax.Call], Any]

RULES: dict[str, Rule] = {
    "relax.nn.relu": _relu,
    "relax.nn.relu6": _relu6,
    "relax.clip": _existing_clip,
    "relax.minimum": _minimum,
    "relax.maximum": _maximum,
    "relax.add": _add,
    "relax.subtract": _subtract,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.flatten": _reshape,
    "relax.squeeze": _reshape,
    "relax.expand_dims": _reshape,
    "relax.mean": _mean,
    "relax.nn.adaptive_avg_pool2d": _adaptive_average,
    "relax.astype": _identity,
}
