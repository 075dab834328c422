"""Kernels beside the machine's limits."""

from __future__ import annotations

import time

import pytest

from tvm_shiftadd.bench import limits, timing
from tvm_shiftadd.bench.limits import OURS, Limit


def test_what_others_would_take_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel at half the limit's rate: twice as many times as long."""
    now = [0.0]
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[0])

    def run(seconds: float) -> limits.Run:
        return lambda: now.__setitem__(0, now[0] + seconds)

    runs = {OURS: run(2.0), "peer": run(6.0)}
    row = limits.measure("k", "G/s", 4e9, Limit(run(1.0), 4e9), runs, threads=1, rounds=3)
    assert (row.milliseconds, row.rate, row.limit, row.share) == (2000.0, 2.0, 4.0, 0.5)
    assert row.times_ours == {"peer": 3.0}
    assert row.times_ours_at_the_limit == {"peer": 6.0}
    (line,) = limits.table([row], 1).rows
    assert line[1:] == (2000.0, "2 G/s", "4 G/s", "0.50", "peer 3.00x", "peer 6.00x")


def test_copies_are_more_than_the_caches() -> None:
    assert len(limits.copies(1 << 20)) << 20 > 256 << 20
    assert len(limits.copies(1 << 30)) == 2


def test_limits_do_the_work_that_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_TURNS", 10)
    monkeypatch.setattr(limits, "_COPIED", 1 << 20)
    found = limits.reading(1, 1 << 19)
    # The last turn of the loop would read beyond the end.
    assert 0.99 * 2**19 < found.work <= 2**19
    found.run()
    monkeypatch.setattr("tvm_shiftadd.target.cpu.best_set", lambda target: None)
    with pytest.raises(limits.CompileError, match="no peak of products"):
        limits.products(1)
