"""The instructions that the fused kernels are made of, as TensorIR expressions.

An instruction set looks codes up in a register, adds products of bytes to 32-bit sums, and narrows
sums to bytes. ``x86`` and ``arm`` have one class each; ``sets`` lists those that there are. Their
products are those of a shift-add layer's definition computed in another way.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.formats.codes import DECODE_TABLE, MAX_EXPONENT

#: Bytes that one 32-bit sum takes from an operand.
QUAD = 4
#: Bytes of the parts of a vector register within which instructions move bytes.
PART = 16
#: The largest magnitude of weights of one term, and of any.
ONE_TERM, ANY = 1 << MAX_EXPONENT, 128

TABLE = struct.unpack("<4i", DECODE_TABLE.astype("int8").tobytes())


@dataclass(frozen=True)
class InstructionSet(ABC):
    """Vector instructions of a processor, and how the kernels use them.

    ``name`` is for people, ``features`` what LLVM calls all that a processor must have; a vector
    register has ``vector`` bytes, and there are ``registers``. ``computed_by`` is the instruction
    that stands for the shifts of a layer's definition.
    """

    name: str
    features: tuple[str, ...]
    vector: int
    registers: int
    computed_by: str

    @property
    def unrolled(self) -> int:
        """Calls of ``dot`` in a turn of a kernel's innermost loop at most."""
        return 112

    @property
    def lanes(self) -> int:
        """32-bit sums of a vector register."""
        return self.vector // QUAD

    @abstractmethod
    def dot(self, sums: Any, unsigned: Any, signed: Any, most: int = ANY) -> Any:
        """``sums`` plus the products of a register of unsigned and one of signed bytes.

        Four neighbouring ones go into a sum; ``most`` is the largest magnitude of the signed.
        """

    @abstractmethod
    def count(self, sums: Any, unsigned: Any, ones: Any) -> Any:
        """``sums`` plus those of four neighbouring unsigned bytes where ``ones`` are 1, not 0."""

    @abstractmethod
    def decode(self, packed: Any) -> tuple[Any, Any]:
        """The values of the low and of the high codes of a register of bytes, a register each."""

    @abstractmethod
    def narrow(self, sums: Sequence[Any], kind: str, natural: bool) -> Any:
        """The values of four registers of sums, saturated to int8 or uint8, in one.

        In their natural order, or in that of the bytes which ``interleave`` was given.
        """

    @abstractmethod
    def room(self, vectors: int, most: int = ANY) -> int:
        """Registers for sums, beside those that a tile's inputs and weights go through.

        ``vectors`` of weights are used for each input, their magnitudes at most ``most``.
        """

    @abstractmethod
    def cost(self, pixels: int, vectors: int, most: int = ANY) -> float:
        """Cycles, up to a constant, in which a tile adds a quad of the reduction."""

    def zero(self, byte: int) -> int:
        """What ``dot`` takes the unsigned byte that stands for zero as."""
        return byte

    def as_bytes(self, register: Any) -> Any:
        """A register's content as signed bytes."""
        return T.reinterpret(register, dtype=f"int8x{self.vector}")

    def vector_of(self, kind: str) -> str:
        """The type of a register of elements of 8, 16 or 32 bits."""
        return f"{kind}x{8 * self.vector // int(kind.lstrip('uint'))}"

    def every(self, value: int) -> Any:
        """A 32-bit integer in every lane."""
        return T.broadcast(T.int32(value), self.lanes)

    def spread_quad(self, buffer: Any, *index: Any) -> Any:
        """Four neighbouring bytes of a uint8 buffer, in each lane."""
        quad = T.reinterpret(buffer.vload(list(index), dtype="uint8x4"), dtype="int32")
        return T.broadcast(quad, self.lanes)

    def table(self) -> Any:
        """The values of the sixteen codes, in each part of a register."""
        return self.as_bytes(_words([TABLE[lane % QUAD] for lane in range(self.lanes)]))

    def ones(self, counted: Sequence[bool]) -> Any:
        """A register of bytes: 1 where counted, else 0."""
        return self.as_bytes(_words(struct.unpack(f"<{self.lanes}i", bytes(map(int, counted)))))

    def sum_of_lanes(self, sums: Any) -> Any:
        """The sum of a register's lanes, int32."""
        return pure(f"llvm.vector.reduce.add.v{self.lanes}i32", sums, dtype="int32")

    def interleave(self, rows: Sequence[Any]) -> list[Any]:
        """Four registers of bytes to four of quads, one byte of each row.

        Element j of part q of result r is of the rows' byte 16 q + 4 r + j.
        """
        first = [
            self._zip(rows[2 * i], rows[2 * i + 1], "uint8", half)
            for i in (0, 1)
            for half in (0, 1)
        ]
        low, high = (first[0], first[2]), (first[1], first[3])
        return [self._zip(*pair, "uint16", half) for pair in (low, high) for half in (0, 1)]

    def _zip(self, left: Any, right: Any, kind: str, half: int) -> Any:
        """Elements of the lower or upper half of each part of two registers, by turns."""
        part = PART if kind == "uint8" else PART // 2
        count = self.vector // PART * part
        order = [
            element + side * count
            for start in range(0, count, part)
            for element in range(start + half * part // 2, start + (half + 1) * part // 2)
            for side in (0, 1)
        ]
        operands = [T.bind(T.reinterpret(side, dtype=f"{kind}x{count}")) for side in (left, right)]
        return T.bind(shuffled(operands, order))


def pure(name: str, *operands: Any, dtype: str) -> Any:
    """A call of one of LLVM's intrinsics, which has no effect but its result."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *operands, dtype=dtype)


def shuffled(vectors: Sequence[Any], order: Sequence[int]) -> Any:
    """The elements of vectors in another order."""
    return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", index) for index in order])


def _words(values: Sequence[int]) -> Any:
    return shuffled([tirx.IntImm("int32", value) for value in values], range(len(values)))


def fetch(buffer: Any, shape: Sequence[int], at: Any) -> None:
    """Bring the line at a flat position of a buffer into the second-level cache.

    It may lie behind the buffer's end: fetching ahead never faults.
    """
    index = (*(0 for _ in shape[1:]), at)
    place = T.address_of(buffer[index])
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", place, 0, 2, 1))
