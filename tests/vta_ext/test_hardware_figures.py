"""Figures of the hardware that one command measures and puts into the pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_shiftadd.errors import InputError
from vta_ext.boards import Board, figures, flow
from vta_ext.boards.stages import Done
from vta_ext.rtl import tools

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "# Page\n\n<!-- figures: cells -->\n\nold\n\n<!-- end of figures -->\n\nMore.\n"
#: Look-up tables by what multipliers are made of.
TABLES = {"": 900.0, "booth": 1900.0, "dsp": 400.0}


def counted(board: Board, folder: Path, tell: object) -> tuple[dict[str, float], Done]:
    assert folder.name == board.name
    used = {"LUT": TABLES[board.multipliers], "LUT as memory": 100.0, "FF": 5000.0}
    used |= {"DSP": 256.0 * (board.multipliers == "dsp"), "BRAM36": 87.5}
    return used, Done("synthesis", "1", 3.0, False)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """The program, with tools that are not asked."""
    monkeypatch.setattr(flow, "count", counted)
    monkeypatch.setattr(tools, "require", lambda *_: None)
    return figures.main


def test_a_table_takes_the_place_of_the_one_before(
    prepared: Callable[[list[str]], None], tmp_path: Path
) -> None:
    page = tmp_path / "boards.md"
    page.write_text(PAGE)
    arguments = ["--tables=cells", "--boards=pynq", f"--docs={tmp_path}", f"--output={tmp_path}/o"]
    prepared(arguments)
    once = page.read_text()
    assert once.startswith("# Page\n\n<!-- figures: cells -->\n\n| machine |")
    assert once.endswith("|\n\n<!-- end of figures -->\n\nMore.\n")
    assert "old" not in once
    assert "| `pynq`: 16 x 16 shift units | 900 | 0.50 | 100 | 5,000 | 0 | 87.5 |" in once
    assert "| `pynq`: 16 x 16 Booth multipliers | 1,900 | 1.00 |" in once
    assert "| `pynq`: 16 x 16 multipliers of DSPs | 400 | 0.25 | 100 | 5,000 | 256 | 87.5 |" in once
    prepared(arguments)
    assert page.read_text() == once


def test_routed_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(
        resources=dict.fromkeys(("LUT", "FF", "DSP", "BRAM"), flow.Resource(41.0, 83640)),
        fmax_mhz=64.1,
        target_mhz=80,
        stages=(Done("synthesis", "1", 60.0, True), Done("route", "1", 180.0, False)),
    )
    monkeypatch.setattr(flow, "build", lambda *_: report)
    table = figures.routed(tmp_path, ["ulx3s-85f-small"], lambda *_: None)
    assert table.splitlines()[-1] == (
        f"| `ulx3s-85f-small` |{' 41 of 83,640 |' * 4} 64.1 | 80 | 4 |"
    )
    with pytest.raises(InputError, match="pynq is not placed here"):
        figures.routed(tmp_path, ["pynq"], lambda *_: None)


@pytest.mark.parametrize(
    ("page", "arguments", "said"),
    [
        ("# Page\n", ["--tables=cells"], "expected the line .* once"),
        (PAGE + PAGE, ["--tables=cells"], "expected the line .* once"),
        (PAGE.replace("<!-- end", "<!-- and"), ["--tables=cells"], "end of figures.* after"),
        (PAGE, ["--tables=energy"], "energy needs --liberty"),
        (PAGE, ["--tables=cells", "--docs=no"], "No such file"),
        (PAGE, ["--tables=prices"], "invalid choice: 'prices'"),
    ],
)
def test_what_is_wrong_is_said_and_the_page_stays(
    page: str,
    arguments: list[str],
    said: str,
    prepared: Callable[[list[str]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "boards.md").write_text(page)
    with pytest.raises(SystemExit) as ended:
        prepared([f"--docs={tmp_path}", "--boards=pynq", *arguments])
    assert ended.value.code == 2
    assert re.search(f"error: .*{said}", capsys.readouterr().err)
    assert (tmp_path / "boards.md").read_text() == page


def test_the_pages_have_their_marks() -> None:
    for name, page in figures.PAGES.items():
        text = (DOCS / page).read_text()
        assert "\n| new |\n" in figures.filled(text, name, "| new |")


@pytest.mark.rtl
def test_rows_are_measured_once(tmp_path: Path) -> None:
    pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
    told: list[str] = []
    table = figures.rows(tmp_path, lambda stage, *_: told.append(stage))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| multiply (Booth)",
        "| shift",
        "| adder",
        "| shift and adder",
    ]
    assert len(told) == 4
    records = sorted(tmp_path.glob("*/synthesis.done.json"))
    before = [record.stat().st_mtime_ns for record in records]
    assert figures.rows(tmp_path, lambda *_: None) == table
    assert [record.stat().st_mtime_ns for record in records] == before
