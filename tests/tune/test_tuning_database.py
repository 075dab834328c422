"""The file of records: nothing that was written is lost, and nothing foreign is taken."""

from __future__ import annotations

import errno
import os
import stat
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.errors import InputError, ShiftAddError
from tvm_shiftadd.tune import database
from tvm_shiftadd.tune.database import Database, Record

IDENTITY: dict[str, Any] = {
    "target": "cpu",
    "processor": "znver4",
    "features": ["avx2", "avx512f"],
    "kernels": "dot 1",
    "specification": 2,
    "TVM": "0.27",
}


def record(value: float | None = 1.0, *, rows: int = 1, **known: Any) -> Record:
    values = () if value is None else (value, 2 * value)
    return Record({"kind": "conv"}, {"rows": rows}, 1, values, **known)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuned.jsonl"


def filled(path: Path, *records: Record) -> Path:
    with Database.open(path, IDENTITY) as opened:
        for one in records:
            opened.append(one)
    return path


def test_records_come_back(path: Path) -> None:
    given = [record(1.5, verified=True, machine="a"), record(None, rows=2, error="why")]
    filled(path, *given)
    assert Database.read(path, IDENTITY).records == given
    with Database.open(path, IDENTITY) as opened:
        assert opened.records == given
        assert opened.records[0].value == 1.5


def test_a_record_is_in_the_file_when_append_returns(path: Path) -> None:
    with Database.open(path, IDENTITY) as opened:
        for count in range(1, 4):
            opened.append(record())
            assert len(Database.read(path, IDENTITY).records) == count


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_half_a_line_at_the_end_is_dropped(path: Path, kept: int) -> None:
    filled(path, record(1.0), record(2.0))
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last)] + last[:kept])
    assert [one.value for one in Database.read(path, IDENTITY).records] == [1.0]
    with Database.open(path, IDENTITY) as opened:
        opened.append(record(3.0))
    assert [one.value for one in Database.read(path, IDENTITY).records] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("processor", "znver5", "its processor is znver4, here it is znver5"),
        ("target", "vta", "its target is cpu, here it is vta"),
        ("features", ["avx2"], "with avx512f, here it is without those"),
        ("kernels", "dot 2", "dot 1"),
        ("specification", 3, "its specification is 2, here it is 3"),
        ("TVM", "0.28", "0.28"),
        ("configuration", "abc", "its configuration is None"),
    ],
)
def test_a_foreign_database_is_refused(path: Path, name: str, value: Any, says: str) -> None:
    filled(path, record())
    for use in (Database.read, Database.open):
        with pytest.raises(InputError, match=says) as caught:
            opened: Any = use(path, {**IDENTITY, name: value})
            opened.__enter__()
        assert "\n" not in str(caught.value)
    assert len(Database.read(path, IDENTITY).records) == 1


def test_a_damaged_line_is_named(path: Path) -> None:
    filled(path, record(1.0), record(2.0))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"1.0", b"0.1")
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"line 2.*checksum"):
        Database.read(path, IDENTITY)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"workload":{},"parameters":{},"threads":"1"}',
        b'{"workload":{},"parameters":{},"threads":1,"more":2}',
    ],
)
def test_a_line_that_is_no_record_is_refused(path: Path, body: bytes) -> None:
    filled(path)
    sealed = body[:-1] + b',"check":"%08x"}\n' % zlib.crc32(body[:-1])
    path.write_bytes(path.read_bytes() + sealed)
    with pytest.raises(InputError, match="damaged in line 2"):
        Database.read(path, IDENTITY)


@pytest.mark.parametrize(
    "content", [b"hello", b'{"format":"x"}\n', b"\x00\xff\n{}", b"[]\n", b"\n"]
)
def test_another_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="no tuning database"):
        Database.open(path, IDENTITY).__enter__()
    assert path.read_bytes() == content


def test_another_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    monkeypatch.setattr(database, "FORMAT_VERSION", 2)
    with pytest.raises(InputError, match="format version 1, this program reads 2"):
        Database.read(path, IDENTITY)


def test_missing_files_and_folders(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make one with tvm-shiftadd tune"):
        Database.read(path, IDENTITY)
    with pytest.raises(InputError, match="make one with tvm-shiftadd tune"):
        database.identity_of(path)
    with pytest.raises(InputError, match="it is no regular file"):
        database.identity_of(tmp_path)
    with pytest.raises(InputError, match="cannot be written: No such file"):
        Database.open(tmp_path / "no" / "such", IDENTITY).__enter__()
    with pytest.raises(InputError, match="cannot be written"):
        Database.open(tmp_path, IDENTITY).__enter__()


def test_two_runs_do_not_share_one(path: Path) -> None:
    with (
        Database.open(path, IDENTITY),
        pytest.raises(InputError, match="in use by another tuning run"),
        Database.open(path, IDENTITY),
    ):
        pass
    with Database.open(path, IDENTITY):
        pass


def test_what_is_no_regular_file_is_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "nowhere.jsonl")
    for place in (path, link, Path(os.devnull), tmp_path):
        with pytest.raises(InputError, match="it is no regular file") as caught:
            Database.open(place, IDENTITY).__enter__()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="it is no regular file"):
        Database.read(path, IDENTITY)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [link, path] and not link.exists()


def test_runs_that_start_together_leave_the_file_to_one(tmp_path: Path) -> None:
    count = 4

    def run(path: Path, start: threading.Barrier) -> bool:
        start.wait()
        try:
            with Database.open(path, IDENTITY) as opened:
                opened.append(record())
                start.wait()
        except InputError:
            start.wait()
            return False
        return True

    with ThreadPoolExecutor(count) as threads:
        for number in range(20):
            path, start = tmp_path / f"{number}.jsonl", threading.Barrier(count, timeout=30)
            assert sum(threads.map(run, [path] * count, [start] * count)) == 1
            assert len(Database.read(path, IDENTITY).records) == 1
    assert len(list(tmp_path.iterdir())) == 20


def test_a_file_that_is_replaced_before_it_is_locked_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, other = database._lock, filled(path.with_name("other"), record(7.0))

    def late(descriptor: int, name: Path) -> None:
        if other.exists():
            other.replace(path)
        lock(descriptor, name)

    monkeypatch.setattr(database, "_lock", late)
    with Database.open(path, IDENTITY) as opened:
        opened.append(record(8.0))
    assert [one.value for one in Database.read(path, IDENTITY).records] == [7.0, 8.0]


@pytest.mark.parametrize("kept", [0, 30])
def test_a_full_disk_ends_the_run_and_loses_no_record(
    path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, record(1.0))
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if not kept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:kept])

    with Database.open(path, IDENTITY) as opened:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ShiftAddError, match="takes no more records: No space left"):
            opened.append(record(2.0))
        monkeypatch.undo()
    assert [one.value for one in Database.read(path, IDENTITY).records] == [1.0]
    filled(path, record(3.0))
    assert [one.value for one in Database.read(path, IDENTITY).records] == [1.0, 3.0]


def test_nothing_is_left_of_a_file_that_could_not_be_written(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        database.write(path, IDENTITY, [record()])
    assert list(path.parent.iterdir()) == [path]


def test_the_best_is_verified_and_a_final_overrules(path: Path) -> None:
    filled(
        path,
        record(3.0, rows=1, verified=True),
        record(1.0, rows=2),
        record(2.0, rows=3, verified=True),
        record(None, rows=4, error="x"),
    )
    read = Database.read(path, IDENTITY)
    assert [one.parameters["rows"] for one in read.best().values()] == [3]
    filled(path, record(2.5, rows=1, verified=True, final=True), record(1.5, rows=5, verified=True))
    read = Database.read(path, IDENTITY)
    assert [one.parameters["rows"] for one in read.best().values()] == [1]


def test_what_has_failed_later_is_not_best(path: Path) -> None:
    filled(
        path,
        record(1.0, rows=1, verified=True),
        record(2.0, rows=2, verified=True),
        record(0.5, rows=3, verified=True, final=True),
        record(None, rows=1, error="crashed"),
        record(None, rows=3, error="crashed"),
    )
    (best,) = Database.read(path, IDENTITY).best().values()
    assert best.parameters == {"rows": 2}


def test_written_whole(path: Path) -> None:
    filled(path, record(), record())
    database.write(path, IDENTITY, [record(4.0)])
    assert [one.value for one in Database.read(path, IDENTITY).records] == [4.0]
    assert database.identity_of(path) == IDENTITY
