"""Transposing 16 x 16 blocks in registers: channels-last to planes and back.

A transpose is four rounds of a perfect shuffle of all 256 elements. LLVM turns each round into
the two-input shuffles of the machine it compiles for, so this needs no intrinsic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import tirx

from .geometry import BLOCK

_SIZE = BLOCK * BLOCK
_ROUNDS = BLOCK.bit_length() - 1


def _indices(values: Sequence[int]) -> list[Any]:
    return [tirx.IntImm("int32", value) for value in values]


def transpose_rows(rows: Sequence[Any]) -> Any:
    """One vector of 256 elements, the transpose of 16 vectors of 16."""
    shuffle = _indices([i // 2 + (i % 2) * (_SIZE // 2) for i in range(_SIZE)])
    vector = tirx.Shuffle(list(rows), shuffle)
    for _ in range(_ROUNDS - 1):
        vector = tirx.Shuffle([vector], shuffle)
    return vector


def row_of(vector: Any, row: int) -> Any:
    """Sixteen elements of a vector of 256."""
    return tirx.Shuffle([vector], _indices(range(row * BLOCK, (row + 1) * BLOCK)))
