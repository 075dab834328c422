"""Exit codes, what goes to which stream, and how fast help is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import ConversionError, DataError, DependencyError

COMMANDS = [
    *("compile", "run", "eval", "tune", "bench", "profile", "explain", "report", "image"),
    *("serve", "deploy", "doctor", "demo"),
]


def raising(error: BaseException) -> Any:
    def trouble() -> None:
        raise error

    return trouble


def test_help_lists_the_commands_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == [*COMMANDS, "isa"]
    assert "..." not in text.split("Commands:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--debug" in text


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, tvm_shiftadd.cli as c\n"
        "c.main(['--help'])\n"
        "heavy = {'tvm', 'numpy', 'onnx', 'rich', 'torch', 'PIL', 'safetensors'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    seconds = []
    for _ in range(5):
        start = _cpu_seconds_of_children()
        subprocess.run(
            [sys.executable, "-m", "tvm_shiftadd.cli", "--help"], check=True, capture_output=True
        )
        seconds.append(_cpu_seconds_of_children() - start)
    assert min(seconds) < 0.3


def _cpu_seconds_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from tvm_shiftadd import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tvm-shiftadd {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run"],
        ["run", "x"],
        ["compile", "m.onnx", "-o", "d", "--terms", "4"],
        ["compile", "m.onnx", "-o", "d", "--terms", "automatic"],
        ["eval", "m.onnx", "--data", "x", "--limit", "many"],
        ["explain", "m.onnx", "--nonsense"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: ")
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("the data\nis bad"), 2, "the data is bad"),
        (ConversionError("layer fc overflows"), 1, "layer fc overflows"),
        (DependencyError("torch is missing"), 1, "torch is missing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "not enough memory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (KeyError("bug"), 1, "internal error, KeyError: 'bug'"),
        (RecursionError(), 1, "internal error, RecursionError: no message"),
    ],
)
def test_an_error_is_one_sentence_and_a_code(
    api: Any, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    api.trouble = raising(error)
    assert main(["explain", "m.onnx", "--json"]) == code
    streams = capfd.readouterr()
    assert streams.out == ""
    last = streams.err.replace("chatter\n", "").replace("native ", "")
    assert last.startswith(f"error: {words}")
    assert last.count("\n") == 1


def test_a_traceback_only_with_debug(api: Any, capfd: pytest.CaptureFixture[str]) -> None:
    api.trouble = raising(DataError("bad"))
    assert main(["explain", "m.onnx", "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err
    assert main(["explain", "m.onnx"]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_json_is_all_there_is_on_standard_output(
    api: Any, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(images.parent / "out")
    model = images.parent / "m.onnx"
    model.touch()
    for arguments in (
        ["explain", str(model)],
        ["eval", str(model), "--data", str(images)],
        ["compile", str(model), "-o", out, "--calib", str(images)],
    ):
        assert main([*arguments, "--json"]) == 0
        text = capfd.readouterr().out
        assert isinstance(json.loads(text), dict)
        assert text.count("\n") == 1


def test_a_closed_pipe_is_no_crash(artifact: Path) -> None:
    command = f"{sys.executable} -m tvm_shiftadd.cli report {artifact} --json"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
        pytest.param(
            ">/dev/full",
            1,
            "error: the work is done, but standard output took no result: No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full"),
        ),
    ],
)
def test_streams_that_take_nothing(artifact: Path, redirection: str, code: int, words: str) -> None:
    command = f"{sys.executable} -m tvm_shiftadd.cli report {artifact} --json {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert done.stderr.strip() == words
