"""Transposing 16 x 16 blocks in registers: channels-last to planes and back.

Both are written with shuffles of TensorIR, which LLVM turns into instructions of the machine it
compiles for, so neither needs an intrinsic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx

from .geometry import BLOCK

_SIZE = BLOCK * BLOCK
_ROUNDS = BLOCK.bit_length() - 1
_QUARTERS = range(0, BLOCK, 4)


def _shuffle(vectors: Sequence[Any], elements: Sequence[int]) -> Any:
    return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", index) for index in elements])


def transpose_bytes(rows: Sequence[Any]) -> list[Any]:
    """The columns of 16 vectors of 16 bytes: four perfect shuffles of all 256 elements."""
    order = [i // 2 + (i % 2) * (_SIZE // 2) for i in range(_SIZE)]
    vector = _shuffle(rows, order)
    for _ in range(_ROUNDS - 1):
        vector = _shuffle([vector], order)
    block = T.bind(vector)
    return [_shuffle([block], range(i * BLOCK, (i + 1) * BLOCK)) for i in range(BLOCK)]


def _pairs(width: int, half: int) -> list[int]:
    """Interleave elements of ``width`` from one half of each quarter of two vectors."""
    order = []
    for quarter in _QUARTERS:
        for start in range(quarter + 2 * half, quarter + 2 * half + 2, width):
            order += [*range(start, start + width), *range(BLOCK + start, BLOCK + start + width)]
    return order


def _quarters(odd: int) -> list[int]:
    """The even or the odd quarters of two vectors."""
    order = [i for quarter in _QUARTERS[odd::2] for i in range(quarter, quarter + 4)]
    return order + [BLOCK + i for i in order]


def transpose_words(rows: Sequence[Any]) -> list[Any]:
    """The columns of 16 vectors of 16 elements of 32 bits.

    Elements, then pairs, then quarters of two vectors at a time are put side by side: four rounds
    of sixteen shuffles, each one instruction with 512-bit vectors.
    """

    def both(a: Any, b: Any, orders: Sequence[Sequence[int]]) -> list[Any]:
        return [T.bind(_shuffle([a, b], order)) for order in orders]

    ones, twos = ([_pairs(width, half) for half in (0, 1)] for width in (1, 2))
    quarters = [_quarters(odd) for odd in (0, 1)]
    paired = [both(rows[i], rows[i + 1], ones) for i in range(0, BLOCK, 2)]
    # fours[g][c]: quarter q holds rows 4g to 4g + 3 of column 4q + c.
    fours = [
        [v for half in (0, 1) for v in both(paired[i][half], paired[i + 1][half], twos)]
        for i in range(0, BLOCK // 2, 2)
    ]
    columns: list[Any] = [None] * BLOCK
    for c in range(4):
        upper = both(fours[0][c], fours[1][c], quarters)
        lower = both(fours[2][c], fours[3][c], quarters)
        for odd in (0, 1):
            columns[4 * odd + c], columns[8 + 4 * odd + c] = both(upper[odd], lower[odd], quarters)
    return columns
