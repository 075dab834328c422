"""Timing functions side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Seconds between two runs: threads that wait for work in a busy loop, as onnxruntime's and
#: OpenBLAS's do, would take the processors from whoever is measured next.
PAUSE = 0.05


def interleaved(
    functions: Sequence[Callable[[], Any]], rounds: int
) -> list[tuple[float, float, float]]:
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
    return [
        (float(first), float(median), float(third))
        for first, median, third in (np.percentile(taken, [25, 50, 75]) for taken in times)
    ]
