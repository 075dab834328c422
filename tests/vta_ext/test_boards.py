"""The table of boards, and the stages of a tool flow: done once, whole, or not at all."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import CompileError, DependencyError, InputError
from vta_ext import boards
from vta_ext.boards import flow, simulated, zynq
from vta_ext.boards.stages import Stage, Workshop
from vta_ext.rtl import area, export, tools
from vta_ext.rtl import build as build_of_rtl

#: A tool that copies its input and counts its runs.
TOOL = """#!/bin/sh
if [ "$1" = --version ]; then echo "tool 1.0"; exit; fi
echo run >> "$0.runs"
echo "working on $1"
[ "$1" = bad.txt ] && { echo "ERROR: bad input"; touch out.txt; exit 3; }
cp "$1" out.txt
"""
#: What yosys counts.
CELLS = {"LUT6": 10, "LUT2": 5, "RAMB36E1": 2, "RAMB18E1": 3, "RAM32M": 2, "FDRE": 7}
COUNTED = json.dumps({"design": {"num_cells_by_type": CELLS}})
#: A board whose clock is that of the reports here, whatever its own may be.
AT_80_MHZ = replace(boards.board("ulx3s-85f"), clock_mhz=80)


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
    assert names(shop.folder) == ["bad.txt", "copy.log"]
    assert "working on bad.txt" in (shop.folder / "copy.log").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_stage_that_is_run_again_takes_what_was_made_from_it(tool: Path, tmp_path: Path) -> None:
    """First, so that nothing of before is beside the log of a failure."""
    shop = Workshop(tmp_path / "work")
    shop.write("in.txt", "one")
    shop.run(stage())
    shop.write("later.txt", "made from out.txt")
    assert shop.run(stage(), ["later.txt"]).reused
    assert names(shop.folder) == ["copy.done.json", "copy.log", "in.txt", "later.txt", "out.txt"]
    shop.write("in.txt", "two")
    tool.write_text(TOOL.replace('cp "$1" out.txt', "exit 9"))
    with pytest.raises(CompileError, match=r"\(code 9\)"):
        shop.run(stage(), ["later.txt"])
    assert names(shop.folder) == ["copy.log", "in.txt"]


def test_a_folder_has_one_run(tool: Path, tmp_path: Path) -> None:
    """What a killed one has left is cleared away by the next."""
    folder = tmp_path / "work"
    with Workshop(folder) as shop:
        shop.write("in.txt", "one")
        with pytest.raises(InputError, match="work is in use by another run; wait for it"):
            Workshop(folder)
        (folder / ".partial-killed").mkdir()
        (folder / ".partial-killed" / "in.txt").write_text("half")
        shop.run(stage())
    with Workshop(folder) as shop:
        assert not list(folder.glob(".partial*"))
        assert shop.run(stage()).reused


@pytest.fixture
def tools_of_ecp5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Tools that copy the design through: seed 2 is too slow, seed 3 fails, seed 4 does not end."""
    folder = tmp_path / "bin"
    folder.mkdir()
    route = f"""cp netlist.json top.config
case "$*" in
*"--seed 2"*) echo '{routed(70.0)}' ;;
*"--seed 3"*) exit 9 ;;
*"--seed 4"*) exec sleep 600 ;;
*) echo '{routed(81.0)}' ;;
esac > route.json
"""
    for name, body in (
        ("yosys", f"echo '{COUNTED}' > cells.json; cp top.il netlist.json"),
        ("nextpnr-ecp5", route),
        ("ecppack", "cp top.config top.bit"),
    ):
        path = folder / name
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo v1; exit; }}\n{body}\n')
        path.chmod(0o755)
    monkeypatch.setattr(tools, "find", lambda name: str(folder / name))
    design = {"top.il": "one", "top.lpf": ""}
    monkeypatch.setattr(flow, "_design", lambda board: design)
    return design


def build(folder: Path, bitstream: bool = True, seed: int | None = None) -> flow.Report:
    return flow.build(AT_80_MHZ, folder, bitstream, lambda *_: None, seed)


def test_a_folder_holds_what_its_report_says(tools_of_ecp5: dict[str, str], tmp_path: Path) -> None:
    """No bitstream of another design, and no report beside a failure."""
    folder = tmp_path / "work"
    assert build(folder).bitstream == "top.bit"
    assert build(folder, bitstream=False).stages[1].reused
    assert (folder / "top.bit").read_text() == "one"
    tools_of_ecp5["top.il"] = "two"
    with pytest.raises(CompileError, match=r"reaches 70\.0 MHz"):
        build(folder, seed=2)
    assert not (folder / "top.bit").exists()
    assert json.loads((folder / "report.json").read_text())["met"] is False
    with pytest.raises(CompileError, match="failed in stage route"):
        build(folder, seed=3)
    assert not {"report.json", "route.json", "top.config"} & set(names(folder))
    build(folder)
    assert (folder / "top.bit").read_text() == "two"
    flow.build(boards.board("pynq"), folder, False, lambda *_: None)
    assert not {"top.bit", "netlist.json", "route.json"} & set(names(folder))


def test_sigterm_ends_the_tool_and_leaves_no_folder(
    tools_of_ecp5: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    waited_for: list[subprocess.Popen[bytes]] = []
    wait = subprocess.Popen.communicate

    def terminated(process: subprocess.Popen[bytes], *arguments: object, **more: object) -> object:
        if "--seed" in process.args:
            waited_for.append(process)
            signal.raise_signal(signal.SIGTERM)
        return wait(process, *arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(subprocess.Popen, "communicate", terminated)
        build(tmp_path / "work", seed=4)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in waited_for] == [-signal.SIGKILL]
    assert not list((tmp_path / "work").glob(".partial*"))
    assert signal.getsignal(signal.SIGTERM) is before
    assert build(tmp_path / "work").met


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


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (zynq.main, ["--board=pynq", "--clock=0", "--output=x"], "a clock of 1 MHz or more, got 0"),
        (zynq.main, ["--board=pynq", "--output=x"], "hardware needs amaranth: pip install"),
        (simulated.main, ["ulx3s-85f-small"], "needs amaranth.*: pip install"),
        (area.main, [], "hardware needs amaranth: pip install"),
        (area.main, ["--rows=4"], "unrecognized arguments: --rows=4"),
        (export.main, ["--preset=pynq", "--output=x.v"], "hardware needs amaranth: pip install"),
        (export.main, ["--preset=pynk", "--output=x.v"], "invalid choice: 'pynk'"),
        (export.main, ["--config=no.json", "--output=x.v"], "configuration no.json: No such file"),
    ],
)
def test_programs_say_what_is_wrong(
    main: Callable[[list[str]], None],
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (tools, build_of_rtl):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert re.search(f"error: .*{said}", capsys.readouterr().err)


def test_an_unusable_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapper = SimpleNamespace(to_verilog=lambda *_: "")
    monkeypatch.setitem(sys.modules, "vta_ext.boards.zynq_wrapper", wrapper)
    monkeypatch.setattr(tools, "require", lambda *_: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        zynq.main(["--board=pynq", f"--output={tmp_path / 'file'}"])
    assert "error: [Errno 17] File exists" in capsys.readouterr().err


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
        (["--board", "pynq", "--seed", "1"], "pynq is not placed here", 2),
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
    report = flow._report(AT_80_MHZ, shop, ())
    assert report.met is met
    assert report.resources["LUT"] == flow.Resource(4184, 83640)
    assert report.resources["BRAM"] == flow.Resource(104, 208)
    if not met:
        with pytest.raises(CompileError, match=r"reaches 79\.9 MHz .* at 80: try another --seed"):
            flow._require_clock(report, AT_80_MHZ)


def test_a_baseline_differs_in_its_multipliers_alone() -> None:
    for board in boards.BOARDS.values():
        for kind in (boards.BOOTH, boards.DSP):
            baseline = board.multiplying(kind)
            config = baseline.config
            assert config.gemm_modes == ("multiply",)
            assert config.wgt_depth == board.config.wgt_depth
            alike = replace(
                config,
                gemm_modes=board.config.gemm_modes,
                log_wgt_buff_size=board.config.log_wgt_buff_size,
            )
            assert alike == board.config
            assert ("booth; opt; synth" in flow._synthesis(baseline)) == (kind == boards.BOOTH)
            assert ("-nodsp" in flow._synthesis(baseline)) == (kind == boards.BOOTH)
        assert "booth" not in flow._synthesis(board)


def test_a_report_of_cells(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.write("cells.json", COUNTED)
    report = flow._report(boards.board("pynq"), shop, ())
    counts = {name: resource.used for name, resource in report.resources.items()}
    assert counts["LUT"] == 15
    assert counts["LUT as memory"] == 8
    assert (counts["BRAM36"], counts["FF"], counts["DSP"]) == (3.5, 7, 0)
    assert (report.fmax_mhz, report.met) == (None, None)
