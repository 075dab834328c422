"""--terms auto on the command line: what is passed on, refused and written."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.cli import allocation as tables
from tvm_shiftadd.cli import frontier, main
from tvm_shiftadd.errors import DependencyError, InputError


def point(label: str, terms: float, agreement: float | None, chosen: bool = False) -> Any:
    costs = {"terms": terms, "bytes": 100.0 * terms, "energy": terms / 9, "cycles": 9.0}
    error = 0.1 / terms
    return {
        "label": label,
        "costs": costs,
        "error": error,
        "agreement": agreement,
        "chosen": chosen,
    }


@pytest.fixture
def allocation() -> dict[str, Any]:
    layer = {"name": "conv[1]", "terms": 2, "terms_per_weight": 1.27, "sensitivity": 3.5}
    layer |= {"effect": [0.01, 0.001, 0.0001], "price": 1e-4, "cost_before": 1.75, "cost": 1.27}
    points = [point("K=1", 0.96, 97.0), point("auto", 1.27, 99.0, True), point("auto", 1.6, 99.5)]
    return {
        "budget": "terms <= 1.3",
        "unit": "terms",
        "grain": "weight",
        "cost": 1.27,
        "reachable": [0.24, 2.1],
        "costs": points[1]["costs"],
        "trials": 7,
        "gap": None,
        "disagreement": 1.0,
        "held_out": 100,
        "layers": [layer],
        "frontier": points,
    }


def compile_with(images: Path, *extra: str) -> int:
    out = str(images.parent / "out")
    return main(["compile", "m.onnx", "-o", out, "--calib", str(images), *extra])


def test_the_limits_are_passed_on(api: Any, images: Path) -> None:
    arguments = ["--terms", "auto", "--budget", "cycles=900", "--grain", "layer"]
    assert compile_with(images, *arguments) == 0
    ((_, said),) = api.calls
    assert (said["terms"], said["budget"], said["grain"]) == ("auto", "cycles=900", "layer")
    assert (said["max_drop"], said["frontier"]) == (None, False)


def test_eval_passes_on_a_largest_drop(api: Any, images: Path) -> None:
    model = images.parent / "m.onnx"
    model.touch()
    arguments = ["eval", str(model), "--data", str(images), "--calib", str(images)]
    assert main([*arguments, "--terms", "auto", "--max-drop", "0.5"]) == 0
    ((_, said),) = api.calls
    assert (said["terms"], said["max_drop"], said["budget"]) == ("auto", 0.5, None)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--budget", "terms=1.3"], "--budget is for terms that are chosen; give --terms auto"),
        (["--terms", "1", "--max-drop", "1"], "give --terms auto"),
        (["--frontier", "f.csv"], "give --terms auto"),
        (["--terms", "auto", "--budget", "joules=2"], "unit 'joules' is not known"),
        (["--terms", "auto", "--budget", "2"], "UNIT=AMOUNT"),
        (["--terms", "auto", "--grain", "pixel"], "grain is one of layer, tile, weight"),
        (["--terms", "auto", "--budget", "bytes=9", "--grain", "tile"], "--grain layer"),
        (["--terms", "auto", "--budget", "terms=1", "--max-drop", "1"], "give one of them"),
        (["--terms", "auto", "--frontier", "f.gif"], ".json, .csv, .png, not as 'f.gif'"),
        (["--terms", "auto", "--frontier", "no/such/f.csv"], "its folder does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    api: Any, images: Path, extra: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_with(images, *extra) == 2
    text = capsys.readouterr().err
    assert words in text
    assert text.startswith("error: ") and text.count("\n") == 1
    assert api.calls == []


def test_help_says_what_a_largest_drop_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "disagreement with the float network on held-out calibration images" in words
    for option in ("--budget", "--max-drop", "--grain", "--frontier"):
        assert option in words


def test_a_frontier_is_written_as_json(allocation: dict[str, Any], tmp_path: Path) -> None:
    frontier.write(tmp_path / "f.json", allocation)
    content = json.loads((tmp_path / "f.json").read_text())
    assert content["budget"] == "terms <= 1.3"
    assert content["points"] == allocation["frontier"]


def test_a_frontier_is_written_as_csv(allocation: dict[str, Any], tmp_path: Path) -> None:
    allocation["frontier"][0]["agreement"] = None
    frontier.write(tmp_path / "f.csv", allocation)
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["K=1", "auto", "auto"]
    assert rows[1]["terms"] == "1.27" and rows[1]["chosen"] == "True"
    assert rows[0]["agreement"] == ""


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra docs")
@pytest.mark.parametrize("named", [True, False])
def test_a_frontier_is_drawn(allocation: dict[str, Any], tmp_path: Path, named: bool) -> None:
    if not named:
        for one in allocation["frontier"]:
            one["agreement"] = None
    frontier.write(tmp_path / "f.PNG", allocation)
    assert (tmp_path / "f.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frontier, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'tvm-shiftadd\[docs\]'"):
        frontier.check(tmp_path / "f.png")
    frontier.check(tmp_path / "f.csv")
    with pytest.raises(InputError, match="cannot be written"):
        frontier.check(tmp_path)


def test_the_tables_show_layers_and_frontier(
    allocation: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.show(allocation)
    text = capsys.readouterr().out
    assert "conv[1]" in text and "1.75" in text and "1.27" in text
    assert "1.27 of a range from 0.24 to 2.1; 7 conversions tried" in text
    assert "Of 100 held-out calibration images, 1.00 % change class." in text
    assert "auto (kept)" in text and "99.50" in text
    tables.show({**allocation, "gap": 0.02, "frontier": []})
    text = capsys.readouterr().out
    assert "within 2 % of the optimum" in text and "Frontier" not in text
    tables.show({**allocation, "gap": 0.0})
    assert "proved optimal" in capsys.readouterr().out
