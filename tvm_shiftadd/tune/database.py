"""The tuning database: a file of JSON lines, one for each candidate that was tried.

The first line says what the records are for: target, processor, versions. TVM's own database does
not check that, and gives out records of other targets; this one is refused for any other. Each line
has a checksum and is written by one call and flushed to the disk, so that a run that is killed
loses at most the candidate that it was measuring.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tvm_shiftadd import _json
from tvm_shiftadd._directory import whole_file
from tvm_shiftadd.errors import InputError, ShiftAddError

FORMAT = "tvm-shiftadd tuning database"
FORMAT_VERSION = 1
#: Bytes of a database that is read at most, and of a line.
_LIMIT, _LINE = 1 << 30, 1 << 20
_CHECK = b',"check":"'

Key = tuple[str, int]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate: what was tried, and what came of it.

    ``values``: seconds or cycles of a call, several where they were measured several times; none
    where ``error`` says what went wrong. ``verified``: its results were compared with the
    reference's, bit by bit. ``final``: measured at the end in turns with the rule's own choice,
    whose values are ``baseline``.
    """

    workload: dict[str, Any]
    parameters: dict[str, Any]
    threads: int
    values: tuple[float, ...] = ()
    error: str = ""
    verified: bool = False
    final: bool = False
    baseline: tuple[float, ...] = ()
    machine: str = ""
    date: str = ""

    @property
    def key(self) -> Key:
        """What the record belongs to: the workload as text, and the threads."""
        return text_of(self.workload), self.threads

    @property
    def value(self) -> float:
        """The least of the values: whatever else the machine does can only make them larger."""
        return min(self.values)


def text_of(values: Mapping[str, Any]) -> str:
    """Plain values as text that is equal for equal values."""
    return msgspec.json.encode(values, order="sorted").decode()


class Database:
    """An open database; ``records`` in the order in which they were written."""

    def __init__(self, path: Path, records: list[Record], descriptor: int | None = None) -> None:
        self.path, self.records = path, records
        self._descriptor = descriptor

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any]) -> Database:
        """The records of an existing database, to be used.

        ``identity``: what they must be for. Raises InputError where the file is no database, is
        damaged, or is for something else.
        """
        _check_regular(path, "read")
        return cls(path, _parse(path, _content(path), identity)[0])

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, identity: Mapping[str, Any]) -> Iterator[Database]:
        """A database to add to, made if there is none; nobody else can open it meanwhile.

        Raises what ``read`` raises, and InputError where another run has it open.
        """
        descriptor = _locked(path)
        try:
            if not os.fstat(descriptor).st_size:
                _begin(path, descriptor, identity)
            records, whole = _parse(path, _content(path), identity)
            # What a killed run was writing is half a line at the end.
            os.ftruncate(descriptor, whole)
            yield cls(path, records, descriptor)
        finally:
            os.close(descriptor)

    def append(self, record: Record) -> None:
        """Add a record; once this returns it is on the disk. ShiftAddError if that is full."""
        if self._descriptor is None:
            raise ValueError("the database was opened to be read")
        line = _line(record)
        try:
            # Of a part of a line nothing is read back.
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            raise ShiftAddError(
                f"{self.path} takes no more records: {error.strerror}; make room and give the same "
                "command again, which goes on from there"
            ) from error
        self.records.append(record)

    def best(self) -> dict[Key, Record]:
        """The record to use for each workload and number of threads.

        The winner of the last final round, or where there was none the fastest that was verified.
        What has ever failed is not used.
        """
        failed = {(r.key, text_of(r.parameters)) for r in self.records if r.error}
        found: dict[Key, Record] = {}
        for record in self.records:
            if not record.verified or not record.values:
                continue
            if (record.key, text_of(record.parameters)) in failed:
                continue
            before = found.get(record.key)
            if before is None or record.final or (not before.final and record.value < before.value):
                found[record.key] = record
        return found


def write(path: Path, identity: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Write a whole database, in the place of one that may be there."""
    lines = [_header(identity), *map(_line, records)]
    with whole_file(path) as file:
        file.write(b"".join(lines))


def identity_of(path: Path) -> dict[str, Any]:
    """What the records of a database are for. Raises InputError where it is none."""
    _check_regular(path, "read")
    try:
        with path.open("rb") as file:
            return _identity(path, file.readline(_LINE))
    except OSError as error:
        raise _unreadable(path, error) from error


def _locked(path: Path) -> int:
    """A descriptor of the file at ``path``, made if there is none, that this run alone may use."""
    while True:
        _check_regular(path, "written")
        try:
            descriptor = _opened(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}; choose another"
            ) from error
        try:
            _lock(descriptor, path)
            # Whoever replaced the file before it was locked has left us one without a name.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    """The file, opened to be added to; a new one is never put in the place of anything."""
    flags = os.O_RDWR | os.O_APPEND
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        # Somebody else was faster, or the name is a link to nothing.
        _check_regular(path, "written")


def _check_regular(path: Path, done: str) -> None:
    """Raise InputError for what is there and cannot be a database: a folder, a device, a pipe."""
    try:
        regular = path.is_file() or not (path.exists() or path.is_symlink())
    except OSError as error:
        raise InputError(f"{path} cannot be {done}: {error.strerror}; choose another") from error
    if not regular:
        raise InputError(f"{path} cannot be {done}: it is no regular file; choose another --db")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _begin(path: Path, descriptor: int, identity: Mapping[str, Any]) -> None:
    """Write the first line of a database that is empty and locked."""
    header = _header(identity)
    try:
        written = os.write(descriptor, header)
        if written == len(header):
            os.fsync(descriptor)
            return
        cause = "the disk is full"
    except OSError as error:
        cause = str(error.strerror)
    os.ftruncate(descriptor, 0)
    raise InputError(f"{path} cannot be written: {cause}; choose another")


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(
            f"{path} is in use by another tuning run; wait for it, or give another --db"
        ) from None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > _LIMIT:
        raise InputError(f"expected a tuning database of at most 1 GiB, got {path}")
    return content


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"expected a tuning database, got {path}: {error.strerror}; make one with tvm-shiftadd tune"
    )


def _parse(path: Path, content: bytes, identity: Mapping[str, Any]) -> tuple[list[Record], int]:
    """The records of whole lines, and the bytes that those take."""
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines(keepends=True)
    _compare(path, _identity(path, lines[0] if lines else b""), identity)
    return [_record(path, number, line) for number, line in enumerate(lines[1:], 2)], whole


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        return msgspec.json.decode(_checked(line), type=Record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged in line {number} ({error}); delete that line, which loses the one "
            "candidate in it"
        ) from None


def _identity(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = msgspec.json.decode(_checked(line))
        if header["format"] != FORMAT:
            raise ValueError
        version, identity = int(header["format_version"]), dict(header["identity"])
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} is no tuning database; give one that tvm-shiftadd tune has made, or a new name"
        ) from None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}; tune again "
            "with a new file"
        )
    return identity


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise InputError, naming what differs, unless a database is for what is expected."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        mine: Any = expected.get(name)
        theirs: Any = found.get(name)
        if mine != theirs:
            if isinstance(mine, list) and isinstance(theirs, list):
                theirs, mine = _apart(theirs, mine), _apart(mine, theirs)
            raise InputError(
                f"{path} was tuned for another target: its {name} is {theirs}, here it is {mine}; "
                "give a database of this target, or tune into a new file"
            )


def _apart(names: list[Any], others: list[Any]) -> str:
    only = [str(name) for name in names if name not in others]
    return f"with {', '.join(only)}" if only else "without those"


def _header(identity: Mapping[str, Any]) -> bytes:
    return _sealed({"format": FORMAT, "format_version": FORMAT_VERSION, "identity": identity})


def _line(record: Record) -> bytes:
    return _sealed(msgspec.to_builtins(record))


def _sealed(value: Mapping[str, Any]) -> bytes:
    """A line of JSON whose last field is a checksum of what is before it."""
    body = _json.encode(value)[:-1]
    return body + _CHECK + b'%08x"}\n' % zlib.crc32(body)


def _checked(line: bytes) -> bytes:
    """A line without its checksum. Raises ValueError where that is wrong."""
    body, found, check = line.rpartition(_CHECK)
    if not found or check.rstrip() != b'%08x"}' % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    return body + b"}"
