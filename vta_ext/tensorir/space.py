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
    """Entries of one buffer. What is freed stays busy for its instructions for a while.

    So an allocation that comes back in every iteration of a loop takes another place in every
    second one: while compute works in one, load already fills the other.
    """

    name: str
    size: int
    _parts: list[_Part] = field(default_factory=list)
    _count: int = 0

    def allocate(self, size: int, what: str) -> int:
        """The first of ``size`` free entries; CompileError, naming ``what``, without room."""
        self._count += 1
        alive = [part for part in self._parts if part.alive]
        places = [0, *(part.end for part in self._parts)]
        best: tuple[int, int] | None = None
        for begin in places:
            end = begin + size
            if end > self.size or any(p.begin < end and begin < p.end for p in alive):
                continue
            recent = max(
                (p.number for p in self._parts if p.begin < end and begin < p.end), default=0
            )
            cost = (max(recent - self._count + 2, 0), begin)
            best = cost if best is None else min(best, cost)
        if best is None:
            used = sum(part.end - part.begin for part in alive)
            raise CompileError(
                f"{what} needs {size} entries of buffer {self.name}, which has {self.size}, of "
                f"which {used} are in use; compute in smaller tiles"
            )
        begin = best[1]
        self._parts = [p for p in self._parts if p.end <= begin or begin + size <= p.begin]
        self._parts.append(_Part(begin, begin + size, self._count))
        return begin

    def free(self, begin: int) -> None:
        """Give back what :meth:`allocate` gave."""
        for part in self._parts:
            if part.begin == begin:
                part.alive = False
