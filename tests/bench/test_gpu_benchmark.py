"""The benchmark of GPUs without one: its plan, and all of it but torch on the emulated machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from tests.bench.test_benchmark_files import FOLDER, loaded
from tests.cuda.emulation import emulated, run_function
from tvm_shiftadd.bench import gpu_layers, gpu_reference
from tvm_shiftadd.bench.gpu_layers import Layer
from tvm_shiftadd.target import cuda_runtime

TINY = [
    Layer("vector", "dense", 1, 64, 32),
    Layer("distances", "adder", 2, 16, 16, 5, 3),
]


@pytest.fixture
def benchmark_file(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(FOLDER / "gpu.py", monkeypatch)


def test_the_plan_needs_no_gpu(benchmark_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_file.main(["--plan", "--only", "dense,adder"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "4096x11008" in lines[3] and "batch=8" in lines[3]
    layers = benchmark_file.plan(benchmark_file.KINDS)
    assert [layer.name for layer in layers if layer.kind == "conv2d" and layer.terms == 1] == [
        f"C{number}" for number in range(2, 12)
    ]
    # 32 images of C2: 2 * 56^2 * 64 * 64 * 9 operations each.
    c2 = next(layer for layer in layers if layer.name == "C2")
    assert c2.operations == 32 * 231_211_008
    assert next(iter(layers)).weight_bytes * next(iter(layers)).copies == gpu_layers.COPIED


@pytest.mark.parametrize("given", [["--only", "dense,gemm"], ["--rounds", "0"]])
def test_wrong_arguments_are_refused(benchmark_file: Any, given: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark_file.arguments(given)


@pytest.mark.skipif(cuda_runtime.driver() is not None, reason="an NVIDIA driver is here")
def test_without_a_gpu_it_says_so(benchmark_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_file.main([]) == 1
    assert "none is visible here" in capsys.readouterr().err


def test_tiny_layers_are_checked_timed_and_written(
    benchmark_file: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_layers, "COPIED", 3 * TINY[0].weight_bytes)
    monkeypatch.setattr(gpu_layers, "BLOCK", 0.0)
    monkeypatch.setattr(benchmark_file, "plan", lambda kinds: TINY)
    monkeypatch.setattr(benchmark_file, "torch_sees_a_gpu", lambda: False)
    assert [layer.copies for layer in TINY] == [3, 1]
    with emulated("backward"):
        device = tvm.cuda()
        monkeypatch.setattr(type(device), "compute_version", "8.0")
        assert benchmark_file.main(["--rounds", "2", "--results", str(tmp_path / "gpu")]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [entry["layer"] for entry in report["layers"]] == ["vector", "distances"]
    assert [row["name"] for row in report["layers"][1]["rows"]] == ["ours", "CUDA by hand"]
    assert report["arch"] == "sm_80"
    assert "distances" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_a_wrong_result_is_not_timed(benchmark_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_layers, "BLOCK", 0.0)
    monkeypatch.setattr(benchmark_file, "expected", lambda layer: np.zeros(1))
    with emulated(), pytest.raises(AssertionError, match="distances"):
        benchmark_file.measure_layer(TINY[1], "sm_80", tvm.cuda(), 1, None)


def test_the_adder_layer_written_by_hand_is_right() -> None:
    layer, rng = TINY[1], np.random.default_rng(0)
    x, (weights, bias) = layer.inputs_of(rng), gpu_layers.parameters(layer, 1)
    out = np.zeros(layer.results, np.int32)
    with emulated("backward"):
        run_function(gpu_reference.reference(layer), x.ravel(), weights.ravel(), bias, out)
    padded = np.pad(x.astype(int), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    windows = np.concatenate(taps, axis=-1)[..., None]
    wanted = bias - abs(windows - weights.astype(int)).sum(axis=-2)
    np.testing.assert_array_equal(out.reshape(wanted.shape), wanted)
