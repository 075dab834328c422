"""Four-bit term codes: a weight is the sum of one to three signed powers of two.

Bit 3 of a code is the sign, bits 0 to 2 the magnitude ``m``: ``m = 0`` is zero, any other ``m``
is ``2**(m - 1)``. Code 8, minus zero, is never written and is refused when read.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ConversionError, InputError

#: Bits of one term.
CODE_BITS = 4
#: The largest exponent of a term: terms are 0 and +-2^0 to +-2^6.
MAX_EXPONENT = 6
#: The most terms a weight may have.
MAX_TERMS = 3
#: The one code that has no meaning.
MINUS_ZERO = 8

#: int8 ``[16]``: the value of each code. The entry of minus zero is 0; :func:`decode` refuses it.
DECODE_TABLE: NDArray[np.int8] = np.array(
    [0, 1, 2, 4, 8, 16, 32, 64, 0, -1, -2, -4, -8, -16, -32, -64], dtype=np.int8
)
DECODE_TABLE.setflags(write=False)

#: The largest decoded magnitude: 64 + 32 + 16.
_LIMIT = 112


def _check_terms(terms: int) -> None:
    if terms not in range(1, MAX_TERMS + 1):
        raise InputError(
            f"a weight has 1 to {MAX_TERMS} terms, not {terms!r}; ask for a number in that range"
        )


def validate(codes: NDArray[np.uint8]) -> None:
    """Check codes ``[K, ...]``, one unpacked code an element.

    Raises InputError where the array is not uint8 with K in 1 to 3 planes, a code is above 15 or
    is minus zero, or a weight uses one exponent twice.
    """
    if codes.dtype != np.uint8 or codes.ndim < 1 or codes.shape[0] not in range(1, MAX_TERMS + 1):
        raise InputError(
            f"codes must be uint8 [K, ...] with K in 1 to {MAX_TERMS}, "
            f"not {codes.dtype} {list(codes.shape)}; unpack them first"
        )
    if codes.size == 0:
        return
    if int(codes.max()) >= 1 << CODE_BITS:
        raise InputError(
            f"a code must be at most 15, not {int(codes.max())}; "
            "packed bytes must be unpacked before they are read as codes"
        )
    if bool((codes == MINUS_ZERO).any()):
        raise InputError(
            "a zero term must be code 0, not code 8 (minus zero); "
            "the codes are damaged or another program wrote them, so encode the weights again"
        )
    magnitude = codes & 7
    for first, second in combinations(range(codes.shape[0]), 2):
        if bool(((magnitude[first] == magnitude[second]) & (magnitude[first] != 0)).any()):
            raise InputError(
                f"the terms of a weight must have distinct exponents, but planes {first} and "
                f"{second} share one; encode the weights again"
            )


def decode(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The integer weights of codes ``[K, ...]``: int32 ``[...]``, each the sum of its K terms.

    Raises InputError for codes that :func:`validate` refuses.
    """
    validate(codes)
    # At most 112 in magnitude, so summing in int8 cannot overflow and stays fast.
    total = DECODE_TABLE[codes[0]]
    for plane in codes[1:]:
        total = total + DECODE_TABLE[plane]
    return np.asarray(total, dtype=np.int32)


@cache
def _canonical(terms: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Codes ``[terms, 225]`` of the values -112 to 112 and which of those exist."""
    table = np.zeros((terms, 2 * _LIMIT + 1), dtype=np.uint8)
    known = np.zeros(2 * _LIMIT + 1, dtype=np.bool_)
    for count in range(terms + 1):
        # combinations() of a descending sequence comes with large exponents first; reversing the
        # list puts the smallest leading exponent first, and the first one found is kept.
        for exponents in sorted(combinations(range(MAX_EXPONENT, -1, -1), count)):
            for signs in product((1, -1), repeat=count):
                value = sum(s << e for s, e in zip(signs, exponents, strict=True))
                if known[value + _LIMIT]:
                    continue
                known[value + _LIMIT] = True
                for plane, (sign, exponent) in enumerate(zip(signs, exponents, strict=True)):
                    table[plane, value + _LIMIT] = exponent + 1 + (MINUS_ZERO if sign < 0 else 0)
    table.setflags(write=False)
    known.setflags(write=False)
    return table, known


@cache
def _representable(terms: int) -> NDArray[np.int32]:
    values = (np.flatnonzero(_canonical(terms)[1]) - _LIMIT).astype(np.int32)
    values.setflags(write=False)
    return values


def representable(terms: int) -> NDArray[np.int32]:
    """Every value that ``terms`` terms can make, int32, ascending (read-only).

    Raises InputError for ``terms`` outside 1 to 3.
    """
    _check_terms(terms)
    return _representable(terms)


def encode(values: NDArray[np.signedinteger], terms: int) -> NDArray[np.uint8]:
    """The canonical codes of integer ``values [...]``: uint8 ``[terms, ...]``.

    Canonical: the fewest terms; among those the smallest exponents compared from the largest
    down (3 is 2 + 1, not 4 - 1); the larger exponent in the earlier plane; zeros last.
    Raises InputError for ``terms`` outside 1 to 3 or values that are not integers, and
    ConversionError for a value that this many terms cannot make.
    """
    _check_terms(terms)
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise InputError(f"values to encode must be integers, not {values.dtype}; round them first")
    table, known = _canonical(terms)
    inside = (values >= -_LIMIT) & (values <= _LIMIT)
    index = np.where(inside, values, 0).astype(np.intp) + _LIMIT
    good = inside & known[index]
    if not bool(good.all()):
        bad = int(values[~good].flat[0])
        raise ConversionError(
            f"{terms} term(s) of +-2^0 to +-2^{MAX_EXPONENT} cannot make {bad}; "
            "choose the nearest value of representable(terms)"
        )
    return np.ascontiguousarray(table[:, index])


def count_terms(codes: NDArray[np.uint8]) -> int:
    """How many terms of ``codes`` are not zero; works on unpacked codes of any shape."""
    return int(np.count_nonzero(codes))
