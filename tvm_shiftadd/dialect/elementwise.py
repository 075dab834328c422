"""add, which aligns the scales of its operands by shifts, and clip."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import ClipAttrs
from tvm_shiftadd.dialect.types import ACTIVATIONS, INTEGERS, Operands, same_shape, tensor_type
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES

MAX_LEFT_SHIFT = 31


def add(lhs: Any, rhs: Any, lhs_shift: Any, rhs_shift: Any) -> Any:
    """(lhs << lhs_shift) + (rhs << rhs_shift): int8, uint8 or int32 ``[..., C]``
    twice to int32.

    The shifts are int32 constants ``[C]`` or ``[1]``, non-negative; they bring both operands to
    the finer of their scales. Operands have equal shapes. Type inference raises
    VerificationError on operands that do not fit.
    """
    return relax.Call(registry.op("add"), [lhs, rhs, lhs_shift, rhs_shift])


def clip(x: Any, *, lo: int, hi: int) -> Any:
    """min(max(x, lo), hi) on int8 or uint8 of any shape, which the result has too.

    Raises VerificationError, type inference too, if lo and hi are no range of the type.
    """
    return relax.Call(registry.op("clip"), [x], ClipAttrs(lo, hi).to_node())


def _infer_add(call: Any) -> Any:
    operands = Operands(call, ["lhs", "rhs", "lhs_shift", "rhs_shift"])
    lhs = operands.tensor(0, INTEGERS, "[..., C]")
    rhs = operands.tensor(1, INTEGERS, "[..., C]")
    operands.require(same_shape(lhs, rhs), "lhs and rhs of one shape")
    for index in (2, 3):
        operands.channel_vector(index, lhs, 0, MAX_LEFT_SHIFT)
    return tensor_type(lhs, "int32")


def _infer_clip(call: Any) -> Any:
    operands = Operands(call, ["x"])
    attrs = ClipAttrs.of(call)
    dims, dtype = operands.tensor(0, ACTIVATIONS, "[...]"), operands.dtype(0)
    least, most = ACTIVATION_RANGES[dtype]
    operands.require(
        least <= attrs.lo and attrs.hi <= most,
        f"bounds in {least}..{most}, not [{attrs.lo}, {attrs.hi}]",
    )
    return tensor_type(dims, dtype)


def _legalize_add(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import elementwise

    return registry.call_te(builder, call, elementwise.add)


def _legalize_clip(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import elementwise

    return registry.call_te(builder, call, elementwise.clip, ClipAttrs)


SPECS = (
    registry.OpSpec(
        "add",
        "sum of two tensors brought to one scale by left shifts",
        (
            ("lhs", "int8, uint8 or int32, channels last"),
            ("rhs", "int8, uint8 or int32, channels last"),
            ("lhs_shift", "int32 [C] or [1]"),
            ("rhs_shift", "int32 [C] or [1]"),
        ),
        _infer_add,
        _legalize_add,
    ),
    registry.OpSpec(
        "clip", "clamp of stored values", (("x", "int8 or uint8"),), _infer_clip, _legalize_clip
    ),
)
