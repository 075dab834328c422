"""Processing elements: one input times one weight, as a term and its sign.

A negative number is its complement plus one. The complement costs nothing in a look-up table,
and the one is taken by the carry-in of an adder that is there anyway, so an element has no adder
of its own: the row adds up complements, and the ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from vta_ext.config import Config

#: Bits of an input: 8, and one more because a LOAD may take them as unsigned.
INPUT_BITS: Final = 9


@dataclass(frozen=True)
class Term:
    """A number: the signed ``value``, or where ``negative`` is 1, minus that."""

    value: Value
    negative: Value

    @property
    def complemented(self) -> Value:
        """The value, every bit of it inverted where ``negative`` is 1: the number less that."""
        return self.value ^ self.negative.replicate(len(self.value)).as_signed()


def shift_term(m: Module, x: Value, code: Value) -> Term:
    """``+-(x << exponent(code))`` of a 4-bit term code: 15 bits.

    Code 8 (minus zero) is 0.
    """
    magnitude, sign = code[:3], code[3]
    shifted = Signal(signed(INPUT_BITS + 6))
    # Magnitude m stands for 2^(m-1).
    m.d.comb += shifted.eq(Mux(magnitude == 0, 0, (x << magnitude)[1:].as_signed()))
    return Term(shifted, sign & (magnitude != 0))


def adder_term(m: Module, x: Value, weight: Value) -> Term:
    """``-|x - weight|`` of an 8-bit weight: 10 bits."""
    difference = Signal(signed(INPUT_BITS + 1))
    m.d.comb += difference.eq(x - weight.as_signed())
    return Term(difference, ~difference[-1])


def multiply_term(m: Module, x: Value, weight: Value) -> Term:
    """``x * weight`` of an 8-bit weight: 17 bits."""
    return Term(x * weight.as_signed(), Const(0, 1))


_ELEMENTS: Final[dict[str, tuple[Callable[[Module, Value, Value], Term], int]]] = {
    "multiply": (multiply_term, 8),
    "shift": (shift_term, 4),
    "adder": (adder_term, 8),
}


def element(m: Module, modes: tuple[str, ...], select: Value, x: Value, weight: Value) -> Term:
    """The term of one of ``modes``, which ``select`` numbers; modes of 4 bits use the low ones."""
    terms = []
    for name in modes:
        function, bits = _ELEMENTS[name]
        terms.append(function(m, x, weight[:bits]))
    found = terms[0]
    for number, term in enumerate(terms[1:], 1):
        chosen = select == number
        found = Term(
            Mux(chosen, term.value, found.value), Mux(chosen, term.negative, found.negative)
        )
    return found


def pick(value: Value, number: Value, width: int) -> Value:
    """Part ``number`` of ``width`` bits, a power of two: a position made by wires alone."""
    zeros = Const(0, width.bit_length() - 1)
    return value.bit_select(Cat(zeros, number), width)


def weight_bits(config: Config) -> int:
    """Bits of a weight as one row of the matrix unit sees it."""
    return max(_ELEMENTS[name][1] for name in config.gemm_modes)


def add(m: Module, one: Value, other: Value, carry: Value) -> Value:
    """``one + other + carry``, signed, without loss; one carry chain on any FPGA."""
    width = max(len(one), len(other)) + 1
    total = Signal(signed(width + 1))
    # The lowest bit only makes the carry: 1 + carry overflows into the next one where it is 1.
    m.d.comb += total.eq(Cat(Const(1, 1), one).as_signed() + Cat(carry, other).as_signed())
    return total[1:].as_signed()
