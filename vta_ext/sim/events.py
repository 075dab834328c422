"""A small discrete-event kernel: processes are generators that say what they wait for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count

#: A process yields the cycle at which to go on, or the event that it waits for.
Process = Generator["int | Event", None, None]


@dataclass
class Event:
    """Something that may happen again and again; those who wait look anew each time it does."""

    waiting: list[Process] = field(default_factory=list)


class Clock:
    """Runs processes in the order of time; those of one cycle in the order in which they came."""

    def __init__(self) -> None:
        self.now = 0
        self._order = count()
        self._queue: list[tuple[int, int, Process]] = []

    def start(self, process: Process) -> None:
        """Let ``process`` begin in this cycle."""
        heapq.heappush(self._queue, (self.now, next(self._order), process))

    def notify(self, event: Event) -> None:
        """Wake all that wait for ``event``."""
        waiting, event.waiting = event.waiting, []
        for process in waiting:
            self.start(process)

    def run(self) -> None:
        """Go on until no process can."""
        while self._queue:
            self.now, _, process = heapq.heappop(self._queue)
            try:
                wanted = next(process)
            except StopIteration:
                continue
            if isinstance(wanted, Event):
                wanted.waiting.append(process)
            else:
                heapq.heappush(self._queue, (max(wanted, self.now), next(self._order), process))

    def until(self, event: Event, ready: Callable[[], bool]) -> Process:
        """Wait for ``event`` until ``ready`` holds; for ``yield from``."""
        while not ready():
            yield event
