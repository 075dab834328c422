"""Each command calls one public function with what the user said."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd import doctor
from tvm_shiftadd.cli import main
from tvm_shiftadd.data import Preprocess
from tvm_shiftadd.doctor import Check


def test_compile(api: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = images.parent / "out"
    spec = '{"scale": 0.5}'
    arguments = ["compile", "m.onnx", "-o", str(out), "--calib", str(images), "--terms", "3"]
    arguments += ["--calib-limit", "4", "--preprocess", spec, "--target", "cpu:generic", "--json"]
    assert main(arguments) == 0
    ((_, said),) = api.calls
    assert said["model"] == "model of m.onnx"
    assert (said["terms"], said["target"], said["dump_ir"]) == (3, "cpu:generic", None)
    assert len(said["calibration"]) == 4
    assert said["calibration"].preprocess == Preprocess(scale=0.5)
    assert (out / "saved").exists()
    printed = json.loads(capsys.readouterr().out)
    assert printed["artifact"] == str(out)
    assert printed["weight_bytes"] == 100


def test_compile_prints_a_table(api: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = images.parent / "out"
    assert main(["compile", "m.onnx", "-o", str(out), "--calib", str(images)]) == 0
    text = capsys.readouterr().out
    assert "weight bytes" in text
    assert f"tvm-shiftadd report {out}" in text


def test_compile_checks_the_output_first(
    api: Any, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images.parent / "out").mkdir()
    (images.parent / "out" / "thesis.txt").touch()
    out = str(images.parent / "out")
    assert main(["compile", "m.onnx", "-o", out, "--calib", str(images)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert api.calls == []


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([], "--calib"),
        (["--calib", "missing.npz"], "does not exist"),
        (["--calib", "IMAGES", "--calib-limit", "0"], "limit >= 1"),
        (["--calib", "IMAGES", "--preprocess", '{"sale": 1}'], "the keys are"),
    ],
)
def test_compile_with_unusable_calibration(
    api: Any, images: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: str
) -> None:
    arguments = [str(images) if text == "IMAGES" else text for text in extra]
    assert main(["compile", "m.onnx", "-o", str(images.parent / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert api.calls == []
    assert not (images.parent / "out").exists()


def test_eval(api: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = images.parent / "m.onnx"
    model.touch()
    arguments = ["eval", str(model), "--data", str(images), "--calib", str(images), "--json"]
    arguments += ["--skip", "1", "--limit", "3", "--calib-limit", "2"]
    assert main(arguments) == 0
    ((_, said),) = api.calls
    assert said["data"].labels.tolist() == [1, 2, 3]
    assert len(said["calibration"]) == 2
    assert (said["model"], said["terms"]) == (f"model of {model}", 2)
    assert said["target"] == "cpu"
    printed = json.loads(capsys.readouterr().out)
    assert printed["n"] == 3
    assert printed["float"]["top1"] == 91.5


@pytest.mark.parametrize("command", ["compile", "eval", "explain"])
@pytest.mark.parametrize(
    ("texts", "shape"),
    [
        ([], None),
        (["-1,3,32,32"], (-1, 3, 32, 32)),
        (["a=1,4", "b:0=1,7"], {"a": (1, 4), "b:0": (1, 7)}),
    ],
)
def test_shapes_and_weights_reach_the_importer(
    api: Any, images: Path, command: str, texts: list[str], shape: Any
) -> None:
    model = images.parent / "m.onnx"
    model.touch()
    rest = {
        "compile": ["-o", str(images.parent / "out"), "--calib", str(images)],
        "eval": ["--data", str(images), "--calib", str(images)],
        "explain": [],
    }[command]
    said = [word for text in texts for word in ("--shape", text)]
    assert main([command, str(model), *rest, *said, "--weights", "apot-3"]) == 0
    assert api.loaded == {"shape": shape, "weights": "apot-3"}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["1,x"], "got '1,x'"),
        (["1,-1"], "got '1,-1'"),
        (["x="], "got 'x='"),
        (["1,2", "x=1,2"], "a name in every --shape"),
        (["x=1", "x=2"], "once for each input"),
    ],
)
def test_shapes_that_are_none(
    api: Any, texts: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [word for text in texts for word in ("--shape", text)]
    assert main(["explain", "m.onnx", *said]) == 2
    assert words in capsys.readouterr().err


def test_an_artifact_has_its_shapes(
    api: Any, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(images.parent), "--data", str(images), "--shape", "1,3"]) == 2
    assert "an artifact" in capsys.readouterr().err
    assert api.calls == []


def test_eval_prints_a_table(api: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(images.parent), "--data", str(images)]) == 0
    assert "91.00" in capsys.readouterr().out
    assert api.calls[0][1]["calibration"] is None


def test_eval_of_a_missing_model(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "none.onnx", "--data", str(images)]) == 2
    assert "none.onnx does not exist" in capsys.readouterr().err


def test_explain_shows_names_as_they_are(api: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "m.onnx"]) == 0
    text = capsys.readouterr().out
    for words in ("[conv]1", "conv2d", "host", "why", "50.00 %", "a note"):
        assert words in text


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_run(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = write(tmp_path / "x.npz", anything=np.ones((2, 4), np.float32))
    y = tmp_path / "y.npz"
    assert main(["run", str(artifact), "--input", str(x), "--output", str(y), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(y), "shapes": {"file": [2, 4]}}
    with np.load(y) as result:
        np.testing.assert_array_equal(result["file"], [[1, 2, 3, 4]] * 2)
    assert sorted(os.listdir(tmp_path)) == ["x.npz", "y.npz"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((2, 4))}, "float64"),
        ({"x": np.ones((2, 3), np.float32)}, "[2, 3]"),
        ({"a": np.ones((2, 4), np.float32), "b": np.ones(1, np.float32)}, "got a, b"),
        ({}, "holds no arrays"),
    ],
)
def test_run_on_wrong_input(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, np.ndarray],
    words: str,
) -> None:
    x = write(tmp_path / "x.npz", **arrays)
    (tmp_path / "y.npz").write_text("old")
    code = main(["run", str(artifact), "--input", str(x), "--output", str(tmp_path / "y.npz")])
    assert code == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "y.npz").read_text() == "old"


@pytest.mark.parametrize("kind", ["full disk", "directory", "no folder"])
def test_run_that_cannot_write(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    x = write(tmp_path / "x.npz", x=np.ones((2, 4), np.float32))
    y = tmp_path / "y.npz"
    if kind == "full disk":
        y.write_text("old")

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    elif kind == "directory":
        y.mkdir()
    else:
        y = tmp_path / "none" / "y.npz"
    before = sorted(os.listdir(tmp_path))
    assert main(["run", str(artifact), "--input", str(x), "--output", str(y)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert kind != "full disk" or y.read_text() == "old"


def test_run_of_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path), "--input", "x.npz", "--output", "y.npz"]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err


def test_report(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(artifact)]) == 0
    text = capsys.readouterr().out
    for words in ("tiny.onnx", "fc[0]", "shift-add", "DRAM", "Horowitz", "energy, total"):
        assert words in text
    assert main(["report", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["costs"]["multiplications"] == 0


def test_doctor_is_content_here(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["healthy"] is True
    found = {check["name"]: check for check in answer["checks"]}
    assert found["apache-tvm"]["status"] == "ok"
    assert found["TVM starts"]["status"] == "ok"
    assert found["LLVM in TVM"]["found"] == "yes"


def test_doctor_names_a_wrong_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_tvm", lambda: ())
    monkeypatch.setitem(doctor.PINNED, "apache-tvm-ffi", "0.0.1")
    assert main(["doctor"]) == 1
    assert "pip install apache-tvm-ffi==0.0.1" in capsys.readouterr().out


def test_doctor_survives_a_tvm_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROBE", "import os; os.abort()")
    (check,) = doctor._tvm()
    assert check.status == "missing"
    assert "apache-tvm-ffi==0.1.14.post1" in check.remedy


def test_doctor_finds_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert doctor._compiler().status == "missing"
    assert doctor._gpu() == Check("GPU", "note", "no NVIDIA driver")


def test_doctor_looks_at_every_dependency() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = text.split("\ndependencies = [")[1].split("\n]")[0]
    wanted = set(re.findall(r'^ *"([a-z-]+)', listed, re.MULTILINE))
    assert len(wanted) > 8
    assert wanted == {*doctor.PINNED, *doctor.REQUIRED, *doctor.IMPORTERS}


def test_doctor_names_the_extra_to_install() -> None:
    check = doctor._optional("no_such_module", "peers", "x")
    assert check.remedy == "pip install 'tvm-shiftadd[peers]'"


def test_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(console: Any) -> dict[str, int]:
        console.print("a table")
        return {"n": 360}

    import tvm_shiftadd

    fake = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "tvm_shiftadd.demo", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(tvm_shiftadd, "demo", fake, raising=False)
    assert main(["demo"]) == 0
    assert capsys.readouterr().out == "a table\n"
    assert main(["demo", "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out) == {"n": 360}
    assert "a table" in streams.err


INTERRUPTED = """
import sys, time, types
fake = types.ModuleType("tvm_shiftadd.api")
fake.load = lambda path, **rest: path
def compile(*_, **__):
    print("now", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        if SWALLOWED:
            # What comes back from native code.
            raise RuntimeError
        raise
fake.compile = compile
sys.modules["tvm_shiftadd.api"] = fake
import tvm_shiftadd
tvm_shiftadd.api = fake
from tvm_shiftadd.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("swallowed", [False, True])
def test_interrupt_writes_nothing(images: Path, swallowed: bool) -> None:
    out = images.parent / "out"
    arguments = ["compile", "m.onnx", "-o", str(out), "--calib", str(images)]
    child = subprocess.Popen(
        [sys.executable, "-c", f"SWALLOWED = {swallowed}\n{INTERRUPTED}", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background have it ignored, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "now\n"
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    assert child.wait(timeout=30) == 130
    assert rest == "error: interrupted\n"
    child.stderr.close()
    assert os.listdir(images.parent) == ["images.npz"]


@pytest.mark.parametrize(
    ("dump", "words"),
    [("out", "is in the artifact"), ("out/ir", "is in the artifact"), ("images.npz", "neither")],
)
def test_compile_checks_the_dump_first(
    api: Any, images: Path, capsys: pytest.CaptureFixture[str], dump: str, words: str
) -> None:
    place = images if dump == "images.npz" else images.parent / dump
    out = str(images.parent / "out")
    arguments = ["compile", "m.onnx", "-o", out, "--calib", str(images), "--dump-ir", str(place)]
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert api.calls == []
    assert not (images.parent / "out").exists()


def test_compile_does_not_mix_two_dumps(
    api: Any, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = images.parent / "ir", images.parent / "out"
    folder.mkdir()
    arguments = ["compile", "m.onnx", "--calib", str(images), "--dump-ir", str(folder)]
    assert main([*arguments, "-o", f"{out}1"]) == 0
    (folder / "00_Imported.txt").touch()
    assert main([*arguments, "-o", f"{out}2"]) == 2
    assert "a new or an empty folder" in capsys.readouterr().err
