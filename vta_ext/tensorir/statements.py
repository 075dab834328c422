"""What statements of TensorIR look like: leaves in their loops, copies, who reads what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tvm_shiftadd._compat import handle
from vta_ext.tensorir.types import without_casts

#: Attributes that stand for a loop over threads.
THREADS: Final = ("virtual_thread", "thread_extent")
_MOST: Final = 160


def describe(stmt: Any) -> str:
    """The last line of a statement's text, without the declarations before it."""
    text = str(stmt).strip().splitlines()[-1].strip()
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."


def stripped(stmt: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], Any]:
    """Loops and conditions around a single statement, and it; None where there are several."""
    loops, conditions = [], []
    while True:
        kind = type(stmt).__name__
        if kind == "For":
            loops.append(stmt)
            stmt = stmt.body
        elif kind == "AttrStmt" and str(stmt.attr_key) not in THREADS:
            stmt = stmt.body
        elif kind == "IfThenElse" and stmt.else_case is None:
            conditions.append(stmt.condition)
            stmt = stmt.then_case
        else:
            leaf = stmt if kind in ("BufferStore", "Evaluate") else None
            return tuple(loops), tuple(conditions), leaf


@dataclass(frozen=True)
class Copy:
    """A read of DRAM, where ``condition`` holds if there is one, and ``padding`` elsewhere."""

    source: Any
    condition: Any = None
    padding: int = 0


@dataclass
class Uses:
    """Of a whole operator: what is read, who touches what last, and what it makes itself."""

    _read: set[int] = field(default_factory=set)
    _last: dict[int, int] = field(default_factory=dict)
    _made: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, body: Any) -> Uses:
        """Look through an operator."""
        found = cls()
        found._look(body)
        return found

    def _look(self, stmt: Any) -> None:
        kind = type(stmt).__name__
        if kind == "AllocBuffer":
            self._made.add(handle(stmt.buffer))
        elif kind in ("BufferStore", "Evaluate"):
            touched = {handle(access.source) for access in accesses(stmt.value)}
            self._read |= touched
            touched |= {handle(stmt.buffer)} if kind == "BufferStore" else set()
            self._last |= dict.fromkeys(touched, handle(stmt))
        elif kind == "SeqStmt":
            for part in stmt.seq:
                self._look(part)
        else:
            for name in ("body", "then_case", "else_case"):
                part = getattr(stmt, name, None)
                if part is not None:
                    self._look(part)

    def reads(self, buffer: Any) -> bool:
        """Whether any statement reads a buffer."""
        return handle(buffer) in self._read

    def ends(self, buffer: int, stmt: Any) -> bool:
        """Whether a statement is the last one, in the order of the text, that touches a buffer."""
        return self._last.get(buffer) == handle(stmt)

    def loads(self, stmt: Any) -> Copy | None:
        """What an assignment copies from DRAM, if that is all it does.

        Raises CompileError where casts change values on the way.
        """
        value, condition, padding = _under_casts(stmt.value), None, 0
        parts = _choice(value)
        if parts is not None and type(parts[2]).__name__ == "IntImm":
            condition, value, padding = parts[0], _under_casts(parts[1]), int(parts[2].value)
        if type(value).__name__ != "TensorLoad" or handle(value.source) in self._made:
            return None
        # Only now: what is no copy has other casts.
        without_casts(stmt.value)
        if parts is not None:
            without_casts(parts[1])
        return Copy(value, condition, padding)


def _under_casts(value: Any) -> Any:
    while type(value).__name__ == "Cast":
        value = value.value
    return value


def _choice(value: Any) -> tuple[Any, Any, Any] | None:
    """Condition and both values of ``if_then_else`` or of a selection."""
    if type(value).__name__ == "Select":
        return value.condition, value.true_value, value.false_value
    if type(value).__name__ == "Call" and str(value.op.name).endswith("if_then_else"):
        return value.args[0], value.args[1], value.args[2]
    return None


def accesses(expr: Any) -> list[Any]:
    """All reads of buffers in an expression."""
    if type(expr).__name__ == "TensorLoad":
        return [expr, *(found for index in expr.indices for found in accesses(index))]
    names = ("a", "b", "value", "condition", "true_value", "false_value")
    parts = [getattr(expr, name, None) for name in names if not isinstance(expr, int)]
    if type(expr).__name__ == "Call":
        parts += list(expr.args)
    return [found for part in parts if hasattr(part, "ty") for found in accesses(part)]
