"""Integer expressions of TensorIR as operations of the ALU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tvm_shiftadd.errors import CompileError
from vta_ext.config import Config
from vta_ext.isa.instruction import unpack_immediate
from vta_ext.isa.schema import Source
from vta_ext.isa.table import OPERATION_BY_NAME
from vta_ext.tensorir.environment import ALU_CALL
from vta_ext.tensorir.nest import Index
from vta_ext.tensorir.types import require_computable, without_casts

#: Operators of TensorIR that are operations by themselves.
_PLAIN: Final = {"Add": "add", "Max": "max", "Min": "min", "Mul": "mul", "RShift": "shr"}
_POWERS: Final = {1 << by: by for by in range(31)}
#: Operations whose two operands may change places, and those that may repeat in any order.
COMMUTATIVE: Final = frozenset({"add", "max", "min", "mul", "absd"})
REPEATABLE: Final = frozenset({"add", "max", "min", "sha", "lsa"})


@dataclass(frozen=True)
class Constant:
    """The same number in all lanes."""

    value: int


@dataclass(frozen=True, eq=False)
class Vector:
    """Entries of a buffer, for each iteration: accumulators, inputs, or rows of codes (wgt)."""

    memory: str
    entries: Index

    def same(self, memory: str, entries: Index) -> bool:
        """Whether these are those entries, iteration by iteration."""
        return self.memory == memory and bool((self.entries == entries).all())

    def meets(self, target: Index) -> bool:
        """Whether any of these, in any iteration, is one of those accumulators."""
        return self.memory == "acc" and bool(np.isin(self.entries, target).any())


@dataclass(frozen=True)
class Operation:
    """An operation of the instruction set's table; the first operand is the old destination."""

    name: str
    operands: tuple[Node, ...]
    parameters: dict[str, int] = field(default_factory=dict)


Node = Constant | Vector | Operation


class Parser:
    """Reads expressions for one machine; ``vector`` tells what a read of a buffer means."""

    def __init__(self, config: Config, vector: Callable[[Any], Vector]) -> None:
        self._config, self._vector = config, vector

    def parse(self, expr: Any) -> Node:
        """The operations of an expression. Raises CompileError for what the ALU cannot do."""
        kind = type(expr).__name__
        if kind == "IntImm":
            return Constant(int(expr.value))
        if kind == "TensorLoad":
            return self._vector(expr)
        if kind == "Cast":
            return self.parse(without_casts(expr))
        require_computable(expr)
        if kind in _PLAIN:
            return self._operation(_PLAIN[kind], self.parse(expr.a), self.parse(expr.b))
        if kind == "Sub":
            return self._difference(self.parse(expr.a), self.parse(expr.b))
        if kind == "LShift":
            return self._left_shift(self.parse(expr.a), self.parse(expr.b), expr)
        if kind == "Call" and str(expr.op.name).endswith("call_pure_extern"):
            return self._call(expr)
        raise CompileError(
            f"the ALU has no operation for `{expr}`; it has +, -, *, >>, <<, min, max, and "
            f"{', '.join(self._config.alu_ops)} by Environment.alu"
        )

    def _call(self, expr: Any) -> Node:
        name = str(expr.args[0].value)
        if not name.startswith(ALU_CALL) or name[len(ALU_CALL) :] not in OPERATION_BY_NAME:
            raise CompileError(f"`{name}` is no operation of the ALU")
        entry = OPERATION_BY_NAME[name[len(ALU_CALL) :]]
        operands = tuple(self.parse(argument) for argument in expr.args[2:])
        plain = entry.source is Source.OPERAND
        parameters = {} if plain else unpack_immediate(entry, int(expr.args[1].value))
        return self._needed(Operation(entry.name, operands, parameters))

    def _needed(self, node: Operation) -> Operation:
        if node.name not in self._config.alu_ops:
            raise CompileError(
                f"this machine's ALU has no operation {node.name}; it has "
                f"{', '.join(self._config.alu_ops)}"
            )
        return node

    def _operation(self, name: str, a: Node, b: Node) -> Node:
        if isinstance(a, Constant) and name in COMMUTATIVE:
            a, b = b, a
        if isinstance(a, Constant):
            raise CompileError(f"operation {name} of a constant; let the vector come first")
        clipped = self._clip(name, a, b)
        if clipped is not None:
            return clipped
        if name == "mul" and isinstance(b, Constant) and b.value in _POWERS:
            return self._operation("shr", a, Constant(-_POWERS[b.value]))
        if name == "add" and "sha" in self._config.alu_ops:
            for one, other in ((a, b), (b, a)):
                shift = _left_shift_of(other)
                if shift is not None:
                    assert isinstance(other, Operation)
                    return Operation("sha", (one, other.operands[0]), {"shift": shift})
        return self._needed(Operation(name, (a, b)))

    def _clip(self, name: str, a: Node, b: Node) -> Node | None:
        """min of max, or max of min, with limits of 8 bits: one operation, where there is one."""
        inner = {"min": "max", "max": "min"}.get(name)
        if not isinstance(b, Constant) or not isinstance(a, Operation) or a.name != inner:
            return None
        limit = a.operands[1]
        if not isinstance(limit, Constant):
            return None
        lo, hi = sorted((limit.value, b.value))
        straight = (lo, hi) == ((b.value, limit.value) if name == "max" else (limit.value, b.value))
        for clip, least, greatest in (("clip", -128, 127), ("clipu", 0, 255)):
            if straight and clip in self._config.alu_ops and least <= lo <= hi <= greatest:
                return Operation(clip, (a.operands[0],), {"lo": lo, "hi": hi})
        return None

    def _difference(self, a: Node, b: Node) -> Node:
        if isinstance(b, Constant):
            return self._operation("add", a, Constant(-b.value))
        if "sha" in self._config.alu_ops and not isinstance(a, Constant):
            return Operation("sha", (a, b), {"shift": 0, "subtract": 1})
        return self._operation("add", self._operation("mul", b, Constant(-1)), a)

    def _left_shift(self, a: Node, b: Node, expr: Any) -> Node:
        if not isinstance(b, Constant):
            raise CompileError(f"`{expr}` shifts left by a vector; negate it and shift right")
        return self._operation("shr", a, Constant(-b.value))


def _left_shift_of(node: Node) -> int | None:
    """By how much a node is another one shifted left, if it is."""
    if isinstance(node, Operation) and node.name == "shr":
        by = node.operands[1]
        if isinstance(by, Constant) and -31 <= by.value < 0:
            return -by.value
    return None


def vectors(node: Node) -> Iterator[Vector]:
    """All that a node reads."""
    if isinstance(node, Vector):
        yield node
    elif isinstance(node, Operation):
        for operand in node.operands:
            yield from vectors(operand)
