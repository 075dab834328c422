"""Bring the many spellings of an importer to one.

After this pass a layer is ``conv2d``, ``conv2d_transpose`` or ``matmul`` with a constant right
operand, its bias one ``add`` of a constant with one value a channel, an activation clip is
``relax.clip`` (a ReLU is a clip to [0, inf]), a global average is ``mean`` with kept dimensions,
a split is slices, and reshapes have one name. Numbers do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay_passes.base import ModulePass, Rewriter
from relay_passes.expressions import (
    clip_after,
    clip_bounds,
    constant,
    dtype,
    ints,
    op_name,
    per_channel,
    permutation,
    scalar,
    static_shape,
)
from tvm_shiftadd._compat import ir, is_integer_constant, relax

#: Layers whose channels are the last axis.
PRODUCTS = frozenset({"relax.matmul", "shiftadd.float_adder_dense"})


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
        if isinstance(value, relax.TupleGetItem):
            return _part(self, value)
        rule = RULES.get(op_name(value))
        if rule is None or (op_name(value) in ARITHMETIC and dtype(value) != "float32"):
            return value
        return rule(self, name, value)


def _clip(rewriter: Rewriter, x: Any, lo: float, hi: float) -> Any:
    """A clip, merged with one directly in front of it; nothing where it cannot change a value."""
    before = rewriter.defined(x)
    if op_name(before) == "relax.clip" and rewriter.read_once(x):
        x = before.args[0]
        lo, hi = clip_after(clip_bounds(before), (lo, hi))
    if lo == -math.inf and hi == math.inf:
        return x
    return relax.op.clip(x, lo, hi)


def _relu(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    return _clip(rewriter, call.args[0], 0.0, math.inf)


def _existing_clip(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    return _clip(rewriter, call.args[0], *clip_bounds(call))


def _minimum(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x, bound = _tensor_and_scalar(call)
    return call if bound is None else _clip(rewriter, x, -math.inf, bound)


def _maximum(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x, bound = _tensor_and_scalar(call)
    return call if bound is None else _clip(rewriter, x, bound, math.inf)


def _tensor_and_scalar(call: relax.Call) -> tuple[Any, float | None]:
    for x, other in (tuple(call.args), tuple(reversed(call.args))):
        value = constant(other)
        if constant(x) is not None or value is None:
            continue
        # One element of a higher rank would add axes to the result.
        if value.size == 1 and value.ndim <= len(static_shape(x)):
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
    return add_offset(rewriter, lhs, offset)


def _subtract(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    offset = constant(call.args[1])
    return call if offset is None else add_offset(rewriter, call.args[0], -offset)


def add_offset(rewriter: Rewriter, x: Any, offset: NDArray[np.float32]) -> Any:
    """Addition of a constant, with one value a channel where it can be, and merged with another."""
    values = per_channel(offset, static_shape(x), channel_axis(rewriter, x))
    if values is None:
        return relax.op.add(x, relax.const(offset))
    before = rewriter.defined(x)
    if op_name(before) == "relax.add" and rewriter.read_once(x):
        earlier = constant(before.args[1])
        if earlier is not None and earlier.shape == values.shape:
            x, values = before.args[0], values + earlier
    return relax.op.add(x, relax.const(values))


def channel_axis(rewriter: Rewriter, x: Any) -> int:
    """The axis of a layer's channels, also behind its bias: the last of a product, else axis 1."""
    before = rewriter.defined(x)
    if op_name(before) == "relax.add" and constant(before.args[1]) is not None:
        before = rewriter.defined(before.args[0])
    return len(static_shape(x)) - 1 if op_name(before) in PRODUCTS else 1


def _permute(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    value = constant(call.args[0])
    axes = permutation(call)
    if value is not None:
        return relax.const(np.ascontiguousarray(value.transpose(axes)))
    return call.args[0] if axes == tuple(range(len(axes))) else call


def _reshape(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    """Every shape change without data movement is a reshape; two in a row are one."""
    x, shape = call.args[0], static_shape(call)
    if not isinstance(call.ty.shape, relax.ShapeExpr):
        return call
    value = constant(x)
    if value is not None and shape.count(-1) <= 1:
        return relax.const(value.reshape(shape))
    if op_name(rewriter.defined(x)) == "relax.reshape":
        x = rewriter.defined(x).args[0]
    # Where a single dimension is symbolic, the number of elements settles it.
    if static_shape(x) == shape and shape.count(-1) <= 1:
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
    if static_shape(call)[2:] != (1, 1) or call.attrs["layout"] != "NCHW":
        return call
    return relax.op.mean(call.args[0], axis=[2, 3], keepdims=True)


def _part(rewriter: Rewriter, item: relax.TupleGetItem) -> Any:
    """One result of a split is a slice."""
    split = rewriter.defined(item.tuple_value)
    if op_name(split) != "relax.split":
        return item
    x, sections = split.args[0], split.attrs["indices_or_sections"]
    axis = int(split.attrs["axis"]) % len(static_shape(x))
    size = static_shape(x)[axis]
    if size < 0:
        return item
    if is_integer_constant(sections):
        # Equal parts; the last may be smaller.
        length = -(-size // int(sections))
        edges = [min(part * length, size) for part in range(int(sections) + 1)]
    else:
        edges = [0, *ints(sections), size]
    begin, end = edges[item.index : item.index + 2]
    return relax.op.strided_slice(x, [axis], [begin], [end])


def _identity(rewriter: Rewriter, name: str, call: relax.Call) -> Any:
    x = call.args[0]
    return x if x.ty.dtype == call.ty.dtype else call


Rule = Callable[[Rewriter, str, relax.Call], Any]

RULES: dict[str, Rule] = {
    "relax.nn.relu": _relu,
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

#: Rules for float32 only: their results would be of another type, or bounds could not be told.
ARITHMETIC = frozenset(
    {
        "relax.nn.relu",
        "relax.clip",
        "relax.minimum",
        "relax.maximum",
        "relax.add",
        "relax.subtract",
    }
)
