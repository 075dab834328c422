from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tvm_shiftadd import _directory
from tvm_shiftadd.artifact import Artifact, check_replaceable
from tvm_shiftadd.errors import ArtifactError


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_empty_directory_is_filled(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    artifact.save(tmp_path / "out")
    Artifact.load(tmp_path / "out")


def test_parents_are_made(artifact: Artifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "a" / "b")
    Artifact.load(tmp_path / "a" / "b")


def test_an_artifact_is_replaced_and_nothing_else_left(
    saved: Path, subtracting: Artifact, tmp_path: Path
) -> None:
    before = snapshot(saved)
    subtracting.save(saved)
    assert snapshot(saved)["library.so"] != before["library.so"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_to_an_artifact_stays_a_link(
    saved: Path, subtracting: Artifact, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(saved)
    before = snapshot(saved)
    subtracting.save(link)
    assert link.is_symlink()
    assert snapshot(saved) != before


@pytest.mark.parametrize("content", ["file", "foreign", "mixed", "other manifest"])
def test_what_is_no_artifact_is_never_replaced(
    artifact: Artifact, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    if content == "file":
        out.write_text("precious")
    else:
        artifact.save(out) if content == "mixed" else out.mkdir()
        name = "manifest.json" if content == "other manifest" else "thesis.txt"
        (out / name).write_text('{"name": "a web page", "format_version": 1}')
    before = snapshot(tmp_path)
    with pytest.raises(ArtifactError, match="choose another output"):
        check_replaceable(out)
    with pytest.raises(ArtifactError, match="choose another output"):
        artifact.save(out)
    assert snapshot(tmp_path) == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be made"):
        check_replaceable(tmp_path / "file" / "a" / "out")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["write", "flush", "rename"])
def test_full_disk_leaves_the_old_artifact(
    saved: Path,
    subtracting: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    before = snapshot(saved)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    elif failing == "flush":
        monkeypatch.setattr(_directory, "_flush", full)
    else:
        real = os.rename
        monkeypatch.setattr(
            os, "rename", lambda a, b: full() if Path(a).name == "new" else real(a, b)
        )
    with pytest.raises(ArtifactError, match="No space left on device"):
        subtracting.save(saved)
    monkeypatch.undo()
    assert snapshot(saved) == before
    assert os.listdir(tmp_path) == ["out"]


def test_linker_on_a_full_disk(
    saved: Path, subtracting: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(saved)

    def export(path: str) -> None:
        raise RuntimeError("Compilation error:\nld: final link failed: No space left on device")

    monkeypatch.setattr(subtracting._library, "export_library", export)
    with pytest.raises(ArtifactError, match="No space left"):
        subtracting.save(saved)
    assert snapshot(saved) == before
    assert os.listdir(tmp_path) == ["out"]


LIMITED_SAVE = """
import resource, sys
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.errors import ArtifactError
artifact = Artifact.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    artifact.save(sys.argv[2])
except ArtifactError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["out", "fresh"])
def test_file_system_that_really_refuses(saved: Path, tmp_path: Path, name: str) -> None:
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_SAVE, str(saved), str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert snapshot(tmp_path) == before
    assert os.listdir(tmp_path) == ["out"]


SLOW_SAVE = """
import sys, time
from pathlib import Path
from tvm_shiftadd import _directory
from tvm_shiftadd.artifact import Artifact
artifact = Artifact.load(sys.argv[1])
moment, real = sys.argv[2], _directory.os.rename
def wait():
    print("now", flush=True)
    time.sleep(60)
def rename(a, b):
    if moment == "between" and Path(a).name == "new":
        wait()
    real(a, b)
_directory.os.rename = rename
if moment == "writing":
    flush = _directory._flush
    _directory._flush = lambda path: (wait(), flush(path))
artifact.save(sys.argv[1])
"""


@pytest.mark.parametrize("moment", ["writing", "between"])
def test_interrupt_leaves_the_old_artifact(saved: Path, tmp_path: Path, moment: str) -> None:
    before = snapshot(saved)
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, str(saved), moment],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Tests in the background have it ignored, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"now\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) != 0
    child.stdout.close()
    assert snapshot(saved) == before
    assert os.listdir(tmp_path) == ["out"]
    Artifact.load(saved)
