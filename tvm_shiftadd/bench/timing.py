"""Timing functions side by side: in turns, in one process, so that all see the same machine.

A machine that others use too slows down for seconds at a time. Participants are therefore run in
rounds, in another order each time, and a ratio is taken within a round: the median of those is
steady where times are not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

#: Seconds between two participants: threads that wait for work in a busy loop, as onnxruntime's,
#: OpenBLAS's and TVM's do, would take the processors from whoever is measured next.
PAUSE = 0.05
#: Seconds for which a participant is called in a round, and the most calls.
BLOCK, MOST_CALLS = 0.1, 200
#: Seconds of a call in which bringing threads and data back no longer counts.
LONG = 0.5

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Quartiles:
    """First quartile, median and third quartile, in the unit of the samples."""

    first: float
    median: float
    third: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quartiles:
        """Quartiles of at least one sample."""
        return cls(*(float(value) for value in np.percentile(samples, [25, 50, 75])))


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: for each round the median of its calls.

    ``wall`` is what the clock on the wall shows; ``cpu`` is the processor time of all threads of
    the process, those included that wait in a busy loop.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    def quartiles(self, clock: Clock = "wall") -> Quartiles:
        """Quartiles over the rounds."""
        return Quartiles.of(self.wall if clock == "wall" else self.cpu)

    def median(self, clock: Clock = "wall") -> float:
        """The middle of the rounds."""
        return self.quartiles(clock).median

    def ratio(self, other: Timing, clock: Clock = "wall") -> Quartiles:
        """How many times as long ``other`` takes, round by round."""
        mine, theirs = (self.wall, other.wall) if clock == "wall" else (self.cpu, other.cpu)
        return Quartiles.of([b / max(a, 1e-9) for a, b in zip(mine, theirs, strict=True)])


def interleaved(
    participants: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    pause: float | None = None,
    block: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """Time functions in turns, after one round that is not counted.

    ``rounds``: at least 1. In each round every participant waits ``pause`` seconds (PAUSE), is
    called once to bring its threads and its data back, and is then timed call by call for
    ``block`` seconds (BLOCK), at least once. Of one whose first call takes longer than ``LONG``
    that call is all.
    """
    pause = PAUSE if pause is None else pause
    block = BLOCK if block is None else block
    order = list(participants)
    shuffle = random.Random(0)
    wall: dict[str, list[float]] = {name: [] for name in order}
    cpu: dict[str, list[float]] = {name: [] for name in order}
    for turn in range(rounds + 1):
        shuffle.shuffle(order)
        for name in order:
            time.sleep(pause)
            taken = _block(participants[name], block if turn else 0.0)
            if turn:
                wall[name].append(taken[0])
                cpu[name].append(taken[1])
        progress(turn, rounds)
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in participants}


def _block(function: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Median wall and processor seconds of the calls that fit into ``seconds``, at least one."""
    first = _call(function)
    if first[0] > LONG:
        return first
    calls: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while not calls or (time.perf_counter() < end and len(calls) < MOST_CALLS):
        calls.append(_call(function))
    wall, cpu = np.median(calls, axis=0)
    return float(wall), float(cpu)


def _call(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    begun_cpu, begun = time.process_time(), time.perf_counter()
    function()
    wall = time.perf_counter() - begun
    return wall, time.process_time() - begun_cpu
