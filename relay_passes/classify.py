"""Which operator of the shift-add dialect a Relax call can become, or why it cannot.

The one place that reads the attributes of canonical float operators. Region selection asks it
whether, the extraction of the converter's graph and the rewrite to the dialect ask it what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay_passes.expressions import (
    clip_bounds,
    constant,
    int_attrs,
    ints,
    op_name,
    permutation,
    slice_window,
    static_shape,
)
from relay_passes.host_reasons import HOST_REASONS
from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect.registry import FLOAT_NAMESPACE
from tvm_shiftadd.errors import RangeError
from tvm_shiftadd.formats.reference import avg_pool_reciprocal


@dataclass(frozen=True)
class Match:
    """An operator of ``tvm_shiftadd.convert.graph``: its data inputs, attributes and weight, and
    the factor of each output channel of an adder layer that has one.
    """

    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    weight: NDArray[np.float32] | None = None
    factor: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Refusal:
    """Why an operator stays on the host."""

    reason: str


def classify(call: Any) -> Match | Refusal:
    """Match one bound expression of a canonical, channels-last module."""
    rule = RULES.get(op_name(call))
    if rule is None:
        name = op_name(call).removeprefix("relax.") or type(call).__name__
        return Refusal(HOST_REASONS.get(name, f"{name} has no shift-add form"))
    return rule(call)


def bias_of(call: Any) -> NDArray[np.float32] | None:
    """The per-channel constant of an ``add`` behind a layer, or None where the call is no such."""
    if op_name(call) != "relax.add":
        return None
    values = constant(call.args[1])
    shape = static_shape(call)
    if values is None or not shape or values.size not in (1, shape[-1]):
        return None
    if static_shape(call.args[0]) != shape:
        return None
    if values.ndim > 1 and values.shape[-1] != values.size:
        return None
    return np.broadcast_to(values.reshape(-1), (shape[-1],)).astype(np.float32)


def _conv2d(call: Any) -> Match | Refusal:
    weight = constant(call.args[1])
    if weight is None:
        return Refusal("its weight is not a constant")
    if call.attrs["data_layout"] != "NHWC":
        return Refusal("its feature map is not two-dimensional")
    attrs = {
        **int_attrs(call, "strides", "padding", "dilation"),
        "groups": int(call.attrs["groups"]),
    }
    return Match("conv2d", (call.args[0],), attrs, weight)


def _conv2d_transpose(call: Any) -> Match | Refusal:
    match = _conv2d(call)
    if isinstance(match, Refusal):
        return match
    if match.attrs["groups"] != 1:
        return Refusal("a grouped transposed convolution has no shift-add form yet")
    attrs = {**match.attrs, **int_attrs(call, "output_padding")}
    return Match("conv2d_transpose", match.inputs, attrs, match.weight)


def _dense(call: Any) -> Match | Refusal:
    weight = constant(call.args[1])
    if weight is None:
        return Refusal("a product of two activations is a multiplication of data")
    if weight.ndim != 2:
        return Refusal("its weight is not a matrix")
    return Match("dense", (call.args[0],), weight=weight)


def _adder(call: Any) -> Match | Refusal:
    weight, factor = constant(call.args[1]), constant(call.args[2])
    if weight is None or factor is None:
        return Refusal("its weight is not a constant")
    attrs: dict[str, Any] = {}
    if op_name(call).endswith("conv2d"):
        if call.attrs["data_layout"] != "NHWC":
            return Refusal("its feature map is not channels-last")
        attrs = int_attrs(call, "strides", "padding")
    op = op_name(call).removeprefix(FLOAT_NAMESPACE)
    own = None if np.all(factor == 1) else factor
    return Match(op, (call.args[0],), attrs, weight, own)


def _add(call: Any) -> Match | Refusal:
    lhs, rhs = call.args
    if constant(lhs) is not None or constant(rhs) is not None:
        return Refusal("it adds a constant that no layer can take as its bias")
    if static_shape(lhs) != static_shape(rhs):
        return Refusal("it broadcasts one input over the other")
    return Match("add", (lhs, rhs))


def _clip(call: Any) -> Match | Refusal:
    lo, hi = clip_bounds(call)
    return Match("clip", (call.args[0],), {"lo": lo, "hi": hi})


def _pool(call: Any) -> Match | Refusal:
    if call.attrs["layout"] != "NHWC":
        return Refusal("its feature map is not two-dimensional")
    attrs = int_attrs(call, "pool_size", "strides", "padding", "dilation")
    attrs["ceil_mode"] = bool(call.attrs["ceil_mode"])
    if op_name(call) == "relax.nn.max_pool2d":
        return Match("max_pool2d", (call.args[0],), attrs)
    return _average(call, {**attrs, "count_include_pad": bool(call.attrs["count_include_pad"])})


def _average(call: Any, window: dict[str, Any]) -> Match | Refusal:
    height, width = static_shape(call.args[0])[1:3]
    if height < 1 or width < 1:
        return Refusal("the size of its feature map is not known")
    try:
        avg_pool_reciprocal((height, width), **window)
    except RangeError:
        return Refusal("32 bits do not hold the sum of its window times a reciprocal in shifts")
    return Match("avg_pool2d", (call.args[0],), window)


def _global_pool(call: Any) -> Match | Refusal:
    shape = static_shape(call.args[0])
    axes = call.attrs["axis"]
    whole_map = axes is not None and len(shape) == 4 and sorted(ints(axes)) == [1, 2]
    average = op_name(call) == "relax.mean"
    if not whole_map or not bool(call.attrs["keepdims"]):
        kind = "mean" if average else "maximum"
        return Refusal(f"a {kind} over anything but a whole feature map has no shift-add form")
    if shape[1] < 1 or shape[2] < 1:
        return Refusal("the size of its feature map is not known")
    attrs: dict[str, Any] = {
        "pool_size": shape[1:3],
        "strides": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }
    if not average:
        return Match("max_pool2d", (call.args[0],), attrs)
    return _average(call, {**attrs, "count_include_pad": False})


def _pad(call: Any) -> Match | Refusal:
    mode, value = str(call.attrs["pad_mode"]), float(call.attrs["pad_value"])
    if mode != "constant" or value != 0.0:
        return Refusal(f"padding with {mode if mode != 'constant' else value} is not zero padding")
    width = ints(call.attrs["pad_width"])
    pairs = tuple(zip(width[::2], width[1::2], strict=True))
    return Match("pad", (call.args[0],), {"pad_width": pairs})


def _concat(call: Any) -> Match | Refusal:
    if not isinstance(call.args[0], relax.Tuple):
        return Refusal("its inputs are not listed")
    fields = tuple(call.args[0].fields)
    if any(constant(x) is not None for x in fields):
        return Refusal("it joins a constant")
    rank = len(static_shape(call))
    return Match("concat", fields, {"axis": int(call.attrs["axis"]) % rank})


def _resize(call: Any) -> Match | Refusal:
    before, after = static_shape(call.args[0]), static_shape(call)
    if call.attrs["layout"] != "NHWC" or "nearest" not in str(call.attrs["method"]):
        return Refusal("interpolation multiplies by fractions")
    if min(before[1:3] + after[1:3]) < 1 or after[1] % before[1] or after[2] % before[2]:
        return Refusal("its scale is no whole number")
    scale = (after[1] // before[1], after[2] // before[2])
    return Match("upsample2d", (call.args[0],), {"scale": scale})


def _reshape(call: Any) -> Match | Refusal:
    before, after = static_shape(call.args[0]), static_shape(call)
    known = before and after and -1 not in before[1:] + after[1:]
    if not known or math.prod(before[1:]) != math.prod(after[1:]):
        return Refusal("it mixes the batch with other axes")
    return Match("reshape", (call.args[0],), {"shape": (-1, *after[1:])})


def _permute(call: Any) -> Match | Refusal:
    axes = permutation(call)
    if axes[0] != 0:
        return Refusal("it moves the batch axis")
    return Match("permute", (call.args[0],), {"axes": axes})


def _slice(call: Any) -> Match | Refusal:
    window = slice_window(call)
    if window is None:
        return Refusal("its window is computed from data")
    rank = len(static_shape(call))
    axes, begin, end, strides = window
    if any(axis % rank == 0 for axis in axes):
        return Refusal("it slices the batch axis")
    attrs = {"axes": tuple(a % rank for a in axes), "begin": begin, "end": end, "strides": strides}
    return Match("slice", (call.args[0],), attrs)


RULES: dict[str, Callable[[Any], Match | Refusal]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.matmul": _dense,
    "shiftadd.float_adder_conv2d": _adder,
    "shiftadd.float_adder_dense": _adder,
    "relax.add": _add,
    "relax.clip": _clip,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.mean": _global_pool,
    "relax.max": _global_pool,
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.image.resize2d": _resize,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    "relax.strided_slice": _slice,
}
