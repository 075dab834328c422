"""The files that measurements are written to, and the machine named in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_shiftadd.bench import machine, results
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.errors import InputError

TABLE = Table("Some | times", ("name", "ms"), (("a|b", 1.23456), ("c", None)), notes=("A note.",))


def test_both_files_name_the_machine(tmp_path: Path) -> None:
    described = machine.describe()
    report = {"machine": described.to_dict(), "rows": [1]}
    data, page = results.write(tmp_path / "run.1", "Title", report, [TABLE])
    assert (data.name, page.name) == ("run.1.json", "run.1.md")
    assert json.loads(data.read_text())["machine"]["processor"] == described.processor
    lines = page.read_text().splitlines()
    assert lines[0] == "# Title"
    assert described.processor in lines[2]
    assert "apache-tvm" in lines[2]
    assert described.date in lines[2]
    assert lines[4:] == [
        "## Some | times",
        "",
        "| name | ms |",
        "| --- | ---: |",
        r"| a\|b | 1.235 |",
        "| c | - |",
        "",
        "A note.",
    ]


def test_a_page_that_cannot_be_made_leaves_both_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"machine": machine.describe().to_dict()}
    files = results.write(tmp_path / "run", "Before", report, [TABLE])
    before = [file.read_bytes() for file in files]
    with pytest.raises(KeyError):
        results.write(tmp_path / "run", "After", {"machine": {}, "rows": [2]}, [TABLE])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="run cannot be written: No space left"):
        results.write(tmp_path / "run", "After", report, [TABLE])
    assert [file.read_bytes() for file in files] == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("prefix", ["missing/run", "."])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(InputError, match="--output"):
        results.check(tmp_path / prefix)


def test_caches(tmp_path: Path) -> None:
    entries = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]
    for index, entry in enumerate(entries):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), entry, strict=True):
            (folder / name).write_text(value + "\n")
    (tmp_path / "index9").mkdir()
    assert machine.caches(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20}


def test_one_line_of_the_machine() -> None:
    described = machine.describe()
    assert described.processor in described.line
    assert f"{described.cores} cores" in described.line
