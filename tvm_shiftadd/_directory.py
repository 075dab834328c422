"""Writing files and directories whole or not at all; reading files claimed to be in a directory."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tvm_shiftadd.errors import ArtifactError


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``target`` if the block ends without an error.

    It is a hidden sibling until then, flushed to the disk and renamed. Whatever goes wrong leaves
    ``target`` as it was and removes the sibling. Raises OSError if the file system refuses.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_directory(
    target: Path, write: Callable[[Path], None], check: Callable[[Path], None]
) -> None:
    """Let ``write`` fill a new directory, then put it in the place of ``target``.

    The files are made in a hidden sibling of ``target``, flushed to the disk and renamed. Whatever
    goes wrong before the rename (a full disk, Ctrl-C, an error in ``write``) leaves ``target`` as
    it was and removes the sibling. ``check`` refuses a ``target`` that must not be replaced; it
    runs again just before the rename.

    Raises :class:`ArtifactError` if the file system refuses.
    """
    target = target.resolve()
    check(target)
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        fresh = staging / "new"
        fresh.mkdir()
        write(fresh)
        for file in fresh.iterdir():
            _flush(file)
        _flush(fresh)
        check(target)
        _replace(target, fresh, staging / "old")
        _flush(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"could not write {target}: {reason}; an existing output was left as it was"
        ) from error
    finally:
        if staging is not None:
            _remove(staging)


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Rename ``target`` away and ``fresh`` into its place, or leave ``target`` where it was."""
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
    except BaseException:
        # Also on Ctrl-C: between the two renames the old output must come back.
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot flush a directory; a real failure has another number.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def read_inside(directory: Path, name: str, limit: int) -> bytes:
    """The bytes of a regular file of ``directory``.

    Raises :class:`ArtifactError` if it is missing, is no regular file, is a link that leads out of
    the directory, or is larger than ``limit`` bytes.
    """
    path = directory / name
    try:
        if path.resolve().parent != directory.resolve():
            raise ArtifactError(f"{path} leads out of the artifact's folder; do not use it")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is not a regular file; compile the model again")
            if status.st_size > limit:
                raise ArtifactError(
                    f"{path} has {status.st_size} bytes, expected at most {limit}; "
                    "compile the model again"
                )
            return file.read()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; compile the model again") from None
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"could not read {path}: {error}") from error
