"""Bit positions: the table, laid out for one configuration, with every bit accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.schema import (
    INSTRUCTION_BITS,
    MICRO_OP_BITS,
    RESERVED,
    WORD_BITS,
    AluOperation,
    Field,
    InstructionKind,
    Word,
)


@dataclass(frozen=True)
class Bits:
    """``width`` bits from bit ``low`` up. ``field`` is None for reserved bits, which must be 0."""

    low: int
    width: int
    field: Field | None

    @property
    def name(self) -> str:
        """The field's name, or "reserved"."""
        return self.field.name if self.field else "reserved"

    @property
    def high(self) -> int:
        """The topmost bit."""
        return self.low + self.width - 1

    @property
    def mask(self) -> int:
        """The bits, in place."""
        return ((1 << self.width) - 1) << self.low

    @property
    def least(self) -> int:
        """The smallest value that fits."""
        return -(1 << (self.width - 1)) if self.field and self.field.signed else 0

    @property
    def greatest(self) -> int:
        """The largest value that fits."""
        return (1 << (self.width - bool(self.least))) - 1

    def get(self, word: int) -> int:
        """The value these bits have in ``word``."""
        value = (word & self.mask) >> self.low
        return value - (1 << self.width) if self.least and value > self.greatest else value

    def put(self, value: int) -> int:
        """A word that has ``value`` in these bits and 0 elsewhere; the value must fit."""
        return (value << self.low) & self.mask


@dataclass(frozen=True)
class Layout:
    """All bits of a word or of an instruction, in order, without gaps."""

    bits: tuple[Bits, ...]
    width: int

    @property
    def fields(self) -> Iterator[Bits]:
        """The bits that mean something."""
        return (bits for bits in self.bits if bits.field)

    @property
    def by_name(self) -> Mapping[str, Bits]:
        """The bits of each field."""
        return MappingProxyType({bits.name: bits for bits in self.fields})

    @property
    def reserved(self) -> int:
        """The bits that must be zero."""
        return sum(bits.mask for bits in self.bits if bits.field is None)


def lay_out(word: Word, size: int, config: Config, base: int = 0) -> Layout:
    """Place the fields of ``word`` in ``size`` bits that start at bit ``base``.

    Fields of a feature that ``config`` lacks become reserved bits. ``RESERVED`` takes what the
    fields leave; a word without it, or whose fields need more than ``size`` bits, is a ValueError
    of the table (a configuration that would cause it is refused when it is made).
    """
    used = sum(config.width(entry) for entry in word if isinstance(entry, Field))
    if used > size or (used < size and RESERVED not in word):
        raise ValueError(f"fields of {used} bits do not make a word of {size}")
    placed: list[Bits] = []
    low = base
    for entry in word:
        meant = isinstance(entry, Field) and config.has(entry.extension)
        width = config.width(entry) if isinstance(entry, Field) else size - used
        if width == 0:
            continue
        if not meant and placed and placed[-1].field is None:
            placed[-1] = Bits(placed[-1].low, placed[-1].width + width, None)
        else:
            placed.append(Bits(low, width, entry if meant else None))  # type: ignore[arg-type]
        low += width
    return Layout(tuple(placed), size)


@lru_cache(maxsize=256)
def instruction_layout(kind: InstructionKind, config: Config) -> Layout:
    """The 128 bits of an instruction."""
    words = [
        lay_out(word, WORD_BITS, config, number * WORD_BITS)
        for number, word in enumerate(kind.words)
    ]
    return Layout(tuple(bits for word in words for bits in word.bits), INSTRUCTION_BITS)


@lru_cache(maxsize=64)
def micro_op_layout(config: Config) -> Layout:
    """The 32 bits of a micro-op."""
    return lay_out(table.MICRO_OP, MICRO_OP_BITS, config)


@lru_cache(maxsize=256)
def immediate_layout(operation: AluOperation, config: Config) -> Layout:
    """The 16 bits of an ALU operation's immediate."""
    return lay_out(operation.immediate, 16, config)
