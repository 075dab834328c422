"""Move feature maps from channels first (NCHW), as ONNX and PyTorch keep them, to NHWC.

Every kernel of this project, and the accelerator, walks channels innermost. The pass carries each
map in the layout it was made in and transposes only where an operator asks for the other one;
operators that do not care about the layout take the one they are given. The signature of ``main``
does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from relay_passes.base import (
    ModulePass,
    Rewriter,
    constant,
    ints,
    op_name,
    scalar,
    static_shape,
)
from relay_passes.canonicalize import permutation
from tvm_shiftadd._compat import ir, relax

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
        "erf",
        "nn.silu",
        "nn.gelu",
        "nn.leakyrelu",
        "nn.softplus",
        "astype",
    )
)
BINARY = frozenset(
    f"relax.{op}" for op in ("add", "subtract", "multiply", "divide", "minimum", "maximum", "power")
)
POOLING = {
    "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
    "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
}
REDUCTIONS = {
    "relax.mean": relax.op.mean,
    "relax.sum": relax.op.sum,
    "relax.max": relax.op.max,
    "relax.variance": relax.op.variance,
}


@dataclass(frozen=True)
class ChannelsLast(ModulePass):
    """Feature maps of layers with constant weights, and what lies between them, become NHWC."""

    requires = ("canonical", "batch_norm_folded")
    ensures = ("channels_last",)

    def __call__(self, mod: ir.IRModule) -> ir.IRModule:
        """Apply the pass."""
        return _ChannelsLast().run(mod)


class _ChannelsLast(Rewriter):
    """Maps each old variable to a new one, which is in ``self.last`` where it lies channels-last."""

    normalizes = False  # operands of either layout may stand in an old call until it is rewritten

    def __init__(self) -> None:
        super().__init__()
        self.last: set[relax.Var] = set()
        self._moved: dict[relax.Var, relax.Var] = {}

    def rewrite(self, name: str, value: Any, old: relax.VarBinding) -> Any:
        rule = RULES.get(op_name(value))
        result = rule(self, value, old.value) if rule is not None else None
        if result is not None:
            return result
        if not isinstance(value, relax.Call):
            return self._plain(value)
        args = [self._plain(arg) for arg in value.args]
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    def finish(self, result: Any) -> Any:
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


Rule = Callable[[_ChannelsLast, Any, Any], Any]


def _last(rule: Rule) -> Rule:
    """A rule whose result, where it has one, lies channels-last under the binding's own name."""

    def wrapped(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
        new = rule(pass_, call, old)
        return None if new is None else pass_.emit_last(new, pass_.current)

    return wrapped


@_last
def _conv2d(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    weight = constant(call.args[1])
    if weight is None or call.attrs["data_layout"] != "NCHW":
        return None
    hwio = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    return relax.op.nn.conv2d(
        pass_.to_last(call.args[0]),
        relax.const(hwio),
        strides=ints(call.attrs["strides"]),
        padding=ints(call.attrs["padding"]),
        dilation=ints(call.attrs["dilation"]),
        groups=int(call.attrs["groups"]),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )


@_last
def _conv2d_transpose(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    weight = constant(call.args[1])
    if weight is None or call.attrs["data_layout"] != "NCHW" or int(call.attrs["groups"]) != 1:
        return None
    hwio = np.ascontiguousarray(weight.transpose(2, 3, 0, 1))
    return relax.op.nn.conv2d_transpose(
        pass_.to_last(call.args[0]),
        relax.const(hwio),
        strides=ints(call.attrs["strides"]),
        padding=ints(call.attrs["padding"]),
        output_padding=ints(call.attrs["output_padding"]),
        dilation=ints(call.attrs["dilation"]),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )


@_last
def _pool(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if call.attrs["layout"] != "NCHW":
        return None
    return POOLING[op_name(call)](
        pass_.to_last(call.args[0]),
        pool_size=ints(call.attrs["pool_size"]),
        strides=ints(call.attrs["strides"]),
        padding=ints(call.attrs["padding"]),
        dilation=ints(call.attrs["dilation"]),
        ceil_mode=bool(call.attrs["ceil_mode"]),
        count_include_pad=bool(call.attrs["count_include_pad"]),
        layout="NHWC",
    )


@_last
def _unary(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    return relax.Call(call.op, call.args, call.attrs)


@_last
def _binary(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if not any(arg in pass_.last for arg in call.args) or len(static_shape(old)) != 4:
        return None
    args = [_broadcast_last(pass_, arg, was) for arg, was in zip(call.args, old.args, strict=True)]
    return None if None in args else relax.Call(call.op, args, call.attrs)


def _broadcast_last(pass_: _ChannelsLast, arg: Any, was: Any) -> Any:
    value = constant(arg)
    if value is None:
        return pass_.to_last(arg) if len(static_shape(was)) == 4 else None
    if value.size == 1:
        return relax.const(value.reshape(()))
    padded = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(0, 2, 3, 1)
    if padded.shape[:3] == (1, 1, 1):
        padded = padded.reshape(-1)
    return relax.const(np.ascontiguousarray(padded))


def _reduction(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    x, axes = call.args[0], call.attrs["axis"]
    if x not in pass_.last or axes is None:
        return None
    moved = sorted(TO_LAST[axis % 4] for axis in ints(axes))
    reduce = REDUCTIONS[op_name(call)]
    if bool(call.attrs["keepdims"]):
        return pass_.emit_last(reduce(x, axis=moved, keepdims=True), pass_.current)
    # What is left of the axes keeps its order in both layouts only without the channel's move.
    return reduce(x, axis=moved, keepdims=False) if moved == [1, 2] else None


@_last
def _concat(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
    if not any(field in pass_.last for field in fields):
        return None
    if any(constant(field) is not None for field in fields):
        return None
    axis = TO_LAST[int(call.attrs["axis"]) % 4]
    return relax.op.concat([pass_.to_last(field) for field in fields], axis=axis)


@_last
def _pad(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    width = ints(call.attrs["pad_width"])
    pairs = [width[2 * axis : 2 * axis + 2] for axis in (0, 2, 3, 1)]
    flat = [side for pair in pairs for side in pair]
    options = {key: call.attrs[key] for key in ("pad_value", "pad_mode")}
    return relax.op.nn.pad(call.args[0], flat, **options)


@_last
def _slice(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last:
        return None
    window = slice_window(call)
    if window is None:
        return None
    axes, begin, end, strides = window
    moved = [TO_LAST[axis % 4] for axis in axes]
    return relax.op.strided_slice(call.args[0], moved, begin, end, strides)


def slice_window(call: Any) -> tuple[tuple[int, ...], ...] | None:
    """Axes, begin, end and strides of a strided_slice, or None where one is not constant."""
    window = []
    for arg in call.args[1:5]:
        values = [scalar(field) for field in arg.fields]
        if any(value is None for value in values):
            return None
        window.append(ints(values))
    if len(window) == 3:
        window.append((1,) * len(window[0]))
    return tuple(window)


@_last
def _resize(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    if call.args[0] not in pass_.last or call.attrs["layout"] != "NCHW":
        return None
    keys = ("roi", "method", "coordinate_transformation_mode", "rounding_method")
    options = {key: call.attrs[key] for key in keys}
    return relax.op.image.resize2d(call.args[0], call.args[1], layout="NHWC", **options)


def _reshape(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    """A map of one pixel flattens alike in both layouts."""
    x = call.args[0]
    if x not in pass_.last or static_shape(old.args[0])[2:] != (1, 1) or len(static_shape(old)) != 2:
        return None
    return relax.op.reshape(x, call.args[1])


def _permute(pass_: _ChannelsLast, call: Any, old: Any) -> Any:
    """A transposition by the model itself is joined with the one this pass would add."""
    x = call.args[0]
    if x not in pass_.last:
        return None
    return relax.op.permute_dims(x, [TO_LAST[axis] for axis in permutation(old)])


RULES: dict[str, Rule] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.concat": _concat,
    "relax.nn.pad": _pad,
    "relax.strided_slice": _slice,
    "relax.image.resize2d": _resize,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(POOLING, _pool),
    **dict.fromkeys(REDUCTIONS, _reduction),
}
