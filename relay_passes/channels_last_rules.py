"""What each operator looks like on channels-last maps, for the pass ``ChannelsLast``.

A rule takes the pass, the call with its operands already new, and the old call, whose operands
still have the channels-first types. It returns None where the operator wants channels first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from relay_passes.expressions import (
    constant,
    int_attrs,
    ints,
    op_name,
    permutation,
    slice_window,
    static_shape,
)
from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import ops

if TYPE_CHECKING:
    from relay_passes.channels_last import LayoutRewriter

#: Where each channels-first axis is found in a channels-last map.
TO_LAST = (0, 3, 1, 2)

UNARY = frozenset(
    f"relax.{op}"
    for op in (
        "clip",
        "sigmoid",
        "tanh",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "abs",
        "negative",
        "sign",
        "square",
        "floor",
        "ceil",
        "round",
        "erf",
        "nn.silu",
        "nn.gelu",
        "nn.leakyrelu",
        "nn.softplus",
        "astype",
    )
)
BROADCASTING = frozenset(
    f"relax.{op}"
    for op in (
        "add",
        "subtract",
        "multiply",
        "divide",
        "minimum",
        "maximum",
        "power",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "equal",
        "where",
    )
)
SOFTMAX = {
    "relax.nn.softmax": relax.op.nn.softmax,
    "relax.nn.log_softmax": relax.op.nn.log_softmax,
}
POOLING = {
    "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
    "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
}
REDUCTIONS = {
    "relax.mean": relax.op.mean,
    "relax.sum": relax.op.sum,
    "relax.max": relax.op.max,
    "relax.min": relax.op.min,
    "relax.variance": relax.op.variance,
}


Rule = Callable[["LayoutRewriter", Any, Any], Any]


def _last(rule: Rule) -> Rule:
    """A rule whose result, where it has one, lies channels-last under the binding's own name."""

    def wrapped(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
        new = rule(pass_, call, old)
        return None if new is None else pass_.emit_last(new, pass_.current)

    return wrapped


def _filters(call: Any, axes: tuple[int, ...]) -> Any:
    """The constant filters of a channels-first layer as HWIO; None where there are none."""
    weight = constant(call.args[1])
    if weight is None or call.attrs["data_layout"] != "NCHW":
        return None
    return relax.const(np.ascontiguousarray(weight.transpose(axes)))


@_last
def _conv2d(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    hwio = _filters(call, (2, 3, 1, 0))
    if hwio is None:
        return None
    return relax.op.nn.conv2d(
        pass_.to_last(call.args[0]),
        hwio,
        **int_attrs(call, "strides", "padding", "dilation"),
        groups=int(call.attrs["groups"]),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )


@_last
def _conv2d_transpose(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    hwio = _filters(call, (2, 3, 0, 1))
    if hwio is None or int(call.attrs["groups"]) != 1:
        return None
    return relax.op.nn.conv2d_transpose(
        pass_.to_last(call.args[0]),
        hwio,
        **int_attrs(call, "strides", "padding", "output_padding", "dilation"),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )


@_last
def _adder_conv2d(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    hwio = _filters(call, (2, 3, 1, 0))
    if hwio is None:
        return None
    window = int_attrs(call, "strides", "padding")
    x, scale = pass_.to_last(call.args[0]), call.args[2]
    return ops.float_adder_conv2d(x, hwio, scale, **window, data_layout="NHWC")


@_last
def _pool(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.attrs["layout"] != "NCHW":
        return None
    return POOLING[op_name(call)](
        pass_.to_last(call.args[0]),
        **int_attrs(call, "pool_size", "strides", "padding", "dilation"),
        ceil_mode=bool(call.attrs["ceil_mode"]),
        count_include_pad=bool(call.attrs["count_include_pad"]),
        layout="NHWC",
    )


@_last
def _unary(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    return relax.Call(call.op, call.args, call.attrs)


@_last
def _broadcasting(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if not any(arg in pass_.last for arg in call.args) or len(static_shape(old)) != 4:
        return None
    args = [_broadcast_last(pass_, arg, was) for arg, was in zip(call.args, old.args, strict=True)]
    if any(arg is None for arg in args):
        return None
    return relax.Call(call.op, args, call.attrs)


def _broadcast_last(pass_: LayoutRewriter, arg: Any, was: Any) -> Any:
    value = constant(arg)
    if value is None:
        return pass_.to_last(arg) if len(static_shape(was)) == 4 else None
    if value.size == 1:
        return relax.const(value.reshape(()))
    padded = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(0, 2, 3, 1)
    if padded.shape[:3] == (1, 1, 1):
        padded = padded.reshape(-1)
    return relax.const(np.ascontiguousarray(padded))


def _reduction(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    x, axes = call.args[0], call.attrs["axis"]
    if x not in pass_.last or axes is None:
        return None
    moved = sorted(TO_LAST[axis % 4] for axis in ints(axes))
    reduce = REDUCTIONS[op_name(call)]
    if bool(call.attrs["keepdims"]):
        return pass_.emit_last(reduce(x, axis=moved, keepdims=True), pass_.current)
    # The axes that are left keep their order where the channel is not among them, or is alone.
    keeps_order = 3 in moved or moved == [1, 2]
    return reduce(x, axis=moved, keepdims=False) if keeps_order else None


@_last
def _instance_norm(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    return relax.op.nn.instance_norm(
        *call.args,
        channel_axis=TO_LAST[int(call.attrs["channel_axis"]) % 4],
        axes=sorted(TO_LAST[axis % 4] for axis in ints(call.attrs["axes"])),
        epsilon=float(call.attrs["epsilon"]),
        center=bool(call.attrs["center"]),
        scale=bool(call.attrs["scale"]),
    )


@_last
def _softmax(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    return SOFTMAX[op_name(call)](call.args[0], axis=TO_LAST[int(call.attrs["axis"]) % 4])


@_last
def _concat(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
    if not any(field in pass_.last for field in fields):
        return None
    if any(constant(field) is not None for field in fields):
        return None
    axis = TO_LAST[int(call.attrs["axis"]) % 4]
    return relax.op.concat([pass_.to_last(field) for field in fields], axis=axis)


@_last
def _pad(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    width = ints(call.attrs["pad_width"])
    pairs = [width[2 * axis : 2 * axis + 2] for axis in (0, 2, 3, 1)]
    flat = [side for pair in pairs for side in pair]
    options = {key: call.attrs[key] for key in ("pad_value", "pad_mode")}
    return relax.op.nn.pad(call.args[0], flat, **options)


@_last
def _slice(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    window = slice_window(call)
    if window is None:
        return None
    axes, begin, end, strides = window
    moved = [TO_LAST[axis % 4] for axis in axes]
    return relax.op.strided_slice(call.args[0], moved, begin, end, strides)


@_last
def _resize(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last or call.attrs["layout"] != "NCHW":
        return None
    keys = (
        "method",
        "coordinate_transformation_mode",
        "rounding_method",
        "cubic_alpha",
        "cubic_exclude",
        "extrapolation_value",
    )
    options = {key: call.attrs[key] for key in keys}
    roi = tuple(float(edge) for edge in call.attrs["roi"])
    return relax.op.image.resize2d(call.args[0], call.args[1], roi, layout="NHWC", **options)


def _reshape(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    """A map of one pixel flattens alike in both layouts."""
    x = call.args[0]
    one_pixel = static_shape(old.args[0])[2:] == (1, 1)
    if x not in pass_.last or not one_pixel or len(static_shape(old)) != 2:
        return None
    return relax.op.reshape(x, call.args[1])


def _permute(pass_: LayoutRewriter, call: Any, old: Any) -> Any:
    """A transposition by the model itself is joined with the one this pass would add."""
    x = call.args[0]
    if x not in pass_.last:
        return None
    return relax.op.permute_dims(x, [TO_LAST[axis] for axis in permutation(old)])


RULES: dict[str, Rule] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "shiftadd.float_adder_conv2d": _adder_conv2d,
    "relax.nn.instance_norm": _instance_norm,
    "relax.concat": _concat,
    "relax.nn.pad": _pad,
    "relax.strided_slice": _slice,
    "relax.image.resize2d": _resize,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BROADCASTING, _broadcasting),
    **dict.fromkeys(SOFTMAX, _softmax),
    **dict.fromkeys(POOLING, _pool),
    **dict.fromkeys(REDUCTIONS, _reduction),
}
