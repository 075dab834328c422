"""Linking a library, for this machine or, by a cross linker, for another."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._processor import machine
from tvm_shiftadd.errors import CompileError, DependencyError, InputError

#: The oldest C library that Zig links for; TVM's own packages ask for it.
_GLIBC = "2.28"


def is_foreign(triple: str) -> bool:
    """Whether a target's ``mtriple`` names another machine than this one."""
    return bool(triple) and not (
        sys.platform.startswith("linux") and triple.split("-", 1)[0] == machine()
    )


def check_native(triple: str) -> None:
    """Raise InputError where a target's ``mtriple`` is not this machine, which is to run the code.

    For commands that compile and then run: before the conversion, which takes long.
    """
    if is_foreign(triple):
        raise InputError(
            f"expected a target of this machine, on which the network is run, got one of {triple}; "
            'use a target such as "cpu", or compile for the other machine and run the artifact '
            "there"
        )


def linker(triple: str) -> tuple[str, ...]:
    """The command that links for another machine: GNU's cross compiler, or Zig; () for none."""
    for tool in ("g++", "gcc"):
        if found := shutil.which(f"{triple}-{tool}"):
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc", "-target", f"{triple}.{_GLIBC}")
    return ()


def remedy(triple: str) -> str:
    """How to get a linker for another machine."""
    package = f"g++-{triple.replace('_', '-')}"
    return f"install {package} (Debian, Ubuntu) or pip install 'tvm-shiftadd[cross]'"


def check_linker(triple: str) -> None:
    """Raise DependencyError where a target's ``mtriple`` needs a cross linker and there is none."""
    if is_foreign(triple) and not linker(triple):
        raise DependencyError(
            f"linking for {triple} needs a cross linker, and none was found; {remedy(triple)}"
        )


def export_library(executable: Any, path: str, triple: str = "") -> None:
    """Link what TVM compiled to a shared library; ``triple`` is its target's ``mtriple``.

    Raises DependencyError where there is no cross linker, and CompileError with its command where
    it fails; for this machine what TVM raises, RuntimeError or without a compiler TypeError.
    """
    if not is_foreign(triple):
        executable.export_library(path)
        return
    check_linker(triple)

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        _run([*linker(triple), "-shared", "-o", output, *objects, "-lm"])

    executable.export_library(path, fcompile=link)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        # The last line of most linkers only says that there was an error.
        said = next((line for line in lines if "error" in line or "No space" in line), lines[0])
        raise CompileError(f"the cross linker failed: {said}; its command: {shlex.join(command)}")
