"""Boolean functions as Liberty writes them, computed on many bits at once.

From the tightest on: ``!a`` and ``a'``; ``a ^ b``; ``a & b``, ``a * b`` and ``a b``; ``a | b`` and
``a + b``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tvm_shiftadd.errors import InputError

#: Values of the pins, and a mask of ones, to the value.
Evaluate = Callable[[Sequence[int], int], int]

_TOKEN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_\[\]]*|[01]|[()!'&*^|+])")


@dataclass(frozen=True)
class Function:
    """``evaluate(values, mask)``: values of ``pins`` in order, each an integer of lanes' bits."""

    pins: tuple[str, ...]
    evaluate: Evaluate


def parse(text: str) -> Function:
    """The function that ``text`` says. Raises InputError where it is none."""
    parser = _Parser(text)
    evaluate = parser.sum()
    if parser.rest:
        raise parser.error(f"{parser.rest[0]!r}")
    return Function(tuple(parser.pins), evaluate)


class _Parser:
    """Recursive descent; ``pins`` in the order in which they are met."""

    def __init__(self, text: str) -> None:
        self.text, self.pins = text, list[str]()
        self.rest: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.error(f"{text[position:].strip()[0]!r}")
            self.rest.append(found[1])
            position = found.end()

    def error(self, what: str) -> InputError:
        return InputError(f"the cell library has a function {self.text!r:.80}: unexpected {what}")

    def sum(self) -> Evaluate:
        left = self._product()
        while self.rest and self.rest[0] in "|+":
            self.rest.pop(0)
            left = _either(left, self._product())
        return left

    def _product(self) -> Evaluate:
        left = self._difference()
        while self.rest and self.rest[0] not in "|+)^'":
            if self.rest[0] in "&*":
                self.rest.pop(0)
            left = _both(left, self._difference())
        return left

    def _difference(self) -> Evaluate:
        left = self._inverted()
        while self.rest and self.rest[0] == "^":
            self.rest.pop(0)
            left = _differ(left, self._inverted())
        return left

    def _inverted(self) -> Evaluate:
        if self.rest and self.rest[0] == "!":
            self.rest.pop(0)
            return _not(self._inverted())
        found = self._atom()
        while self.rest and self.rest[0] == "'":
            self.rest.pop(0)
            found = _not(found)
        return found

    def _atom(self) -> Evaluate:
        if not self.rest:
            raise self.error("end")
        token = self.rest.pop(0)
        if token == "(":
            found = self.sum()
            if not self.rest or self.rest.pop(0) != ")":
                raise self.error("end, ) is missing")
            return found
        if token in "01":
            return _constant(token == "1")
        if not (token[0].isalpha() or token[0] == "_"):
            raise self.error(f"{token!r}")
        if token not in self.pins:
            self.pins.append(token)
        return _pin(self.pins.index(token))


def _pin(number: int) -> Evaluate:
    return lambda values, mask: values[number]


def _constant(value: bool) -> Evaluate:
    return lambda values, mask: mask if value else 0


def _not(one: Evaluate) -> Evaluate:
    return lambda values, mask: one(values, mask) ^ mask


def _both(one: Evaluate, other: Evaluate) -> Evaluate:
    return lambda values, mask: one(values, mask) & other(values, mask)


def _either(one: Evaluate, other: Evaluate) -> Evaluate:
    return lambda values, mask: one(values, mask) | other(values, mask)


def _differ(one: Evaluate, other: Evaluate) -> Evaluate:
    return lambda values, mask: one(values, mask) ^ other(values, mask)
