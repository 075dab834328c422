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
    """A buffer of an operator: its memory, how deep it is declared, and its first entry.

    It gets its place when it is first used; until then it may take that of another.
    """

    name: str
    memory: str
    size: int
    level: int
    place: int | None = None


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
        #: How many sequences of statements and loops around them are around the one at hand.
        self.level = 0
        self._temporaries: list[int] = []

    def lanes(self, memory: str) -> int:
        """Lanes of an element."""
        return self._config.wgt_bytes if memory == "wgt" else self._config.inp_bytes

    def get(self, buffer: Any) -> Allocated | None:
        """Where a buffer is; None for one in DRAM."""
        return self._known.get(handle(buffer))

    def declare(self, buffer: Any) -> None:
        """Begin the life of a buffer. Raises CompileError for one that no machine can have."""
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
        self._known[handle(buffer)] = Allocated(name, memory, size // lanes, self.level)

    def first(self, found: Allocated) -> int:
        """The first entry of a buffer. Raises CompileError where there is no room for it."""
        if found.place is None:
            space = self._spaces[found.memory]
            found.place = space.allocate(found.size, f"buffer {found.name}")
        return found.place

    def free(self, buffer: Any) -> None:
        """End the life of a buffer; its place is free when no other shares it."""
        gone = self._known.pop(handle(buffer))
        if gone.place is not None and all(o.place != gone.place for o in self._of(gone.memory)):
            self._spaces[gone.memory].free(gone.place)

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
        self, target: Allocated, entries: Index, node: Node, ends: Callable[[int], bool]
    ) -> None:
        """Compute in place where the first operand's buffer is used here for the last time.

        ``entries`` are those of ``target`` that are written, counted from its first; ``ends``
        tells whether the statement is the last one that touches a buffer.
        """
        while isinstance(node, Operation):
            node = node.operands[0]
        whole = entries.size == target.size == np.unique(entries).size
        if not isinstance(node, Vector) or node.memory != "acc" or target.place is not None:
            return
        for key, other in self._known.items():
            # In a loop inside of its declaration it may be needed again.
            alike = whole and (other.memory, other.size) == ("acc", target.size)
            here = other.level == target.level == self.level and ends(key)
            if not alike or not here or other.place is None:
                continue
            if node.same("acc", other.place + entries):
                target.place = other.place
                return
