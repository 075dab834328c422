"""Stages of a tool flow in one folder: each is done once for the same inputs, or not at all.

A stage is a command that reads files of the folder and writes others. It runs in a folder of its
own; when it has ended well its files are moved in, and last of all a key, made of everything that
went into it. The next run finds the key and reuses the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_shiftadd.errors import CompileError, InputError
from vta_ext.rtl import tools


@dataclass(frozen=True)
class Stage:
    """One command: a tool's name, its arguments, and files by name.

    A tool that only says something on standard output has that in its log.
    """

    name: str
    tool: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """What became of a stage. ``seconds``: of the run that made its files; reused: not now."""

    name: str
    version: str
    seconds: float
    reused: bool


class Workshop:
    """A folder in which stages run. Raises InputError where it cannot be one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be a folder: {error.strerror}") from error

    def write(self, name: str, text: str) -> None:
        """Put a file there, whole."""
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.folder) as partial:
            path = Path(partial) / name
            path.write_text(text, encoding="utf-8")
            path.replace(self.folder / name)

    def run(self, stage: Stage) -> Done:
        """Run a stage, or find that it has been.

        Raises DependencyError where its tool is missing and CompileError, with the last line that
        the tool wrote, where it fails. Either way its log is ``<stage>.log``.
        """
        command = tools.find(stage.tool)
        version = tools.version(command)
        key = self._key(stage, version)
        before = self._recorded(stage)
        if before.get("key") == key and all(
            (self.folder / name).is_file() for name in stage.writes
        ):
            return Done(stage.name, version, float(before["seconds"]), reused=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.folder) as partial:
            self._execute(stage, command, Path(partial))
            seconds = round(time.monotonic() - started, 1)
            record = self._record(stage)
            with contextlib.suppress(FileNotFoundError):
                record.unlink()
            for name in stage.writes:
                (Path(partial) / name).replace(self.folder / name)
            self.write(record.name, json.dumps({"key": key, "seconds": seconds}) + "\n")
        return Done(stage.name, version, seconds, reused=False)

    def _execute(self, stage: Stage, command: str, partial: Path) -> None:
        for name in stage.reads:
            # A copy, since WebAssembly's tools see only the folder that they run in.
            shutil.copyfile(self.folder / name, partial / name)
        log = self.folder / f"{stage.name}.log"
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                [command, *stage.arguments],
                cwd=partial,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        missing = [name for name in stage.writes if not (partial / name).is_file()]
        if done.returncode or missing:
            raise CompileError(
                f"{stage.tool} failed in stage {stage.name} (code {done.returncode}): "
                f"{_last_words(log)}; all it said is in {log}"
            )

    def _key(self, stage: Stage, version: str) -> str:
        state = hashlib.sha256(repr((stage, version)).encode())
        for name in stage.reads:
            state.update((self.folder / name).read_bytes())
        return state.hexdigest()

    def _record(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.done.json"

    def _recorded(self, stage: Stage) -> Mapping[str, str]:
        try:
            found = json.loads(self._record(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _last_words(log: Path) -> str:
    """The last line with ERROR in it, or the last line at all."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said: Sequence[str] = [line for line in lines if "ERROR" in line] or [
        line for line in lines if line.strip()
    ]
    return said[-1].strip() if said else "it said nothing"
