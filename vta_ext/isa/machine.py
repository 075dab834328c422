"""The state of one machine: DRAM and buffers as arrays, zero at the start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.codes import CODE_BITS
from vta_ext.config import Config

#: The most DRAM that a machine is given: dram_base has 32 bits, elements have at least a byte.
MAX_DRAM_BYTES = 1 << 32


class Machine:
    """Arrays of one machine.

    dram: uint8 ``[bytes]``. uop: uint32 ``[depth]``. inp: int16 ``[depth, batch, block]``, of
    which nine bits are used. wgt: uint8 ``[depth, slot bytes]``. acc: int32, out: int8, both
    ``[depth, batch, block]``.
    """

    def __init__(self, config: Config, dram_bytes: int) -> None:
        if not 0 <= dram_bytes <= MAX_DRAM_BYTES:
            raise InputError(
                f"a machine can have 0 to {MAX_DRAM_BYTES} bytes of DRAM, not {dram_bytes}"
            )
        shape = (config.batch, config.block)
        self.config = config
        self.dram = np.zeros(dram_bytes, np.uint8)
        self.uop = np.zeros(config.uop_depth, np.uint32)
        self.inp = np.zeros((config.inp_depth, *shape), np.int16)
        self.wgt = np.zeros((config.wgt_depth, config.wgt_slot_bytes), np.uint8)
        self.acc = np.zeros((config.acc_depth, *shape), np.int32)
        self.out = np.zeros((config.acc_depth, *shape), np.int8)

    def integer_weights(self, index: NDArray[np.int64]) -> NDArray[np.int8]:
        """Entries of the weight buffer as int8 ``[n, block (output), block (input)]``."""
        block = self.config.block
        raw = self.wgt[index, : self.config.wgt_bytes]
        return np.ascontiguousarray(raw).view(np.int8).reshape(-1, block, block)

    def term_codes(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Entries of the weight buffer as codes uint8 ``[n, block (output), block (input)]``."""
        block = self.config.block
        return unpack_codes(self.wgt[index, : self.config.code_bytes]).reshape(-1, block, block)


def unpack_codes(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes of bytes ``[..., n]``: uint8 ``[..., 2 n]``, the low nibble of each byte first."""
    mask = (1 << CODE_BITS) - 1
    pairs = np.stack([data & mask, data >> CODE_BITS], axis=-1)
    return pairs.reshape(*data.shape[:-1], 2 * data.shape[-1])


def pack_codes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes of codes ``[..., 2 n]``; the inverse of :func:`unpack_codes`."""
    return np.asarray(codes[..., 0::2] | (codes[..., 1::2] << CODE_BITS), np.uint8)
