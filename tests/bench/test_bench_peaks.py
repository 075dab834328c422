"""The micro-benchmarks do the work they are charged with, and the peaks have the right order."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tvm_shiftadd.bench import peak_kernels, peaks
from tvm_shiftadd.bench.peak_kernels import SUMS
from tvm_shiftadd.target import cpu, parse


def run(bench: peak_kernels.Bench, data: np.ndarray) -> np.ndarray:
    target = cpu.tvm_target(parse("cpu"))
    module = tvm.compile(tvm.IRModule({"bench": bench.function}), target)
    out = tvm.runtime.tensor(np.zeros(bench.results, np.int32))
    module["bench"](tvm.runtime.tensor(data), out)
    return out.numpy()


def test_shifts_and_additions() -> None:
    """Every 16-bit element holds the recurrence t -> (t << x) + x from 1, x = 1."""
    bench = peak_kernels.shift_adds(2, 5, 32)
    out = run(bench, np.full(bench.words, 0x00010001, np.int32))
    assert (out.view(np.int16) == 2**6 - 1).all()
    assert bench.work == out.view(np.int16).size * 5


def test_dot_products() -> None:
    """Every sum holds the recurrence t -> t + (the sum of t's four bytes times those of x)."""
    isa = cpu.best_set(cpu.tvm_target(parse("cpu")))
    if isa is None:
        pytest.skip("needs a processor with fused kernels")
    bench = peak_kernels.dot_products(1, 5, isa)
    assert bench.work == SUMS * isa.lanes * 5 * 4
    out = run(bench, np.full(bench.words, 0x01010102, np.int32))
    # Bytes as Arm's sdot takes them: 128 less, which kernels make good in the bias.
    less = 128 if isa.zero(0) else 0
    weights = np.array([2, 1, 1, 1], np.int32)
    total = np.ones(1, np.int32)
    for _ in range(5):
        total = total + (total.view(np.uint8).astype(np.int32) - less) @ weights
    assert total[0] not in (0, 1)
    np.testing.assert_array_equal(out, np.full_like(out, total[0]))


def test_reading_reads_everything() -> None:
    bench = peak_kernels.reading(2, 4 * SUMS * 8 * 3, 2, 32)
    data = np.arange(bench.words, dtype=np.int32)
    out = run(bench, data)
    assert out.sum() == 2 * data.sum()
    assert bench.work == 2 * data.nbytes


def test_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_BURSTS": 1,
        "_FROM_MEMORY": 1 << 20,
        "_MOST_FROM_MEMORY": 1 << 20,
    }.items():
        monkeypatch.setattr(peaks, name, value)
    (found,) = peaks.measure(parse("cpu:generic"), 1)
    if cpu.best_set(cpu.tvm_target(parse("cpu:generic"))) is None:
        assert found.macs is None
    else:
        assert found.macs is not None and found.macs > 1e8
    assert found.shift_adds > 1e8
    assert found.l2 > 1e8
    assert 0 < found.call < 1e-3
    assert found.reading(found.l2_bytes) == found.l2
    assert found.reading(1 << 40) == found.memory
    assert found.to_dict()["threads"] == 1


def test_threads_without_a_core_each_are_noticed() -> None:
    one = peaks.Peaks(1, 5e11, 2e11, 2e11, 1e11, 4e10, 1e-7, 1 << 20, 1 << 24)
    measured = peaks.Peaks(2, 5.1e11, 2.1e11, 2e11, 1.5e11, 3e10, 1e-6, 2 << 20, 1 << 24)
    found = peaks._uncrowded(measured, one)
    assert found.crowded
    assert (found.macs, found.shift_adds, found.l2) == (1e12, 4e11, 4e11)
    assert (found.l3, found.memory, found.call) == (1.5e11, 4e10, 1e-6)
    alone = peaks.Peaks(2, 9.9e11, 4.1e11, 4e11, 1.5e11, 6e10, 1e-6, 2 << 20, 1 << 24)
    assert not peaks._uncrowded(alone, one).crowded
    assert peaks._uncrowded(alone, one).shift_adds == 4.1e11
