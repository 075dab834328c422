"""The instructions of x86-64: AVX-512 and AVX2, with ``vpdpbusd`` and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from .instructions import ANY, PART, QUAD, InstructionSet, pure, shuffled

_DOT, _WORDS = "vpdpbusd", "vpmaddwd"
#: LLVM's names, by the bytes of a register.
_NAMES = {
    64: {
        _DOT: "llvm.x86.avx512.vpdpbusd.512",
        _WORDS: "llvm.x86.avx512.pmaddw.d.512",
        "vpmaddubsw": "llvm.x86.avx512.pmaddubs.w.512",
        "vpshufb": "llvm.x86.avx512.pshuf.b.512",
        "vpackssdw": "llvm.x86.avx512.packssdw.512",
        "int8": "llvm.x86.avx512.packsswb.512",
        "uint8": "llvm.x86.avx512.packuswb.512",
    },
    32: {
        _DOT: "llvm.x86.avx512.vpdpbusd.256",
        _WORDS: "llvm.x86.avx2.pmadd.wd",
        "vpmaddubsw": "llvm.x86.avx2.pmadd.ub.sw",
        "vpshufb": "llvm.x86.avx2.pshuf.b",
        "vpackssdw": "llvm.x86.avx2.packssdw",
        "int8": "llvm.x86.avx2.packsswb",
        "uint8": "llvm.x86.avx2.packuswb",
    },
}
#: ``vpdpbusd`` by the vectors of outputs of a tile: what it costs, relative to two of them.
_DOT_COST = {1: 1.13, 2: 1.0, 3: 1.03, 4: 1.04}
#: What two sums of products of a byte with a signed byte, at most so large, must not exceed.
_PAIR = 32767 // (2 * 255)


@dataclass(frozen=True)
class X86(InstructionSet):
    """``computed_by`` is "vpdpbusd", or "vpmaddwd" where there is no dot product of bytes.

    ``full_table``: ``vpermb`` looks codes up, which takes six bits of an index and so needs no
    mask; else ``vpshufb`` does.
    """

    full_table: bool = False

    @property
    def unrolled(self) -> int:
        """As ``InstructionSet``: what a ``dot`` of several instructions makes on the way must go.

        The compiler mixes those of two quads, and then has no registers for the sums.
        """
        return super().unrolled if self.computed_by == _DOT else 1

    def _call(self, name: str, *operands: Any, dtype: str) -> Any:
        return pure(_NAMES[self.vector][name], *operands, dtype=self.vector_of(dtype))

    def dot(self, sums: Any, unsigned: Any, signed: Any, most: int = ANY) -> Any:
        """As ``InstructionSet``: one instruction, or products of 16 bits."""
        if self.computed_by == _DOT:
            return self._call(
                _DOT, sums, self.as_bytes(unsigned), self.as_bytes(signed), dtype="int32"
            )
        if most <= _PAIR:
            pairs = self._call(
                "vpmaddubsw", self.as_bytes(unsigned), self.as_bytes(signed), dtype="int16"
            )
            return sums + self._call(_WORDS, pairs, self._words(1), dtype="int32")
        # Two products of bytes would not fit 16 bits: those of even and of odd bytes apart.
        x = T.bind(T.reinterpret(unsigned, dtype=self.vector_of("uint16")))
        w = T.bind(T.reinterpret(signed, dtype=self.vector_of("int16")))
        eight = self._words(8)
        even = T.reinterpret(x, dtype=self.vector_of("int16")) & self._words(255)
        odd = T.reinterpret(x >> T.reinterpret(eight, dtype=str(x.ty.dtype)), dtype=w.ty.dtype)
        sums = sums + self._call(_WORDS, even, (w << eight) >> eight, dtype="int32")
        return sums + self._call(_WORDS, odd, w >> eight, dtype="int32")

    def _words(self, value: int) -> Any:
        return T.broadcast(T.int16(value), self.vector // 2)

    def count(self, sums: Any, unsigned: Any, ones: Any) -> Any:
        """As ``InstructionSet``, by ``dot``."""
        return self.dot(sums, unsigned, ones, 1)

    def decode(self, packed: Any) -> tuple[Any, Any]:
        """As ``InstructionSet``: the table stands in each part of a register."""
        wide = T.reinterpret(packed, dtype=self.vector_of("uint16"))
        high = T.shift_right(wide, T.broadcast(T.uint16(4), self.vector // 2))
        return self._look_up(packed), self._look_up(high)

    def _look_up(self, codes: Any) -> Any:
        index = self.as_bytes(codes)
        if self.full_table:
            name = "llvm.x86.avx512.permvar.qi.512"
            return pure(name, self.table(), index, dtype=self.vector_of("int8"))
        index = index & T.broadcast(T.int8(15), self.vector)
        return self._call("vpshufb", self.table(), index, dtype="int8")

    def narrow(self, sums: Sequence[Any], kind: str, natural: bool) -> Any:
        """As ``InstructionSet``: two rounds, within the parts of registers."""
        words = [self._call("vpackssdw", sums[i], sums[i + 1], dtype="int16") for i in (0, 2)]
        packed = self._call(kind, *words, dtype=kind)
        if not natural:
            return packed
        # Part q holds four bytes of each register's part q.
        parts = self.vector // PART
        order = [part * QUAD + register for register in range(4) for part in range(parts)]
        quads = T.bind(T.reinterpret(packed, dtype=self.vector_of("int32")))
        return T.reinterpret(shuffled([quads], order), dtype=self.vector_of(kind))

    def room(self, vectors: int, most: int = ANY) -> int:
        """As ``InstructionSet``; without ``vpdpbusd`` more is needed on the way."""
        if self.computed_by == _DOT:
            return self.registers - 1 - (vectors + 1)
        if most <= _PAIR:
            return self.registers - 3 - vectors
        return self.registers - 3 - 2 * vectors

    def cost(self, pixels: int, vectors: int, most: int = ANY) -> float:
        """As ``InstructionSet``.

        Of ``vpdpbusd`` fitted to all tiles of six layers on a Zen 5: sums must cover its latency,
        and two vectors of outputs balance loads of inputs and of weights best. Else the
        instructions are counted.
        """
        sums = pixels * vectors
        if self.computed_by == _DOT:
            cycles = max(sums, 12) * _DOT_COST[vectors]
            return cycles * 1.03 if sums > 16 else cycles
        if most <= _PAIR:
            return 3 * sums + pixels + vectors
        return 4 * sums + 3 * pixels + 4 * vectors


AVX512_VBMI = X86(
    "AVX-512 VNNI and VBMI",
    ("avx512f", "avx512bw", "avx512vnni", "avx512vbmi"),
    64,
    32,
    _DOT,
    full_table=True,
)
AVX512_VNNI = X86("AVX-512 VNNI", ("avx512f", "avx512bw", "avx512vnni"), 64, 32, _DOT)
AVX_VNNI = X86("AVX-VNNI", ("avx2", "avxvnni"), 32, 16, _DOT)
AVX512 = X86("AVX-512", ("avx512f", "avx512bw"), 64, 32, _WORDS)
AVX2 = X86("AVX2", ("avx2",), 32, 16, _WORDS)
