"""Two codes a byte: along the reduction axis, even index in the low nibble, odd in the high."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.codes import decode


def packed_rows(reduction: int) -> int:
    """The rows of packed bytes that hold ``reduction`` codes."""
    return (reduction + 1) // 2


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack codes uint8 ``[K, R, O]`` into uint8 ``[K, ceil(R/2), O]``.

    Where R is odd the last high nibble is 0. Raises InputError for another rank or dtype, or a
    code above 15.
    """
    if codes.dtype != np.uint8 or codes.ndim != 3:
        raise InputError(
            f"codes to pack must be uint8 [K, R, O], not {codes.dtype} {list(codes.shape)}; "
            "flatten the reduction axes first"
        )
    if codes.size and int(codes.max()) > 15:
        raise InputError(f"a code must be at most 15, not {int(codes.max())}; encode again")
    packed = codes[:, 0::2].copy()
    odd = codes[:, 1::2]
    packed[:, : odd.shape[1]] |= odd << 4
    return packed


def unpack(packed: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """Unpack uint8 ``[K, ceil(R/2), O]`` into codes uint8 ``[K, R, O]``, R = ``reduction``.

    Raises InputError for another rank or dtype, a number of rows that does not hold
    ``reduction`` codes, or an unused nibble that is not 0.
    """
    if packed.dtype != np.uint8 or packed.ndim != 3:
        raise InputError(
            f"packed codes must be uint8 [K, ceil(R/2), O], not {packed.dtype} "
            f"{list(packed.shape)}; pass the array that pack() made"
        )
    if packed.shape[1] != packed_rows(reduction):
        raise InputError(
            f"{reduction} codes need {packed_rows(reduction)} packed rows, not "
            f"{packed.shape[1]}; pass the reduction length of this layer"
        )
    if reduction % 2 and bool((packed[:, -1] >> 4).any()):
        raise InputError(
            "the unused high nibble after an odd number of codes must be 0; "
            "the packed codes are damaged, so pack them again"
        )
    codes = np.empty((packed.shape[0], reduction, packed.shape[2]), dtype=np.uint8)
    codes[:, 0::2] = packed & 15
    codes[:, 1::2] = packed[:, : reduction // 2] >> 4
    return codes


def decode_packed(packed: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.int32]:
    """The integer weights of packed codes: int32 of ``shape``, output channels last.

    ``shape`` is for instance ``[kh, kw, I/groups, O]`` or ``[I, O]``; all axes but the last are
    the reduction, in that order. Raises InputError for damaged codes or a shape that does not fit.
    """
    reduction = int(np.prod(shape[:-1], dtype=np.int64))
    weight = decode(unpack(packed, reduction))
    if weight.shape[1] != shape[-1]:
        raise InputError(
            f"packed codes hold {weight.shape[1]} output channels, not {shape[-1]}; "
            "pass the weight shape of this layer"
        )
    return weight.reshape(tuple(shape))
