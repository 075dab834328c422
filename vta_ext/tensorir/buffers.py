"""The buffers of an operator: where each one is, and what may share a place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tvm_shiftadd._compat import handle
from tvm_shiftadd.errors import CompileError
from vta_ext.config import Config
from vta_ext.tensorir.environment import SCOPES
from vta_ext.tensorir.expressions import Node, Operation, Vector
from vta_ext.tensorir.nest import Index
from vta_ext.tensorir.space import Space

#: Types of the elements of each buffer.
_TYPES: Final = {
    "inp": ("int8", "uint8"),
    "wgt": ("int8", "uint8"),
    "acc": ("int32",),
    "out": ("int8", "uint8"),
}


@dataclass
class Allocated:
    """A buffer of an operator: its memory, its first entry there, and how deep it is declared."""

    memory: str
    first: int
    size: int
    level: int


class Buffers:
    """What is allocated, by handle of the buffer. ``out`` shares the entries of ``acc``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spaces = {
            "inp": Space("inp", config.inp_depth),
            "wgt": Space("wgt", config.wgt_depth),
            "acc": Space("acc", config.acc_depth),
        }
        self._known: dict[int, Allocated] = {}
        self._temporaries: list[int] = []

    def lanes(self, memory: str) -> int:
        """Lanes of an element."""
        return self._config.wgt_bytes if memory == "wgt" else self._config.inp_bytes

    def get(self, buffer: Any) -> Allocated | None:
        """Where a buffer is; None for one in DRAM."""
        return self._known.get(handle(buffer))

    def allocate(self, buffer: Any, level: int) -> None:
        """Give a buffer room. Raises CompileError where it has no place on this machine."""
        scope, name = str(buffer.scope()), str(buffer.name)
        size = int(np.prod([int(n) for n in buffer.shape]))
        if scope not in SCOPES:
            raise CompileError(
                f"buffer {name} has scope {scope!r}; the accelerator's are {', '.join(SCOPES)}"
            )
        memory = SCOPES[scope]
        if str(buffer.dtype) not in _TYPES[memory]:
            raise CompileError(
                f"buffer {name} of {buffer.dtype} is in scope {scope}, which holds "
                f"{' or '.join(_TYPES[memory])}; cast before"
            )
        lanes = self.lanes(memory)
        if size % lanes:
            raise CompileError(
                f"buffer {name} of shape {list(buffer.shape)} in scope {scope} does not hold whole "
                f"elements of {lanes} lanes; let its last axes be those of an element"
            )
        memory = "acc" if memory == "out" else memory
        first = self._spaces[memory].allocate(size // lanes, f"buffer {name}")
        self._known[handle(buffer)] = Allocated(memory, first, size // lanes, level)

    def free(self, buffer: Any) -> None:
        """End the life of a buffer; its place is free when no other shares it."""
        gone = self._known.pop(handle(buffer))
        if not any(other.first == gone.first for other in self._of(gone.memory)):
            self._spaces[gone.memory].free(gone.first)

    def _of(self, memory: str) -> Iterator[Allocated]:
        return (buffer for buffer in self._known.values() if buffer.memory == memory)

    def temporary(self, size: int) -> int:
        """Accumulators for one statement: the first of so many."""
        begin = self._spaces["acc"].allocate(size, "an intermediate result")
        self._temporaries.append(begin)
        return begin

    def end_statement(self) -> None:
        """Free what :meth:`temporary` gave."""
        for begin in self._temporaries:
            self._spaces["acc"].free(begin)
        self._temporaries.clear()

    def share(
        self, target: Allocated, entries: Index, node: Node, readers: Callable[[int], int]
    ) -> None:
        """Compute in place where the first operand's buffer is read here for the last time.

        ``entries`` are those of ``target`` that are written, counted from its first; ``readers``
        tells how many statements read a buffer.
        """
        while isinstance(node, Operation):
            node = node.operands[0]
        whole = entries.size == target.size == np.unique(entries).size
        if not isinstance(node, Vector) or node.memory != "acc" or not whole:
            return
        for key, other in self._known.items():
            if other.first == target.first or other.memory != "acc" or other.level != target.level:
                continue
            last = other.size == target.size and readers(key) == 1
            if last and node.same("acc", other.first + entries):
                if not any(o is not target and o.first == target.first for o in self._of("acc")):
                    self._spaces["acc"].free(target.first)
                target.first = other.first
                return
