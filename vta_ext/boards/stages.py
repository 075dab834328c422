"""Stages of a tool flow in one folder: each is done once for the same inputs, or not at all.

A stage is a command that reads files of the folder and writes others. It runs in a folder of its
own. What an earlier run of it has made goes first; when it has ended well its files are moved in,
and last of all a key, made of everything that went into it. The next run finds the key and reuses
the files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import CompileError, InputError
from vta_ext.boards.lock import hold
from vta_ext.rtl import tools

#: How folders of running stages are called.
_PARTIAL: Final = ".partial-"


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

    @property
    def record(self) -> str:
        """The file that says from what its files were made."""
        return f"{self.name}.done.json"


@dataclass(frozen=True)
class Done:
    """What became of a stage. ``seconds``: of the run that made its files; reused: not now."""

    name: str
    version: str
    seconds: float
    reused: bool


class Workshop:
    """A folder in which stages run, held until the block ends that it is opened for.

    Raises InputError where it cannot be one, or another workshop holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = hold(folder / ".lock")
        except OSError as error:
            raise InputError(f"{folder} cannot be a folder: {error.strerror}") from error
        if held is None:
            raise InputError(f"{folder} is in use by another run; wait for it, or choose another")
        self._release = weakref.finalize(self, held.close)
        for left in folder.glob(f"{_PARTIAL}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def write(self, name: str, text: str) -> None:
        """Put a file there, whole."""
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=self.folder) as partial:
            path = Path(partial) / name
            path.write_text(text, encoding="utf-8")
            path.replace(self.folder / name)

    def run(self, stage: Stage, others: Sequence[str] = ()) -> Done:
        """Run a stage, or find that it has been.

        ``others``: files that were made from the stage's, and go with them when it is run again.

        Raises DependencyError where its tool is missing and CompileError, with the last line that
        the tool wrote, where it fails. Either way its log is ``<stage>.log``.
        """
        command = tools.find(stage.tool)
        version = tools.version(command)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=self.folder) as folder:
            partial = Path(folder)
            for name in stage.reads:
                # Copies, since WebAssembly's tools see only the folder that they run in.
                shutil.copyfile(self.folder / name, partial / name)
            key = self._key(stage, version, partial)
            before = self._recorded(stage)
            if before.get("key") == key and all(
                (self.folder / name).is_file() for name in stage.writes
            ):
                return Done(stage.name, version, float(before["seconds"]), reused=True)
            # The record first: without it nothing that is left counts.
            for name in (stage.record, *others, *stage.writes):
                (self.folder / name).unlink(missing_ok=True)
            started = time.monotonic()
            self._execute(stage, command, partial)
            seconds = round(time.monotonic() - started, 1)
            for name in stage.writes:
                (partial / name).replace(self.folder / name)
            self.write(stage.record, json.dumps({"key": key, "seconds": seconds}) + "\n")
        return Done(stage.name, version, seconds, reused=False)

    def _execute(self, stage: Stage, command: str, partial: Path) -> None:
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

    def _key(self, stage: Stage, version: str, inputs: Path) -> str:
        state = hashlib.sha256(repr((stage, version)).encode())
        for name in stage.reads:
            state.update((inputs / name).read_bytes())
        return state.hexdigest()

    def _recorded(self, stage: Stage) -> Mapping[str, str]:
        try:
            found = json.loads((self.folder / stage.record).read_text(encoding="utf-8"))
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
