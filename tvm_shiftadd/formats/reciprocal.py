"""Division by a constant with shifts and adds, for average pooling.

``sum / count`` becomes ``sum(sign * (total << left_shift)) / 2**shift``. The terms are the
non-adjacent form (no two neighbouring bits used) of an integer near ``2**shift / count``: of all
signed-binary forms it has the fewest terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from tvm_shiftadd.errors import InputError, RangeError

#: The largest relative error of a reciprocal.
TOLERANCE = Fraction(1, 1 << 10)

#: A sum of activations times 2^shift / count stays below 255 * 2^22 * 4/3 < 2^31, partial sums
#: included.
MAX_SHIFT = 22

#: (sign, left_shift), largest shift first.
Terms = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reciprocal:
    """``1 / count`` is about ``sum(sign << left_shift for sign, left_shift in terms[count])``
    times ``2**-shift``, for each count; all counts share ``shift``.
    """

    shift: int
    terms: Mapping[int, Terms]

    def value(self, count: int) -> Fraction:
        """The number that stands for ``1 / count``, exactly."""
        return Fraction(sum(sign << left for sign, left in self.terms[count]), 1 << self.shift)


def non_adjacent_form(value: int) -> Terms:
    """The non-adjacent form of a positive integer, largest power first."""
    terms: list[tuple[int, int]] = []
    position = 0
    while value:
        if value & 1:
            sign = 2 - (value & 3)
            terms.append((sign, position))
            value -= sign
        value >>= 1
        position += 1
    return tuple(reversed(terms))


@cache
def _search(count: int) -> tuple[int, Terms]:
    """(shift, terms) of one count: fewest terms, then the smallest shift, then smallest error."""
    best: tuple[int, int, Fraction, Terms] | None = None
    # Twelve bits beyond the count's own: a further bit cannot save a term, because a term below
    # 2^-12 of the value could as well be 2^-12 without leaving an interval 2^-9 wide.
    for shift in range(min(count.bit_length() + 12, MAX_SHIFT) + 1):
        scale = 1 << shift
        low = -(-scale * (1 - TOLERANCE) // count)
        high = scale * (1 + TOLERANCE) // count
        for value in range(max(int(low), 1), int(high) + 1):
            terms = non_adjacent_form(value)
            error = abs(Fraction(value * count, scale) - 1)
            if best is None or (len(terms), shift, error) < best[:3]:
                best = (len(terms), shift, error, terms)
    if best is None:
        raise RangeError(
            f"averaging over {count} elements needs more than the {MAX_SHIFT} bits that an int32 "
            "sum leaves for its reciprocal; keep this pooling on the host"
        )
    return best[1], best[3]


def reciprocal(counts: Sequence[int]) -> Reciprocal:
    """Shift-add reciprocals of every count of one pooling operator, on one shared shift.

    Each has the fewest non-adjacent-form terms with a relative error of at most 2^-10; powers of
    two have one term and no error. Raises InputError for no count or one below 1, and RangeError
    for a count whose reciprocal times a sum of activations does not fit int32 (none up to 8280).
    """
    distinct = sorted({int(count) for count in counts})
    if not distinct or distinct[0] < 1:
        raise InputError(
            f"a pooling window needs counts of at least 1, not {list(counts)!r}; "
            "pass the number of elements that are averaged"
        )
    found = {count: _search(count) for count in distinct}
    shift = max(own for own, _ in found.values())
    return Reciprocal(
        shift,
        {
            count: tuple((sign, left + shift - own) for sign, left in terms)
            for count, (own, terms) in found.items()
        },
    )
