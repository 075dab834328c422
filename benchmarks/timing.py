"""Timing functions side by side."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Seconds between two runs: threads that wait for work in a busy loop, as onnxruntime's and
#: OpenBLAS's do, would take the processors from whoever is measured next.
PAUSE = 0.05

Quartiles = tuple[float, float, float]


def interleaved(functions: Sequence[Callable[[], Any]], rounds: int) -> list[Quartiles]:
    """Quartiles of the seconds of each function, called in turns after one warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for function, taken in zip(functions, times, strict=True):
            time.sleep(PAUSE)
            function()  # brings its threads and its data back
            start = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - start)
    return [_quartiles(taken) for taken in times]


def in_blocks(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    seconds: float = 0.15,
    processor_time: bool = False,
) -> dict[str, Quartiles]:
    """Quartiles of the seconds of each function in steady state.

    The functions take turns; in each turn one runs again and again for ``seconds``, and every
    call counts but the first two. ``processor_time`` counts what all threads of the process have
    used, which other programs on the machine disturb less: right for a single thread.
    """
    clock = time.process_time if processor_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE)
            function()
            function()
            end, calls = time.perf_counter() + seconds, 0
            while calls < 3 or time.perf_counter() < end:
                start = clock()
                function()
                times[name].append(clock() - start)
                calls += 1
    return {name: _quartiles(taken) for name, taken in times.items()}


def machine() -> str:
    """The processor's name and the number of processors, as Linux has them."""
    names = [platform.processor() or platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return names[0]
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    count = sum(line.startswith("processor") for line in lines)
    family = f"family {found.get('cpu family', '?')} model {found.get('model', '?')}"
    return f"{found.get('model name', names[0])} ({family}), {count} processors"


def _quartiles(taken: Sequence[float]) -> Quartiles:
    first, median, third = np.percentile(taken, [25, 50, 75])
    return float(first), float(median), float(third)
