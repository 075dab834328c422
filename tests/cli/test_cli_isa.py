"""``tvm-shiftadd isa``: text to program and back, pages, and the checker's exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vta_ext import kernels
from tvm_shiftadd.cli import main
from vta_ext import listing, presets
from vta_ext.isa.generators import c_header, markdown, rtl_layout
from vta_ext.program import Program

PROGRAM = kernels.blocked_gemm(presets.SHIFT, "shift", 10, 3, 4).program
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "gemm.vta"
    PROGRAM.save(path)
    return path


@pytest.mark.parametrize("command", ["asm", "disasm", "doc", "check"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["isa", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--debug" in text


def test_text_and_program_are_the_same(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, again = tmp_path / "gemm.s", tmp_path / "again.vta"
    assert main(["isa", "disasm", str(binary), "-o", str(text)]) == 0
    assert text.read_text() == listing.to_text(PROGRAM)
    assert main(["isa", "asm", str(text), "-o", str(again)]) == 0
    assert again.read_bytes() == binary.read_bytes()
    capsys.readouterr()
    assert main(["isa", "disasm", str(binary)]) == 0
    assert capsys.readouterr().out == text.read_text()
    assert main(["isa", "asm", str(text), "-o", str(again), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"] == presets.SHIFT.hash
    assert shown["instructions"] == len(PROGRAM.instructions)


def test_text_without_a_machine_takes_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "p.s", tmp_path / "p.vta"
    source.write_text("finish\n")
    assert main(["isa", "asm", str(source), "-o", str(target)]) == 2
    assert "names no configuration" in capsys.readouterr().err
    assert not target.exists()
    assert main(["isa", "asm", str(source), "-o", str(target), "--config", "vta"]) == 0
    assert Program.load(target).config == presets.BASE
    config = tmp_path / "c.json"
    config.write_text('{"LOG_BLOCK": 5, "LOG_WGT_BUFF_SIZE": 20}')
    assert main(["isa", "asm", str(source), "-o", str(target), "--config", str(config)]) == 0
    assert Program.load(target).config.block == 32


def test_pages_of_the_instruction_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "isa.md"
    assert main(["isa", "doc", "-o", str(page)]) == 0
    assert page.read_text() == (ROOT / "docs" / "isa.md").read_text()
    capsys.readouterr()
    assert main(["isa", "doc", "--format", "c", "--config", "vta"]) == 0
    assert capsys.readouterr().out == c_header(presets.BASE)
    assert main(["isa", "doc", "--format", "rtl"]) == 0
    assert json.loads(capsys.readouterr().out) == rtl_layout(presets.SHIFT_ADDER)
    assert main(["isa", "doc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == markdown(presets.SHIFT_ADDER)


def test_check_tells_safe_from_unsafe(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["isa", "check", str(binary), "--overflow"]) == 0
    assert "instructions, safe to run" in capsys.readouterr().out
    text = listing.to_text(PROGRAM).replace("gemm.shift pop_prev", "gemm.shift", 1)
    bad = tmp_path / "bad.s"
    bad.write_text(text)
    assert main(["isa", "check", str(bad)]) == 1
    assert "gemm.shift" in capsys.readouterr().out
    assert main(["isa", "check", str(bad), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert not shown["safe"]
    assert shown["violations"][0]["rule"] in ("race", "token balance")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nowhere.vta"], "cannot read nowhere.vta"),
        (["disasm", "nowhere.vta"], "cannot read the program nowhere.vta"),
        (["doc", "--format", "pdf"], "expected --format markdown, c, rtl, got 'pdf'"),
        (["doc", "--config", "vta2"], "expected --config with a JSON file or one of vta,"),
        (["jump"], "No such command"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["isa", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_damaged_files_are_named(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary.write_bytes(binary.read_bytes()[:-1])
    assert main(["isa", "check", str(binary)]) == 2
    assert "gemm.vta: the program's file is truncated or was altered" in capsys.readouterr().err
    noise = tmp_path / "noise"
    noise.write_bytes(b"\xff\xfe")
    assert main(["isa", "check", str(noise)]) == 2
    assert "neither a program nor text" in capsys.readouterr().err


def test_it_loads_no_tvm(binary: Path) -> None:
    code = (
        "import sys, tvm_shiftadd.cli as c\n"
        f"assert c.main(['isa', 'check', {str(binary)!r}]) == 0\n"
        "sys.exit('tvm' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
