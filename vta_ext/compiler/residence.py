"""What is in a buffer, and where the next fetch goes."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from vta_ext.compiler.refusal import RefusedError


@dataclass
class _Resident:
    """Entries [begin, end) hold ``key``; ``used`` counts up with each use in the buffer."""

    key: Hashable
    begin: int
    end: int
    used: int


@dataclass
class Residence:
    """The fetches in one buffer of ``size`` entries.

    A fetch takes the place of those that were used longest ago, so that its load has to wait the
    least for passes that still read there.
    """

    size: int
    _residents: list[_Resident] = field(default_factory=list)
    _uses: int = 0

    def place(
        self, key: Hashable, size: int, kept: Collection[Hashable], what: str
    ) -> tuple[int, bool] | None:
        """The first entry of ``key``, and whether it has to be loaded.

        What is ``kept`` stays where it is; None where that leaves no room. Raises RefusedError for
        more than half the buffer, since two steps must find room.
        """
        if size > self.size // 2:
            raise RefusedError(
                what,
                f"it needs {size} entries of a buffer at a time, of which a step has "
                f"{self.size // 2}; choose a configuration with larger buffers",
            )
        self._uses += 1
        for resident in self._residents:
            if resident.key == key:
                resident.used = self._uses
                return resident.begin, False
        begin = self._room(size, kept)
        if begin is None:
            return None
        end = begin + size
        self._residents = [r for r in self._residents if r.end <= begin or end <= r.begin]
        self._residents.append(_Resident(key, begin, end, self._uses))
        return begin, True

    def _room(self, size: int, kept: Collection[Hashable]) -> int | None:
        best: tuple[int, bool, int] | None = None
        places = {0, self.size - size}
        places |= {place for r in self._residents for place in (r.end, r.begin - size)}
        for begin in places:
            if not 0 <= begin <= self.size - size:
                continue
            lost = [r for r in self._residents if r.begin < begin + size and begin < r.end]
            if any(r.key in kept for r in lost):
                continue
            # At an end of the buffer, what is free stays in one piece.
            inside = begin not in (0, self.size - size)
            cost = (max((r.used for r in lost), default=0), inside, begin)
            best = cost if best is None else min(best, cost)
        return best[2] if best else None
