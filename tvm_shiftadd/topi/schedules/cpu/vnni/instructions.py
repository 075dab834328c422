"""The instructions that the VNNI kernels are made of, as TensorIR expressions.

Two instructions of AVX-512 carry them: ``vpermb`` looks 64 bytes up in a table of 64 bytes, and
``vpdpbusd`` adds to each of sixteen 32-bit sums the products of four unsigned and four signed
bytes. Their products are those of a shift-add layer's definition computed in another way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.formats.codes import DECODE_TABLE

#: Bytes of a vector register, 32-bit sums in one, bytes that one sum takes from an operand.
VECTOR, LANES, QUAD = 64, 16, 4

_PERMUTE = "llvm.x86.avx512.permvar.qi.512"
_DOT = "llvm.x86.avx512.vpdpbusd.512"
_TABLE = struct.unpack("<4i", DECODE_TABLE.astype("int8").tobytes())


def _pure(name: str, *operands: Any, dtype: str) -> Any:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *operands, dtype=dtype)


def bytes_of(vector: Any) -> Any:
    """A vector register's content as 64 signed bytes."""
    return T.reinterpret(vector, dtype="int8x64")


def dot(sums: Any, unsigned: Any, signed: Any) -> Any:
    """``sums`` (int32x16) plus the products of 64 unsigned and 64 signed bytes, four a sum."""
    return _pure(_DOT, sums, bytes_of(unsigned), bytes_of(signed), dtype="int32x16")


def decode(packed: Any) -> tuple[Any, Any]:
    """The values (int8x64 each) of the 64 low and of the 64 high codes of a vector of bytes.

    The table of sixteen values stands in the register four times: the instruction takes six bits
    of an index, and the upper two are then of no effect.
    """
    words = [tirx.IntImm("int32", _TABLE[lane % 4]) for lane in range(LANES)]
    table = bytes_of(tirx.Shuffle(words, [tirx.IntImm("int32", lane) for lane in range(LANES)]))
    wide = T.reinterpret(packed, dtype="uint16x32")
    high = T.shift_right(wide, T.broadcast(T.uint16(4), VECTOR // 2))
    low, high = bytes_of(packed), bytes_of(high)
    return (
        _pure(_PERMUTE, table, low, dtype="int8x64"),
        _pure(_PERMUTE, table, high, dtype="int8x64"),
    )


def spread_quad(buffer: Any, *index: Any) -> Any:
    """Four neighbouring bytes of a uint8 buffer, in each of the sixteen lanes of a vector."""
    quad = T.reinterpret(buffer.vload(list(index), dtype="uint8x4"), dtype="int32")
    return T.broadcast(quad, LANES)


def interleave(rows: list[Any]) -> list[Any]:
    """Four vectors of 64 bytes to four of sixteen quads, one byte of each row.

    Element j of quarter q of result r is of the rows' byte 16 q + 4 r + j.
    """
    first = [_zip(rows[2 * i], rows[2 * i + 1], "uint8", half) for i in (0, 1) for half in (0, 1)]
    low, high = (first[0], first[2]), (first[1], first[3])
    return [_zip(*pair, "uint16", half) for pair in (low, high) for half in (0, 1)]


def _zip(left: Any, right: Any, kind: str, half: int) -> Any:
    """Elements of the lower or upper half of each quarter of two vectors, by turns."""
    count = VECTOR if kind == "uint8" else VECTOR // 2
    quarter = count // 4
    order = [
        element + side * count
        for start in range(0, count, quarter)
        for element in range(start + half * quarter // 2, start + (half + 1) * quarter // 2)
        for side in (0, 1)
    ]
    operands = [T.bind(T.reinterpret(side, dtype=f"{kind}x{count}")) for side in (left, right)]
    return T.bind(tirx.Shuffle(operands, [tirx.IntImm("int32", index) for index in order]))


def narrow(sums: list[Any], kind: str, natural: bool) -> Any:
    """The 64 values of four vectors int32x16, saturated to int8 or uint8.

    In their natural order, or in that of the bytes which ``interleave`` was given.
    """
    words = [
        _pure("llvm.x86.avx512.packssdw.512", sums[i], sums[i + 1], dtype="int16x32")
        for i in (0, 2)
    ]
    pack = "packsswb" if kind == "int8" else "packuswb"
    packed = _pure(f"llvm.x86.avx512.{pack}.512", *words, dtype=f"{kind}x64")
    if not natural:
        return packed
    # Quarter q holds four bytes of each vector's quarter q.
    order = [quarter * QUAD + vector for vector in range(4) for quarter in range(4)]
    quads = T.bind(T.reinterpret(packed, dtype="int32x16"))
    moved = tirx.Shuffle([quads], [tirx.IntImm("int32", index) for index in order])
    return T.reinterpret(moved, dtype=f"{kind}x64")


def fetch(buffer: Any, shape: Sequence[int], at: Any) -> None:
    """Bring the line at a flat position of a buffer into the second-level cache.

    It may lie behind the buffer's end: fetching ahead never faults.
    """
    index = (*(0 for _ in shape[1:]), at)
    place = T.address_of(buffer[index])
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", place, 0, 2, 1))


def ones(counted: Sequence[bool]) -> Any:
    """64 bytes: 1 where counted, else 0."""
    words = struct.unpack("<16i", bytes(map(int, counted)))
    lanes = [tirx.IntImm("int32", word) for word in words]
    return bytes_of(tirx.Shuffle(lanes, [tirx.IntImm("int32", lane) for lane in range(LANES)]))


def sum_of_lanes(sums: Any) -> Any:
    """The sum of a vector's sixteen, int32."""
    return _pure("llvm.vector.reduce.add.v16i32", sums, dtype="int32")
