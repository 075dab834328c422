"""Compute definitions of add, with scales aligned by shifts, and clip."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import of_channel


def add(lhs: Any, rhs: Any, lhs_shift: Any, rhs_shift: Any) -> Any:
    """(lhs << lhs_shift) + (rhs << rhs_shift) in int32.

    lhs and rhs: int8, uint8 or int32 ``[..., C]``. The shifts: int32 ``[C]`` or ``[1]``, in 0..31.
    """

    def body(*i: Any) -> Any:
        left = lhs(*i).astype("int32") << of_channel(lhs_shift, i)
        return left + (rhs(*i).astype("int32") << of_channel(rhs_shift, i))

    return te.compute(lhs.shape, body, name="add")


def clip(x: Any, *, lo: int, hi: int) -> Any:
    """int8 or uint8 ``x`` of any shape limited to [lo, hi]."""
    low, high = tirx.const(lo, x.dtype), tirx.const(hi, x.dtype)
    return te.compute(x.shape, lambda *i: tirx.max(tirx.min(x(*i), high), low), name="clip")
