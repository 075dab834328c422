"""One weight term in TensorIR: the shift, the sign and the zero of a 4-bit code.

These expressions are the definition every kernel is held to. They hold no multiplication of data:
what is multiplied is at most an address.
"""

from __future__ import annotations

from typing import Any

from .._compat import te, tirx

#: A data axis size or index of TensorIR: a Python int or a PrimExpr.
Expr = Any


def unpack_code(codes: te.Tensor, term: Expr, row: Expr, output: Expr) -> Expr:
    """Code (int32, 0..15) of ``term`` at reduction index ``row`` of packed codes.

    ``codes`` is uint8 ``[K, ceil(R/2), O]``; an even row is in the low nibble, an odd one in the
    high nibble.
    """
    byte = codes[term, tirx.indexdiv(row, 2), output].astype("int32")
    shift = tirx.indexmod(row, 2).astype("int32") << 2
    return (byte >> shift) & 15


def shift_term(x: Expr, code: Expr) -> Expr:
    """Value x times one term, by a shift: 0 if the magnitude m is 0, else +-(x << (m - 1)); int32.

    Written as ``(x << m) >> 1``, which is exact and needs no shift by -1 for m = 0.
    """
    magnitude = code & 7
    shifted = (x.astype("int32") << magnitude) >> 1
    positive = tirx.Select(magnitude == 0, tirx.const(0, "int32"), shifted)
    # Unary minus would be a product with -1 in TensorIR.
    return tirx.Select((code & 8) != 0, tirx.const(0, "int32") - positive, positive)


def code_or_sum(codes: te.Tensor, row: Expr, output: Expr) -> Expr:
    """The code of a weight of one term, or the value of a weight of several; int32.

    ``codes`` is packed as for ``unpack_code``.
    """
    terms = int(codes.shape[0])
    if terms == 1:
        return unpack_code(codes, 0, row, output)
    one = tirx.const(1, "int32")
    total = tirx.const(0, "int32")
    for term in range(terms):
        total = total + shift_term(one, unpack_code(codes, term, row, output))
    return total
