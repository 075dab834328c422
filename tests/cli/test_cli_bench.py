"""``bench`` and ``profile``: what they are told, what they print and write."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd.bench import layers, machine, networks, peaks, timing
from tvm_shiftadd.bench.peaks import Peaks
from tvm_shiftadd.cli import main
from tvm_shiftadd.target import runtime

PEAKS = Peaks(1, None, 1e11, 1e11, 5e10, 1e10, 1e-7, 1 << 20, 1 << 24)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first run in a process settles how many threads later ones can have.
    runtime.prefer_num_threads(None)
    for module, name in ((timing, "PAUSE"), (timing, "BLOCK"), (layers, "PAUSE")):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(layers, "_BLOCK", 2)
    monkeypatch.setattr(peaks, "measure", lambda target, threads: (PEAKS,))


def test_an_artifact_is_timed(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(artifact), "--peers", "none", "--threads", "1", "--rounds", "1"]
    assert main([*arguments, "--batch", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (group,) = printed["groups"]
    assert (printed["batch"], group["threads"]) == (3, 1)
    assert [row["name"] for row in group["rows"]] == [networks.OURS]
    assert printed["machine"]["processor"] == machine.describe().processor
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "A run on 1 thread" in text
    assert machine.describe().processor in text


def test_a_model_is_compiled_first(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from tvm_shiftadd import api
    from tvm_shiftadd.bench import inputs

    said: dict[str, Any] = {}

    def bench(task: Any, **arguments: Any) -> Any:
        said.update(arguments, task=task)
        return FakeComparison()

    (tmp_path / "m.onnx").touch()
    monkeypatch.setattr(api, "load", lambda path, **_: f"model of {Path(path).name}")
    monkeypatch.setattr(api, "compile", lambda model, **more: said.update(more) or "artifact")
    monkeypatch.setattr(inputs, "task", lambda artifact, **more: (artifact, more))
    monkeypatch.setattr(networks, "bench", bench)
    arguments = ["bench", str(tmp_path / "m.onnx"), "--calib", str(images), "--calib-limit", "4"]
    arguments += ["--terms", "3", "--batch", "2", "--peers", "none", "--threads", "1"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert said["terms"] == 3
    assert len(said["calibration"]) == 4
    assert (said["names"], said["asked"], said["threads"], said["rounds"]) == ([], True, (1,), 11)
    artifact, more = said["task"]
    assert artifact == "artifact"
    assert (more["model"], more["onnx"], more["batch"]) == (
        "model of m.onnx",
        tmp_path / "m.onnx",
        2,
    )
    assert json.loads((tmp_path / "out.json").read_text())["made"] == "up"
    assert (tmp_path / "out.md").read_text().startswith("# m.onnx, batch 2\n")
    assert "m.onnx, batch 2" in capsys.readouterr().out


def test_for_random_inputs_conversion_is_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves accuracy alone takes minutes, and no time of the network depends on it."""
    from tvm_shiftadd import api
    from tvm_shiftadd.bench import inputs

    said: dict[str, Any] = {}
    (tmp_path / "m.onnx").touch()
    monkeypatch.setattr(api, "load", lambda path, **_: types.SimpleNamespace(graph="graph"))
    monkeypatch.setattr(api, "compile", lambda model, **more: said.update(more))
    monkeypatch.setattr(inputs, "random_calibration", lambda graph: f"numbers for {graph}")
    monkeypatch.setattr(inputs, "task", lambda artifact, **more: None)
    monkeypatch.setattr(networks, "bench", lambda task, **more: FakeComparison())
    arguments = ["bench", str(tmp_path / "m.onnx"), "--peers", "none", "--threads", "1"]
    assert main([*arguments, "--terms", "1"]) == 0
    assert said["calibration"] == "numbers for graph"
    assert (said["options"].terms, said["options"].compensation) == (1, False)


class FakeComparison:
    model, batch, inputs = "m.onnx", 2, "some images"
    machine = machine.describe()

    def to_dict(self) -> dict[str, Any]:
        return {"machine": self.machine.to_dict(), "made": "up"}

    def tables(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "pytorch"], "--peers"),
        (["--rounds", "0"], "--rounds"),
        (["--threads", "9999"], "threads, got 9999"),
        (["--batch", "0"], "--batch"),
        (["--shape", "1,4"], "--shape"),
        (["-o", "missing/out"], "--output"),
    ],
)
def test_wrong_usage_of_bench(
    artifact: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(artifact), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "missing.onnx"]) == 2
    assert "missing.onnx does not exist" in capsys.readouterr().err


def test_profile(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 4), np.float32))
    arguments = ["profile", str(artifact), "--threads", "1", "--rounds", "1"]
    given = ["--input", str(tmp_path / "x.npz"), "-o", str(tmp_path / "out"), "--json"]
    assert main([*arguments, *given]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["batch"] == 5
    # This artifact holds no record of its calls: they go by their kernels' names.
    assert [call["layers"] for call in printed["calls"]] == [["add"]]
    assert json.loads((tmp_path / "out.json").read_text()) == printed
    assert "Calls on 1 thread" in (tmp_path / "out.md").read_text()
    assert main(arguments) == 0
    assert "Measured peaks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--input", "x.npz", "--batch", "2"], "--batch is for random inputs"),
        (["-o", "missing/out"], "--output"),
    ],
)
def test_wrong_usage_of_profile(
    artifact: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(artifact), *arguments]) == 2
    assert message in capsys.readouterr().err
