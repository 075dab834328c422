"""The instruction sets that there are kernels for, and which of them a processor has."""

from __future__ import annotations

from collections.abc import Callable

from .arm import DOTPROD, I8MM
from .instructions import InstructionSet
from .x86 import AVX2, AVX512, AVX512_VBMI, AVX512_VNNI, AVX_VNNI

#: The best first.
SETS: tuple[InstructionSet, ...] = (
    AVX512_VBMI,
    AVX512_VNNI,
    AVX_VNNI,
    AVX512,
    AVX2,
    I8MM,
    DOTPROD,
)


def choose(has: Callable[[str], bool]) -> InstructionSet | None:
    """The best set of which a processor ``has`` every feature; None where it has none."""
    return next((one for one in SETS if all(map(has, one.features))), None)
