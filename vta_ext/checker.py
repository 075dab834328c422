"""Proves before launch that a program is safe to run, or says which instruction is not.

Checked are: bounds of buffers and DRAM sections; reads of what nothing has written; accesses of
two modules that no token orders; hazards of the accumulator pipeline; tokens that never come or
are left over; and, where ranges are asked for, sums that do not fit 32 bits and results that do
not fit 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from tvm_shiftadd.errors import ProgramError
from vta_ext.checks.memory import check_memory
from vta_ext.checks.order import order
from vta_ext.checks.ranges import check_ranges
from vta_ext.checks.violation import Violation
from vta_ext.program import Program

__all__ = ["Violation", "check", "require"]


def check(
    program: Program,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    limit: int = 20,
) -> list[Violation]:
    """The first ``limit`` reasons why ``program`` may not run; none if it may.

    ``ranges`` asks for the proof that nothing overflows: least and greatest value in each section
    that has no contents, by name; a section that is not named holds any value of its type, so an
    empty mapping is enough. A program that cannot end is reported as that alone, and one whose
    memory accesses are wrong without ranges.
    """
    known, found = order(program)
    if known is not None:
        found += islice(check_memory(program, known), limit)
    if not found and ranges is not None:
        found += islice(check_ranges(program, ranges), limit)
    return found[:limit]


def require(program: Program, ranges: Mapping[str, tuple[int, int]] | None = None) -> None:
    """Raise ProgramError with the first violation; arguments as in :func:`check`."""
    found = check(program, ranges, limit=1)
    if found:
        raise ProgramError(f"the program is not safe to run: {found[0]}")
