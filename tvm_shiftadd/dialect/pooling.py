"""Average and maximum pooling over int8 or uint8 maps ``[N, H, W, C]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import AvgPool2DAttrs, MaxPool2DAttrs
from tvm_shiftadd.dialect.types import ACTIVATIONS, Operands, tensor_type
from tvm_shiftadd.errors import InputError, RangeError, VerificationError
from tvm_shiftadd.formats.reciprocal import Reciprocal
from tvm_shiftadd.formats.reference import avg_pool_reciprocal
from tvm_shiftadd.formats.windows import pool_map_size


def avg_pool2d(
    x: Any,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Any:
    """Average pooling: int8 or uint8 ``[N, H, W, C]`` to int32 ``[N, OH, OW, C]``.

    A window's sum times a shift-add reciprocal of its count. The result's scale is
    2^-(a_x + reciprocal_shift), where reciprocal_shift is an attribute of the call. ``x`` must
    have a type already (a variable, or an expression that a block builder emitted). Raises
    VerificationError on attributes, or an x, that do not fit.
    """
    draft = AvgPool2DAttrs(
        pool_size,  # type: ignore[arg-type]
        strides,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        dilation,  # type: ignore[arg-type]
        ceil_mode,
        count_include_pad,
        reciprocal_shift=0,
    )
    call = relax.Call(registry.op("avg_pool2d"), [x], draft.to_node())
    _, h, w, _ = Operands(call, ["x"]).image(0, ACTIVATIONS)
    attrs = replace(draft, reciprocal_shift=average_reciprocal(h, w, draft).shift)
    return relax.Call(registry.op("avg_pool2d"), [x], attrs.to_node())


def max_pool2d(
    x: Any,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """Maximum pooling: int8 or uint8 ``[N, H, W, C]`` to ``[N, OH, OW, C]`` of the same type.

    Padding never wins. Raises VerificationError on attributes that are not allowed; type inference
    raises it on operands that do not fit.
    """
    attrs = MaxPool2DAttrs(pool_size, strides, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return relax.Call(registry.op("max_pool2d"), [x], attrs.to_node())


def average_reciprocal(height: int, width: int, attrs: AvgPool2DAttrs) -> Reciprocal:
    """The reciprocals of all counts that occur when a map of this size is averaged.

    Raises VerificationError if the window does not fit, or averages too many elements.
    """
    try:
        return avg_pool_reciprocal((height, width), **attrs.window())
    except (InputError, RangeError) as error:
        raise VerificationError(f"shiftadd.avg_pool2d: {error}") from None


def _pooled(operands: Operands, attrs: MaxPool2DAttrs) -> list[Any]:
    n, h, w, c = operands.image(0, ACTIVATIONS)
    window = (attrs.pool_size, attrs.strides, attrs.padding, attrs.dilation, attrs.ceil_mode)
    with operands.expecting("a window that fits"):
        size = pool_map_size((h, w), *window)
    return [n, *size, c]


def _infer_avg_pool2d(call: Any) -> Any:
    operands = Operands(call, ["x"])
    attrs = AvgPool2DAttrs.of(call)
    shape = _pooled(operands, attrs)
    _, h, w, _ = operands.image(0, ACTIVATIONS)
    shift = average_reciprocal(h, w, attrs).shift
    if shift != attrs.reciprocal_shift:
        raise operands.error(
            f"reciprocal_shift to be {shift} for this window and map, not {attrs.reciprocal_shift}"
        )
    return tensor_type(shape, "int32")


def _infer_max_pool2d(call: Any) -> Any:
    operands = Operands(call, ["x"])
    return tensor_type(_pooled(operands, MaxPool2DAttrs.of(call)), operands.dtype(0))


def _legalize_avg_pool2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import pool

    where = AvgPool2DAttrs.of(call).window()
    (x,) = call.args
    size = int(x.ty.shape[1]), int(x.ty.shape[2])
    shifts = relax.const(pool.average_shifts(size, **where), "int32")
    return builder.call_te(
        pool.avg_pool2d, x, shifts, **where, primfunc_name_hint="shiftadd_avg_pool2d"
    )


def _legalize_max_pool2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import pool

    return registry.call_te(builder, call, pool.max_pool2d, MaxPool2DAttrs)


_ARGUMENTS = (("x", "int8 or uint8 [N, H, W, C]"),)

SPECS = (
    registry.OpSpec(
        "avg_pool2d",
        "average pooling by shift-add reciprocals",
        _ARGUMENTS,
        _infer_avg_pool2d,
        _legalize_avg_pool2d,
    ),
    registry.OpSpec(
        "max_pool2d", "maximum pooling", _ARGUMENTS, _infer_max_pool2d, _legalize_max_pool2d
    ),
)
