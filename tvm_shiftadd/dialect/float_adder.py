"""Adder layers in float: what importers make of AdderNet layers and passes carry to the converter.

An adder layer measures how far a window is from a filter, ``y = -sum |x - w|``, instead of
correlating the two (AdderNet, Chen et al. 2020). Relax has no such operator. These are float
operators: a region holds ``adder_conv2d`` and ``adder_dense`` in their place, and where one stays
on the host it runs as it is here. ``scale``, one factor an output channel, is where a batch norm
behind the layer is folded, since no weight of |x - w| can take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import FloatAdderConv2DAttrs
from tvm_shiftadd.dialect.types import Operands, tensor_type
from tvm_shiftadd.errors import VerificationError
from tvm_shiftadd.formats.windows import conv_map_size

_ARGUMENTS = (
    ("x", "float32 activations"),
    ("weight", "float32 filters"),
    ("scale", "float32 [O], a factor for each output channel"),
)


def float_adder_conv2d(
    x: Any,
    weight: Any,
    scale: Any = None,
    *,
    strides: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0, 0, 0),
    data_layout: str = "NCHW",
    kernel_layout: str = "",
) -> Any:
    """``-scale * sum over a window of |x - w|``: float32 maps to float32 maps.

    x is ``[N, I, H, W]`` and weight ``[O, I, kh, kw]``, or with data_layout NHWC ``[N, H, W, I]``
    and ``[kh, kw, I, O]``. Zero padding is part of the windows: it adds |w|. ``padding`` is
    (top, left, bottom, right), (y, x) or one number; ``strides`` (y, x) or one number. ``scale``
    is float32 ``[O]``, all ones where it is None. Raises VerificationError on attributes that are
    not allowed; type inference raises it on operands that do not fit.
    """
    attrs = FloatAdderConv2DAttrs(
        _pair(strides),
        _sides(padding),
        data_layout,
        kernel_layout or FloatAdderConv2DAttrs.LAYOUTS.get(data_layout, ""),
    )
    axis = 0 if attrs.data_layout == "NCHW" else 3
    operands = [x, weight, _ones(weight, axis) if scale is None else scale]
    return relax.Call(registry.op("float_adder_conv2d"), operands, attrs.to_node())


def float_adder_dense(x: Any, weight: Any, scale: Any = None) -> Any:
    """``-scale * sum over i of |x[..., i] - weight[i, o]|``: float32 ``[..., I]`` to ``[..., O]``.

    weight is float32 ``[I, O]``; ``scale`` is float32 ``[O]``, all ones where it is None. Type
    inference raises VerificationError on operands that do not fit.
    """
    operands = [x, weight, _ones(weight, 1) if scale is None else scale]
    return relax.Call(registry.op("float_adder_dense"), operands)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _sides(value: int | Sequence[int]) -> tuple[int, ...]:
    sides = _pair(value)
    return sides * 2 if len(sides) == 2 else sides


def _ones(weight: Any, axis: int) -> Any:
    """A scale that changes nothing, for the outputs along ``axis`` of the weight."""
    shape = getattr(weight.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or len(shape) <= axis:
        raise VerificationError(
            f"expected an adder weight of a known shape, got {weight.ty}; give its shape"
        )
    return relax.const(np.ones(int(shape[axis]), np.float32))


def _check_scale(operands: Operands, outputs: Any) -> None:
    (channels,) = operands.tensor(2, "float32", "[O]")
    operands.require(channels == outputs, f"scale float32 [{outputs}], one factor an output")


def _infer_conv2d(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    a = FloatAdderConv2DAttrs.of(call)
    first = a.data_layout == "NCHW"
    dims = operands.tensor(0, "float32", "[N, I, H, W]" if first else "[N, H, W, I]")
    taps = operands.tensor(1, "float32", "[O, I, kh, kw]" if first else "[kh, kw, I, O]")
    n, channels, height, width = dims if first else [dims[i] for i in (0, 3, 1, 2)]
    outputs, inputs, kh, kw = taps if first else [taps[i] for i in (3, 2, 0, 1)]
    known = all(isinstance(d, int) for d in (channels, height, width, *taps))
    operands.require(known, "all sizes but the batch to be known")
    operands.require(channels == inputs, f"x with the {inputs} channels of weight, without groups")
    _check_scale(operands, outputs)
    with operands.expecting("a window that fits"):
        size = conv_map_size((height, width), (kh, kw), a.strides, a.padding)
    return tensor_type((n, outputs, *size) if first else (n, *size, outputs), "float32")


def _infer_dense(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    dims = operands.tensor(0, "float32", "[..., I]")
    inputs, outputs = operands.tensor(1, "float32", "[I, O]")
    known = len(dims) >= 1 and all(isinstance(d, int) for d in (dims[-1], inputs, outputs))
    operands.require(known, "all sizes but the batch to be known")
    operands.require(dims[-1] == inputs, f"x with {inputs} values in its last axis")
    _check_scale(operands, outputs)
    return tensor_type((*dims[:-1], outputs), "float32")


def _legalize_conv2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import float_adder

    a = FloatAdderConv2DAttrs.of(call)
    return builder.call_te(
        lambda x, weight, scale: float_adder.adder_conv2d(
            x, weight, scale, strides=a.strides, padding=a.padding, data_layout=a.data_layout
        ),
        *call.args,
        primfunc_name_hint="float_adder_conv2d",
    )


def _legalize_dense(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import float_adder

    return builder.call_te(
        float_adder.adder_dense, *call.args, primfunc_name_hint="float_adder_dense"
    )


SPECS = (
    registry.OpSpec(
        "float_adder_conv2d",
        "sums of absolute differences between windows and filters, in float",
        _ARGUMENTS,
        _infer_conv2d,
        _legalize_conv2d,
    ),
    registry.OpSpec(
        "float_adder_dense",
        "sums of absolute differences between rows and columns, in float",
        _ARGUMENTS,
        _infer_dense,
        _legalize_dense,
    ),
)
