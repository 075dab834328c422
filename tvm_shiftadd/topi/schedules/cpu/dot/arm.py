"""The instructions of AArch64: the dot products of bytes, and look-ups by ``tbl``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from .instructions import ANY, InstructionSet, pure, shuffled

_NEON = "llvm.aarch64.neon."


@dataclass(frozen=True)
class Neon(InstructionSet):
    """``computed_by`` is "usdot", or "sdot" where unsigned and signed bytes do not go together.

    ``sdot`` takes inputs with the top bit flipped: what that leaves out, 128 times the sum of the
    weights, is in the bias.
    """

    def _dot(self, name: str, sums: Any, left: Any, right: Any) -> Any:
        name = f"{_NEON}{name}.v4i32.v16i8"
        return pure(name, sums, self.as_bytes(left), self.as_bytes(right), dtype="int32x4")

    def dot(self, sums: Any, unsigned: Any, signed: Any, most: int = ANY) -> Any:
        """As ``InstructionSet``."""
        if self.computed_by == "sdot":
            unsigned = self.as_bytes(unsigned) ^ T.broadcast(T.int8(-128), self.vector)
            # Of its second operand the instruction itself repeats four bytes: those of the input.
            return self._dot(self.computed_by, sums, signed, unsigned)
        return self._dot(self.computed_by, sums, unsigned, signed)

    def zero(self, byte: int) -> int:
        """As ``InstructionSet``."""
        return byte - 128 if self.computed_by == "sdot" else byte

    def count(self, sums: Any, unsigned: Any, ones: Any) -> Any:
        """As ``InstructionSet``."""
        return self._dot("udot", sums, unsigned, ones)

    def decode(self, packed: Any) -> tuple[Any, Any]:
        """As ``InstructionSet``."""
        low = self.as_bytes(packed) & T.broadcast(T.int8(15), self.vector)
        high = packed >> T.broadcast(T.uint8(4), self.vector)
        found = [
            pure(f"{_NEON}tbl1.v16i8", self.table(), self.as_bytes(codes), dtype="int8x16")
            for codes in (low, high)
        ]
        return found[0], found[1]

    def narrow(self, sums: Sequence[Any], kind: str, natural: bool) -> Any:
        """As ``InstructionSet``; a register is a single part, so that both orders are one."""
        words = [pure(f"{_NEON}sqxtn.v4i16", four, dtype="int16x4") for four in sums]
        pairs = [shuffled(words[i : i + 2], range(8)) for i in (0, 2)]
        name = f"{_NEON}{'sqxtn' if kind == 'int8' else 'sqxtun'}.v8i8"
        return shuffled([pure(name, pair, dtype=f"{kind}x8") for pair in pairs], range(16))

    def room(self, vectors: int, most: int = ANY) -> int:
        """As ``InstructionSet``."""
        return self.registers - 2 - vectors

    def cost(self, pixels: int, vectors: int, most: int = ANY) -> float:
        """As ``InstructionSet``: what is loaded beside the dot products."""
        flipped = self.computed_by == "sdot"
        return max(pixels * vectors, 8) + 0.5 * vectors + (1.0 if flipped else 0.5) * pixels


I8MM = Neon("AArch64 I8MM", ("neon", "dotprod", "i8mm"), 16, 32, "usdot")
DOTPROD = Neon("AArch64 dot product", ("neon", "dotprod"), 16, 32, "sdot")
