"""What a machine can do at most, measured: arithmetic, reading, and what a call costs.

Each peak is the best of several short runs. Whatever else runs on the machine can only lower it,
and a network's layer cannot be faster.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_shiftadd.bench.machine import caches
from tvm_shiftadd.target import CPUTarget, runtime

if TYPE_CHECKING:
    from tvm_shiftadd.bench.peak_kernels import Bench

#: Runs are made in bursts with pauses: where others keep the processors busy, the system may put
#: two threads on one of them, and leaves them there until they have slept.
_BURSTS, _BURST, _PAUSE = 20, 0.01, 0.01
#: Turns of the loops: a run is short, so that among many some are not disturbed.
_TURNS = 10_000
#: Bytes read from memory in a run by all threads together, at least: several times the cache.
_FROM_MEMORY, _TIMES_CACHE, _MOST_FROM_MEMORY = 128 << 20, 4, 512 << 20
_DEFAULT_L2 = 512 << 10
#: The share of the threads' number times one's rate below which they had no core each.
_TOGETHER = 0.8


@dataclass(frozen=True)
class Peaks:
    """Peaks of ``threads`` threads together.

    macs: multiply-accumulates of bytes per second by what fused kernels are made of, None where
    the target has none of it. shift_adds: 16-bit elements shifted and added per second. l2, l3,
    memory: bytes read per second from each core's second-level cache, the cache behind it, and
    memory; l3 is None where there is none or its size is not known. call: seconds of a kernel
    call that does nothing, its threads started. l2_bytes, l3_bytes: what fits there, of all
    threads together.
    crowded: whether the threads had no core each while they were measured.
    """

    threads: int
    macs: float | None
    shift_adds: float
    l2: float
    l3: float | None
    memory: float
    call: float
    l2_bytes: int
    l3_bytes: int
    crowded: bool = False

    def reading(self, size: int) -> float:
        """Bytes per second at which ``size`` bytes can be read that were used before."""
        if size <= self.l2_bytes:
            return self.l2
        return self.l3 if self.l3 is not None and size <= self.l3_bytes else self.memory

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(target: CPUTarget, threads: int) -> tuple[Peaks, ...]:
    """Measure the machine with code for ``target``: with ``threads``, and with one.

    What a core has of its own (arithmetic, its caches) is taken as that of one thread times their
    number, where other programs kept the threads from running at the same time. Takes a few
    seconds, in the Python thread whose runs are compared with it. Raises CompileError for a target
    that cannot be compiled for, InputError for more threads than there are.
    """
    from tvm_shiftadd.target import cpu

    resolved = cpu.tvm_target(target)
    runtime.set_num_threads(threads)
    one = _measure(resolved, 1)
    return (one,) if threads == 1 else (_uncrowded(_measure(resolved, threads), one), one)


def _measure(target: Any, threads: int) -> Peaks:
    """Peaks of as many tasks at a time, as measured."""
    from tvm_shiftadd.bench import peak_kernels
    from tvm_shiftadd.target import cpu

    vector, isa = 2 * cpu.vector_lanes(target), cpu.best_set(target)
    sizes = caches()
    l2, l3 = sizes.get("L2", _DEFAULT_L2), sizes.get("L3", 0)
    large = max(_FROM_MEMORY, _TIMES_CACHE * l3)
    large = min(large, _MOST_FROM_MEMORY) // threads
    rate = _Meter(target)
    return Peaks(
        threads=threads,
        macs=rate(peak_kernels.dot_products(threads, _TURNS, isa)) if isa else None,
        shift_adds=rate(peak_kernels.shift_adds(threads, _TURNS, vector)),
        l2=rate(peak_kernels.reading(threads, l2 // 2, 10, vector)),
        l3=rate(peak_kernels.reading(threads, l3 // 2 // threads, 1, vector)) if l3 else None,
        memory=rate(peak_kernels.reading(threads, large, 1, vector)),
        call=1 / rate(peak_kernels.nothing(threads), typical=True),
        l2_bytes=l2 * threads,
        l3_bytes=l3,
    )


def _uncrowded(many: Peaks, one: Peaks) -> Peaks:
    """Peaks of several threads, each with a core: not below what one has, times their number."""
    count = many.threads
    crowded = many.shift_adds < _TOGETHER * count * one.shift_adds
    if one.macs is not None and many.macs is not None:
        crowded = crowded or many.macs < _TOGETHER * count * one.macs
        many = replace(many, macs=max(many.macs, count * one.macs))
    return replace(
        many,
        shift_adds=max(many.shift_adds, count * one.shift_adds),
        l2=max(many.l2, count * one.l2),
        # The caches behind it are shared, and more threads may read no more together.
        l3=None if many.l3 is None or one.l3 is None else max(many.l3, one.l3),
        memory=max(many.memory, one.memory),
        crowded=crowded,
    )


class _Meter:
    """Compiles a micro-benchmark and gives its rate, work per second."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __call__(self, bench: Bench, typical: bool = False) -> float:
        """The best rate of several runs, or the middle one."""
        import tvm

        module = tvm.compile(tvm.IRModule({"bench": bench.function}), self._target)
        function = module["bench"]
        data = tvm.runtime.tensor(np.ones(bench.words, np.int32))
        results = tvm.runtime.tensor(np.zeros(bench.results, np.int32))
        function(data, results)
        seconds: list[float] = []
        for _ in range(_BURSTS):
            time.sleep(_PAUSE)
            end = time.perf_counter() + _BURST
            while not seconds or time.perf_counter() < end:
                begun = time.perf_counter()
                function(data, results)
                seconds.append(time.perf_counter() - begun)
        return bench.work / float(np.median(seconds) if typical else min(seconds))
