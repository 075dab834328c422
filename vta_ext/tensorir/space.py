"""Room in one buffer for what an operator allocates there."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm_shiftadd.errors import CompileError


@dataclass
class _Part:
    begin: int
    end: int
    number: int
    alive: bool = True


@dataclass
class Space:
    """Entries of one buffer. An allocation that comes back in a loop takes turns in two places.

    So load fills one while compute still works in the other.
    """

    name: str
    size: int
    _parts: list[_Part] = field(default_factory=list)
    _places: dict[str, list[int]] = field(default_factory=dict)
    _count: int = 0

    def allocate(self, size: int, what: str) -> int:
        """The first of ``size`` free entries; CompileError, naming ``what``, without room."""
        self._count += 1
        before = self._places.setdefault(what, [])[-2:]
        begin = before[0] if len(before) == 2 and self._lost(before[0], size) is not None else None
        if begin is None:
            begin = self._oldest(size)
        if begin is None:
            used = sum(part.end - part.begin for part in self._parts if part.alive)
            raise CompileError(
                f"{what} needs {size} entries of buffer {self.name}, which has {self.size}, of "
                f"which {used} are in use; compute in smaller tiles"
            )
        self._places[what].append(begin)
        self._parts = [p for p in self._parts if p.end <= begin or begin + size <= p.begin]
        self._parts.append(_Part(begin, begin + size, self._count))
        return begin

    def _lost(self, begin: int, size: int) -> list[_Part] | None:
        """What is at a place; None where it is not free."""
        lost = [p for p in self._parts if p.begin < begin + size and begin < p.end]
        free = begin + size <= self.size and not any(part.alive for part in lost)
        return lost if free else None

    def _oldest(self, size: int) -> int | None:
        """The place that was given away longest ago, or never."""
        costs = [
            (max((part.number for part in lost), default=0), begin)
            for begin in (0, *(part.end for part in self._parts))
            if (lost := self._lost(begin, size)) is not None
        ]
        return min(costs, default=(0, None))[1]

    def free(self, begin: int) -> None:
        """Give back what :meth:`allocate` gave."""
        for part in self._parts:
            if part.begin == begin:
                part.alive = False
