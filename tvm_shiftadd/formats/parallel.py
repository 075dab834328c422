"""Work in pieces on all cores, with BLAS kept to one thread for each.

OpenBLAS shares every product among threads that wait for each other in a busy loop: on a machine
that has something else to do, that has been measured twenty times slower. Pieces that do not wait
for each other lose only what the other work takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Piece = TypeVar("Piece")


def in_parallel(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """Call ``work`` once for each piece, in any order, on the cores this process may use.

    Pieces must not write to the same memory. An exception of ``work`` is raised here.
    """
    with _single_threaded_blas:
        if len(pieces) == 1 or cores() == 1:
            for piece in pieces:
                work(piece)
        else:
            for _ in _pool(os.getpid()).map(work, pieces):
                pass


def cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="shiftadd")


class _SingleThreadedBlas:
    """Limits BLAS while at least one caller is inside; callers may be on several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._callers == 0:
                self._limit = _blas().limit(limits=1)
            self._callers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._callers -= 1
            if self._callers == 0:
                self._limit.restore_original_limits()


_single_threaded_blas = _SingleThreadedBlas()


@lru_cache(maxsize=1)
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")
