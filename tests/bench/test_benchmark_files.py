"""The files of ``benchmarks/`` are run by hand; that they still fit the project is tested here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tvm_shiftadd.errors import ModelError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PACKAGES = ("tvm_shiftadd", "relay_passes", "vta_ext")


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file as a module; skipped where a package that is not ours is missing."""
    if path.stem.startswith("bench_"):
        pytest.importorskip("pytest_benchmark")  # whose marker they use
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, module)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in PACKAGES:
            raise
        pytest.skip(f"{path.name} needs {error.name}")
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(path, monkeypatch)
    assert module.__doc__, "a benchmark says what it compares"
    assert path.name in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("short")
def test_the_page_of_whole_networks(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times, compile time and constants of one and two terms, for a network without its peers."""
    module = loaded(FOLDER / "networks.py", monkeypatch)
    arguments = ["--peers", "none", "--rounds", "1", "--threads", "1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["networks.py", str(model_file), *arguments])
    module.main()
    stem = tmp_path / "networks_1_threads_auto"
    (row,) = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))["summary"]
    # The layers' weights, and a bias of four bytes for each of their outputs.
    assert row["int8_bytes"] == 3 * 3 * (3 * 8 + 8 * 5) + 4 * 8
    assert 0 < row["constant_bytes"]["1"] < row["constant_bytes"]["2"]
    assert row["build_seconds"] > 0
    page = stem.with_suffix(".md").read_text(encoding="utf-8")
    assert "| tiny | 1 |" in page
    assert "## Constants of a run" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds to be at least 1, got 0"),
        (["--batch", "-1"], "--batch to be at least 1, got -1"),
        (["--threads", "1", "0"], "--threads to be at least 1, got 0"),
        (["--peers", "all,tvm"], "to stand alone"),
        (["missing.onnx"], "missing.onnx does not exist"),
        (["--results", __file__], "--results"),
        (["--memory"], "--memory needs Linux"),
    ],
)
def test_wrong_arguments_of_whole_networks_are_told_before_the_work(
    model_file: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = loaded(FOLDER / "networks.py", monkeypatch)
    monkeypatch.setattr(module, "compiled", None)
    monkeypatch.setattr(module.memories, "available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["networks.py", str(model_file), *arguments])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_what_was_measured_outlives_a_later_failure(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(FOLDER / "networks.py", monkeypatch)
    done: list[str] = []
    measure = module.measure

    def once(one: Any, *more: Any) -> Any:
        if done:
            raise ModelError("no more")
        done.append(one.name)
        return measure(one, *more)

    monkeypatch.setattr(module, "measure", once)
    arguments = ["--peers", "none", "--rounds", "1", "--threads", "1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["networks.py", *[str(model_file)] * 2, *arguments])
    with pytest.raises(SystemExit):
        module.main()
    report = json.loads((tmp_path / "networks_1_threads_auto.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in report["summary"]] == ["tiny"]
