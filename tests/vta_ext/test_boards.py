"""The table of boards, and the stages of a tool flow: done once, whole, or not at all."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import CompileError, DependencyError, InputError
from vta_ext import boards
from vta_ext.boards import flow
from vta_ext.boards.stages import Stage, Workshop
from vta_ext.rtl import tools

#: A tool that copies its input and counts its runs.
TOOL = """#!/bin/sh
if [ "$1" = --version ]; then echo "tool 1.0"; exit; fi
echo run >> "$0.runs"
echo "working on $1"
[ "$1" = bad.txt ] && { echo "ERROR: bad input"; touch out.txt; exit 3; }
cp "$1" out.txt
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "copier"
    path.write_text(TOOL)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return path


def stage(name: str = "in.txt") -> Stage:
    return Stage("copy", "copier", (name,), (name,), ("out.txt",))


def runs(tool: Path) -> int:
    return len(tool.with_name("copier.runs").read_text().splitlines())


def test_a_stage_is_done_once_for_the_same_inputs(tool: Path, tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "work")
    shop.write("in.txt", "one")
    first = shop.run(stage())
    assert (first.version, first.reused) == ("tool 1.0", False)
    again = shop.run(stage())
    assert (again.reused, again.seconds) == (True, first.seconds)
    assert runs(tool) == 1
    shop.write("in.txt", "two")
    assert not shop.run(stage()).reused
    assert (shop.folder / "out.txt").read_text() == "two"
    (shop.folder / "out.txt").unlink()
    assert not shop.run(stage()).reused
    tool.write_text(TOOL.replace("1.0", "1.1"))
    assert not shop.run(stage()).reused
    assert runs(tool) == 4


def test_a_stage_that_fails_leaves_its_log_and_nothing_else(tool: Path, tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "work")
    shop.write("bad.txt", "")
    with pytest.raises(CompileError, match=r"copier failed in stage copy \(code 3\): ERROR: bad"):
        shop.run(stage("bad.txt"))
    assert sorted(path.name for path in shop.folder.iterdir()) == ["bad.txt", "copy.log"]
    assert "working on bad.txt" in (shop.folder / "copy.log").read_text()


def test_a_damaged_record_is_no_record(tool: Path, tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "work")
    shop.write("in.txt", "one")
    shop.run(stage())
    for text in ("", "[]", "{"):
        (shop.folder / "copy.done.json").write_text(text)
        assert not shop.run(stage()).reused


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DependencyError, match=r"needs no-such-tool.*pip install 'tvm-shiftadd\[rtl"
    ):
        tools.find("no-such-tool")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be a folder"):
        Workshop(file)


def test_boards_hold_what_their_parts_have() -> None:
    """Block memories of an ECP5-85: 208 of 2 KiB, of which the buffers take some."""
    for board in boards.BOARDS.values():
        assert boards.board(board.name) is board
        if board.family != boards.ECP5:
            assert not board.routed
            continue
        config = board.config
        buffers = sum(
            (1 << size)
            for size in (
                config.log_uop_buff_size,
                config.log_inp_buff_size,
                config.log_wgt_buff_size,
                config.log_acc_buff_size,
            )
        )
        assert buffers + board.block_memory < 208 * 2048
    with pytest.raises(InputError, match="the boards are ulx3s-85f, "):
        boards.board("nope")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--board", "nope"], "there is no board 'nope'", 2),
        (["--board", "pynq", "--stage", "all"], "expected --stage report or bitstream", 2),
        (["--board", "pynq", "--stage", "bitstream"], "which no open tool places and routes", 1),
        (["--board", "pynq", "--seed", "-1"], "--seed", 2),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *arguments, "-o", str(tmp_path / "out")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def routed(achieved: float) -> str:
    """A report as nextpnr writes it."""
    return json.dumps(
        {
            "fmax": {
                "oscillator": {"achieved": 30.0, "constraint": 25.0},
                "clock": {"achieved": achieved, "constraint": 80.0},
            },
            "utilization": {
                "TRELLIS_COMB": {"used": 4184, "available": 83640},
                "DP16KD": {"used": 104, "available": 208},
            },
        }
    )


@pytest.mark.parametrize(("achieved", "met"), [(80.04, True), (79.9, False)])
def test_a_report_of_what_was_routed(achieved: float, met: bool, tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.write("route.json", routed(achieved))
    board = boards.board("ulx3s-85f")
    report = flow._report(board, shop, ())
    assert report.met is met
    assert report.resources["LUT"] == flow.Resource(4184, 83640)
    assert report.resources["BRAM"] == flow.Resource(104, 208)
    if not met:
        with pytest.raises(CompileError, match=r"reaches 79\.9 MHz .* at 80: try another --seed"):
            flow._require_clock(report, board)


def test_a_report_of_cells(tmp_path: Path) -> None:
    cells = {"LUT6": 10, "LUT2": 5, "RAMB36E1": 2, "RAMB18E1": 3, "RAM32M": 2, "FDRE": 7}
    shop = Workshop(tmp_path)
    shop.write("cells.json", json.dumps({"design": {"num_cells_by_type": cells}}))
    report = flow._report(boards.board("pynq"), shop, ())
    counts = {name: resource.used for name, resource in report.resources.items()}
    assert counts["LUT"] == 15
    assert counts["LUT as memory"] == 8
    assert (counts["BRAM36"], counts["FF"], counts["DSP"]) == (3.5, 7, 0)
    assert (report.fmax_mhz, report.met) == (None, None)
