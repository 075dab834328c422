"""Data movement on int8 or uint8: concat, pad, upsample2d. Values and scales stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import TupleType, relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import ConcatAttrs, PadAttrs, Upsample2DAttrs
from tvm_shiftadd.dialect.types import ACTIVATIONS, Operands, dimensions, same, tensor_type


def concat(tensors: Any, *, axis: int) -> Any:
    """Join int8 or uint8 tensors along ``axis`` (counted from the front; the batch is 0).

    ``tensors`` is a Relax tuple or a sequence of expressions. All share one type and one scale.
    """
    if not isinstance(tensors, relax.Expr):
        tensors = relax.Tuple(list(tensors))
    return relax.Call(registry.op("concat"), [tensors], ConcatAttrs(axis).to_node())


def pad(x: Any, *, pad_width: Sequence[int]) -> Any:
    """Zeros around a stored tensor; ``pad_width`` is before and after of each axis in turn."""
    attrs = PadAttrs(pad_width)  # type: ignore[arg-type]
    return relax.Call(registry.op("pad"), [x], attrs.to_node())


def upsample2d(x: Any, *, scale: Sequence[int]) -> Any:
    """Nearest neighbour: stored ``[N, H, W, C]`` to ``[N, H * scale[0], W * scale[1], C]``."""
    attrs = Upsample2DAttrs(scale)  # type: ignore[arg-type]
    return relax.Call(registry.op("upsample2d"), [x], attrs.to_node())


def _infer_concat(call: Any) -> Any:
    operands = Operands(call, ["tensors"])
    axis = ConcatAttrs.of(call).axis
    expected = "a tuple of int8 or of uint8 tensors of a known shape"
    ty = call.args[0].ty
    operands.require(isinstance(ty, TupleType) and len(ty.fields) > 0, expected)
    dtype = str(ty.fields[0].dtype)
    operands.require(dtype in ACTIVATIONS, expected)
    for field in ty.fields:
        operands.require(str(field.dtype) == dtype and field.shape is not None, expected)
    shapes = [dimensions(field) for field in ty.fields]
    first = shapes[0]
    operands.require(axis < len(first), f"tensors with an axis {axis}")
    total: Any = 0
    for shape in shapes:
        fits = len(shape) == len(first) and all(
            same(a, b) for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != axis
        )
        operands.require(fits, f"tensors that differ in axis {axis} only")
        total = total + shape[axis]
    return tensor_type([*first[:axis], total, *first[axis + 1 :]], dtype)


def _infer_pad(call: Any) -> Any:
    operands = Operands(call, ["x"])
    width = PadAttrs.of(call).pad_width
    dims = operands.tensor(0, ACTIVATIONS, "[...]")
    operands.require(
        len(width) == 2 * len(dims), f"pad_width of {2 * len(dims)} integers, not {len(width)}"
    )
    extents = [d + width[2 * i] + width[2 * i + 1] for i, d in enumerate(dims)]
    return tensor_type(extents, operands.dtype(0))


def _infer_upsample2d(call: Any) -> Any:
    operands = Operands(call, ["x"])
    scale = Upsample2DAttrs.of(call).scale
    n, h, w, c = operands.image(0, ACTIVATIONS)
    return tensor_type((n, h * scale[0], w * scale[1], c), operands.dtype(0))


def _legalize_concat(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import layout

    axis = ConcatAttrs.of(call).axis
    tensors = call.args[0]
    if isinstance(tensors, relax.Tuple):
        fields = list(tensors.fields)
    else:
        fields = [relax.TupleGetItem(tensors, i) for i in range(len(tensors.ty.fields))]
        fields = [builder.normalize(field) for field in fields]
    return builder.call_te(
        lambda *parts: layout.concat(parts, axis=axis),
        *fields,
        primfunc_name_hint="shiftadd_concat",
    )


def _legalize_pad(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import layout

    return registry.call_te(builder, call, layout.pad, PadAttrs)


def _legalize_upsample2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import layout

    return registry.call_te(builder, call, layout.upsample2d, Upsample2DAttrs)


SPECS = (
    registry.OpSpec(
        "concat",
        "join tensors along an axis",
        (("tensors", "tuple of tensors of one type, on one scale"),),
        _infer_concat,
        _legalize_concat,
    ),
    registry.OpSpec(
        "pad", "zeros around a tensor", (("x", "int8 or uint8"),), _infer_pad, _legalize_pad
    ),
    registry.OpSpec(
        "upsample2d",
        "nearest-neighbour up-sampling",
        (("x", "int8 or uint8 [N, H, W, C]"),),
        _infer_upsample2d,
        _legalize_upsample2d,
    ),
)
