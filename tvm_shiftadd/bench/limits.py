"""Single kernels beside what the machine can do at most, measured in the same turns, and others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.timing import Clock, interleaved
from tvm_shiftadd.errors import CompileError

Run = Callable[[], Any]

#: What a kernel is called among the others.
OURS = "shift-add"
#: Bytes of all copies of an operand that is to come from memory: far more than the caches.
_COPIED = 256 << 20
#: Turns of the loop of dot products: some milliseconds.
_TURNS = 100_000


@dataclass(frozen=True)
class Limit:
    """A run that does nothing but one thing, and how much of it."""

    run: Run
    work: float


@dataclass(frozen=True)
class Row:
    """A kernel. ``rate`` and ``limit`` in ``unit``, 1e9 of something a second.

    share: of the limit's rate. times_ours: how many times as long others take;
    times_ours_at_the_limit: and how many times as long they would if ours were at the limit.
    """

    kernel: str
    unit: str
    milliseconds: float
    rate: float
    limit: float
    share: float
    times_ours: Mapping[str, float]
    times_ours_at_the_limit: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def products(threads: int) -> Limit:
    """Products of bytes on registers alone; work in multiply-accumulates.

    Raises CompileError where this processor has no instructions that fused kernels are made of.
    """
    from tvm_shiftadd.bench import peak_kernels
    from tvm_shiftadd.target import cpu

    isa = cpu.best_set(_target())
    if isa is None:
        raise CompileError(
            "expected a processor with one of the instruction sets of docs/cpu-kernels.md, got one "
            "without; there is no peak of products to compare with"
        )
    bench = peak_kernels.dot_products(threads, _TURNS, isa)
    return Limit(_run_of(bench, 1), bench.work)


def reading(threads: int, size: int) -> Limit:
    """Reading ``size`` bytes, hardly less, from memory and adding them up; work in bytes."""
    from tvm_shiftadd.bench import peak_kernels
    from tvm_shiftadd.target import cpu

    vector = 2 * cpu.vector_lanes(_target())
    bench = peak_kernels.reading(threads, size // threads, 1, vector)
    return Limit(_run_of(bench, len(copies(size))), bench.work)


def copies(size: int) -> range:
    """Numbers of the copies of ``size`` bytes that come from memory when they are used in turn."""
    return range(1 + max(1, _COPIED // size))


def measure(
    kernel: str,
    unit: str,
    work: float,
    limit: Limit,
    runs: Mapping[str, Run],
    *,
    threads: int,
    rounds: int,
) -> Row:
    """Time a kernel, ``runs[OURS]`` doing ``work``, with its limit and the others in turns.

    On one thread it is processor time, as of whole networks.
    """
    clock: Clock = "cpu" if threads == 1 else "wall"
    timings = interleaved({"limit": limit.run, **runs}, rounds)
    ours, most = timings[OURS], timings["limit"]
    share = work / limit.work * ours.ratio(most, clock).median
    times = {name: ours.ratio(timings[name], clock).median for name in runs if name != OURS}
    return Row(
        kernel,
        unit,
        milliseconds=1e3 * ours.median(clock),
        rate=work / ours.median(clock) / 1e9,
        limit=limit.work / most.median(clock) / 1e9,
        share=share,
        times_ours=times,
        times_ours_at_the_limit={name: ratio / share for name, ratio in times.items()},
    )


def table(rows: Sequence[Row], threads: int) -> Table:
    """The rows for people."""
    lines = tuple(
        (
            row.kernel,
            row.milliseconds,
            f"{row.rate:.0f} {row.unit}",
            f"{row.limit:.0f} {row.unit}",
            f"{row.share:.2f}",
            _times(row.times_ours),
            _times(row.times_ours_at_the_limit),
        )
        for row in rows
    )
    columns = ("kernel", "ms", "rate", "limit", "share", "others, times ours", "at the limit")
    notes = (
        "Limit: products of bytes on registers, or reading as many bytes from memory, in the same "
        "turns. At the limit: how many times as long as ours the others would take if ours were "
        "at it.",
    )
    return Table(f"Threads: {threads}", columns, lines, 1, notes)


def _times(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())


def _target() -> Any:
    from tvm_shiftadd.target import CPUTarget, cpu

    return cpu.tvm_target(CPUTarget())


def _run_of(bench: Any, count: int) -> Run:
    """A run of a micro-benchmark on one of ``count`` arrays after the other."""
    import tvm

    function = tvm.compile(tvm.IRModule({"bench": bench.function}), _target())["bench"]
    out = tvm.runtime.tensor(np.zeros(bench.results, np.int32))
    turn = itertools.cycle(
        [tvm.runtime.tensor(np.ones(bench.words, np.int32)) for _ in range(count)]
    )
    return lambda: function(next(turn), out)
