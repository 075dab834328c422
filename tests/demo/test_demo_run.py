"""The whole demo, as ``tvm-shiftadd demo`` runs it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import tvm_shiftadd as tsa
from tvm_shiftadd import demo
from tvm_shiftadd.demo import digits
from tvm_shiftadd.errors import DependencyError, InputError


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """What the demo printed, what it returned, and the folder it wrote into."""
    pytest.importorskip("sklearn")
    directory = tmp_path_factory.mktemp("demo") / "new"
    printed = io.StringIO()
    result = demo.run(Console(file=printed, width=100), directory=directory)
    return printed.getvalue(), result, directory


def test_accuracy_is_kept(story: tuple[str, dict[str, Any], Path]) -> None:
    evaluation = story[1]["evaluation"]
    assert evaluation["n"] == 360
    assert evaluation["float"]["top1"] >= 97.5
    assert evaluation["shiftadd"]["top1"] >= evaluation["float"]["top1"] - 1
    assert evaluation["agreement"] >= 98


def test_no_multiplication_is_left(story: tuple[str, dict[str, Any], Path]) -> None:
    operations = story[1]["costs"]["operations"]
    assert operations["float32"]["multiplies"] > 100_000
    assert operations["shift_add"]["multiplies"] == 0


def test_the_weight_is_near_its_float(story: tuple[str, dict[str, Any], Path]) -> None:
    weight = story[1]["weight"]
    assert weight["after"] == weight["integer"] * 2.0 ** -weight["exponent"]
    assert abs(weight["after"] - weight["before"]) < 0.05 * abs(weight["before"])


def test_the_story_shows_every_step(story: tuple[str, dict[str, Any], Path]) -> None:
    printed, result, _ = story
    for text in (
        "1. The network",
        "2. One weight, from float to shifts",
        result["weight"]["powers"],
        "3. Does it still read?",
        f"{result['evaluation']['shiftadd']['top1']:.2f} %",
        "4. What it costs",
        "Counted, not measured",
        "Horowitz",
        "5. Your turn",
        " explain ",
    ):
        assert text in printed


def test_the_figures_are_plain_json(story: tuple[str, dict[str, Any], Path]) -> None:
    assert json.loads(json.dumps(story[1])) is not None


def test_the_files_it_names_work(story: tuple[str, dict[str, Any], Path]) -> None:
    _, result, directory = story
    artifact = tsa.Artifact.load(result["artifact"])
    data = tsa.open_dataset(directory / digits.TEST)
    assert data.labels is not None
    scores = artifact.run(next(data.batches(len(data))))
    top1 = 100 * np.mean(np.asarray(scores).argmax(1) == data.labels)
    assert top1 == pytest.approx(result["evaluation"]["shiftadd"]["top1"], abs=1e-3)
    assert len(tsa.open_dataset(directory / digits.TRAIN)) == 1797 - 360


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not write its files"):
        demo.run(Console(quiet=True), directory=tmp_path / "file")


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DependencyError, match=r"pip install 'tvm-shiftadd\[demo\]'"):
        digits.datasets()
