"""A violation: where, which rule, what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from vta_ext.program import Program


@dataclass(frozen=True)
class Violation:
    """One reason why a program may not run; ``position`` is None for the program as a whole."""

    rule: str
    position: int | None
    text: str
    message: str

    def __str__(self) -> str:
        where = "program" if self.position is None else f"instruction {self.position} ({self.text})"
        return f"{where}: {self.message} [{self.rule}]"


def at(program: Program, rule: str, position: int, message: str) -> Violation:
    """A violation of one instruction."""
    return Violation(rule, position, str(program.instructions[position]), message)
