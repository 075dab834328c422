"""Kernel calls by layer: every layer is found, times add up, and the bound is the right one."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_shiftadd import _json
from tvm_shiftadd.bench import layer_tables, layers, peaks
from tvm_shiftadd.bench.peaks import Peaks
from tvm_shiftadd.errors import DataError

PEAKS = Peaks(1, 1e12, 1e11, 1e11, 5e10, 1e10, 1e-7, 1 << 20, 1 << 24)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "PAUSE", 0.0)
    monkeypatch.setattr(layers, "_BLOCK", 2)
    monkeypatch.setattr(peaks, "measure", lambda target, threads: (PEAKS,))


@pytest.fixture
def profile(artifact, images: np.ndarray) -> layers.Profile:
    return layers.profile(artifact, {"x": images[:2]}, threads=1, rounds=2)


def test_every_layer_of_the_network_is_there(profile: layers.Profile) -> None:
    found = [name for call in profile.calls for name in call.layers]
    for name in ("first", "second", "average"):
        assert found.count(name) >= 1, found
    convolution = next(call for call in profile.calls if "second" in call.layers)
    assert convolution.work > 0
    assert convolution.bytes > 0
    assert convolution.of_peak is not None


def test_multiply_accumulates_are_counted_once(profile: layers.Profile, artifact) -> None:
    costs = {cost["name"]: cost for cost in artifact.report["costs"]["layers"]}
    for name in ("first", "second"):
        (call,) = (c for c in profile.calls if c.work and name in c.layers)
        macs = costs[name]["macs"]
        terms = costs[name]["terms"] * macs // costs[name]["weights"]
        assert call.work == 2 * (macs if call.instruction else terms)


def test_times_add_up(profile: layers.Profile) -> None:
    assert len(profile.calls) >= 4
    total = sum(call.seconds[1] for call in profile.calls)
    assert 0 < profile.seconds_in_calls < 3 * total
    assert profile.seconds[0] <= profile.seconds[1] <= profile.seconds[2]
    _json.encode(profile.to_dict())


def test_profiling_changes_no_result(artifact, images: np.ndarray) -> None:
    machine = artifact.machine(1)
    before = machine([images])
    watched = layers._Watched(machine, [images])
    assert len(watched.sample()[0]) == len(watched.kernels) == len(watched.bytes)
    np.testing.assert_array_equal(machine([images]), before)


def test_the_tables(profile: layers.Profile) -> None:
    shown, calls = layer_tables.tables(profile)
    assert shown.rows[0][2] == "1000.0"
    assert len(calls.rows) == len(profile.calls)
    assert all(len(row) == len(calls.columns) for row in calls.rows)
    assert "between calls" in calls.notes[0]
    means = {row[0]: row[1] for row in calls.rows}
    # Without counted work: its first operator, dequantize where a kernel does the pooling before.
    assert means["average"] in ("avg_pool2d", "dequantize")
    assert {means[name] for name in means if "first" in name} <= {"vpdpbusd", "shifts"}


@pytest.mark.parametrize(
    ("work", "size", "bound", "least"),
    [
        (10**9, 1000, "compute", 1e-3),
        (10**3, 10**6, "memory", 1e-5),
        (0, 1 << 23, "memory", (1 << 23) / 5e10),
        (0, 1 << 30, "memory", (1 << 30) / 1e10),
        (10, 10, "overhead", 1e-7),
    ],
)
def test_bounds(work: int, size: int, bound: str, least: float) -> None:
    call = layers.Call("k", "r", (), (), "vpdpbusd", (1e-3, 2e-3, 3e-3), work, size)
    found = layers._bounded(call, PEAKS)
    assert (found.bound, found.least) == (bound, pytest.approx(least))
    assert found.of_peak == (pytest.approx(work / 1e12 / 2e-3) if work else None)
    assert found.name == "r (form)"


def test_calls_without_a_record_go_by_their_kernel() -> None:
    records = [{"kernel": "a"}, {"kernel": "c"}]
    assert list(layers._aligned(["a", "b", "c"], records)) == [records[0], {}, records[1]]
    assert list(layers._aligned(["a"], [])) == [{}]


def test_wrong_inputs(artifact, images: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected the inputs x"):
        layers.profile(artifact, {"y": images}, rounds=1)
