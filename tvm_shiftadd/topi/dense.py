"""Compute definition of the shift-add matrix product."""

from __future__ import annotations

from .._compat import te
from .terms import Expr, shift_term, unpack_code


def dense(x: te.Tensor, codes: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """Matrix product: int8 or uint8 ``[..., I]`` to int32 ``[..., O]``, bias added.

    ``codes`` is uint8 ``[K, ceil(I/2), O]``, ``bias`` int32 ``[O]``.
    """
    terms, _, outputs = codes.shape
    term = te.reduce_axis((0, terms), "term")
    ci = te.reduce_axis((0, x.shape[-1]), "ci")

    def body(*index: Expr) -> Expr:
        *rows, o = index
        return te.sum(shift_term(x(*rows, ci), unpack_code(codes, term, ci, o)), axis=[term, ci])

    total = te.compute((*x.shape[:-1], outputs), body, name="accumulator")
    return te.compute(total.shape, lambda *i: total(*i) + bias[i[-1]], name="biased")
