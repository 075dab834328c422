"""Processes that candidates are tried in may crash, hang and complain; nothing else suffers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.errors import ShiftAddError
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.search import Search
from tvm_shiftadd.tune.task import Task
from tvm_shiftadd.tune.workers import Workers

HANDLERS = """
import ctypes, errno, os, signal, sys, time
from tvm_shiftadd.errors import DependencyError

def serve(config):
    if config.get("broken"):
        raise RuntimeError("no such machine")
    if config.get("full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
    if config.get("endless"):
        say(config["endless"])
        time.sleep(3600)
    print("chatter on standard output")
    return lambda request: handle(config, request)

def say(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.replace(path + ".new", path)

def handle(config, request):
    job = request["job"]
    if job == "add":
        return {"values": [request["a"] + config["b"]]}
    if job == "measure":
        number = request["parameters"]["n"]
        if number == 3:
            ctypes.string_at(0)
        if number == 6 and os.path.exists(config.get("flag", "")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
        return {"values": [1.0 + number]}
    if job == "verify":
        return {"equal": True}
    if job == "raise":
        raise ValueError("the first line\\n  the last line\\n")
    if job == "crash":
        ctypes.string_at(0)
    if job == "exit":
        print("the last words", file=sys.stderr)
        os._exit(7)
    if job == "compiler":
        raise DependencyError("no compiler")
    if job == "memory":
        raise MemoryError
    if job == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")
    if job == "shot":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "meet":
        say(request["here"])
        while not os.path.exists(request["there"]):
            time.sleep(0.01)
        return {"process": os.getpid()}
    say(request["here"])
    time.sleep(3600)
"""
#: Longer than any answer takes on a machine with much other work.
LONG = 120.0


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tuning_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "tuning_handlers:serve"


@pytest.fixture
def workers(factory: str) -> Iterator[Workers]:
    with Workers(factory, {"b": 2}, timeout=LONG) as pool:
        yield pool


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ("raise", "ValueError: the last line"),
        ("crash", "the process was ended by SIGSEGV"),
        ("exit", "the process ended with code 7: the last words"),
    ],
)
def test_a_failure_has_its_cause_and_the_next_candidate_works(
    workers: Workers, job: str, cause: str
) -> None:
    requests = [{"job": "add", "a": 1}, {"job": job}, {"job": "add", "a": 3}]
    answers = dict(workers.ask_all(requests))
    assert answers == {0: {"values": [3]}, 1: {"error": cause}, 2: {"values": [5]}}


def test_what_takes_too_long_is_ended(factory: str, tmp_path: Path) -> None:
    # The time counts once a process has loaded what it needs; its answer takes a millisecond.
    with Workers(factory, {"b": 2}, timeout=4.0) as pool:
        answer = pool.ask({"job": "hang", "here": str(tmp_path / "hung")})
        assert answer == {"error": "took longer than 4 s"}
        assert not is_alive(number_in(tmp_path / "hung"))
        assert pool.ask({"job": "add", "a": 3}) == {"values": [5]}


def test_processes_work_at_the_same_time(factory: str, tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("a", "b")]
    meetings = [
        {"job": "meet", "here": here, "there": there} for here, there in (places, reversed(places))
    ]
    with Workers(factory, {}, count=2, timeout=LONG) as pool:
        answers = [answer for _, answer in pool.ask_all(meetings)]
    assert len({answer["process"] for answer in answers}) == 2


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("compiler", "cannot be tried: no compiler"),
        ("memory", "cannot be tried: not enough memory"),
        ("disk", r"cannot be tried: No space left on device \(/somewhere\)"),
        ("shot", "ended from outside by SIGKILL"),
    ],
)
def test_what_is_wrong_with_the_machine_is_an_error(workers: Workers, job: str, says: str) -> None:
    with pytest.raises(ShiftAddError, match=says) as caught:
        workers.ask({"job": job})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"broken": True}, "could be started: RuntimeError: no such machine"),
        ({"full": True}, r"could be started: No space left on device \(/somewhere\)"),
    ],
)
def test_a_process_that_cannot_be_prepared_is_an_error(
    factory: str, config: dict[str, Any], says: str
) -> None:
    with Workers(factory, config) as pool, pytest.raises(ShiftAddError, match=says):
        pool.ask({"job": "add"})


def test_a_process_that_cannot_be_started_is_an_error(
    factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = descriptors()
    with Workers(factory, {}) as pool:
        for _ in range(2):
            with pytest.raises(ShiftAddError, match="could be started: No such file"):
                pool.ask({"job": "add"})
    assert descriptors() == before


# The end of a run, whatever its processes do at that time.


def number_in(path: Path) -> int:
    while not path.exists():
        time.sleep(0.01)
    return int(path.read_text())


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


@contextlib.contextmanager
def asking(pool: Workers, request: Mapping[str, Any], times: int = 1) -> Iterator[None]:
    """Requests under way, each in a thread, which must have ended when the block has."""

    def ask() -> None:
        with contextlib.suppress(ShiftAddError):
            pool.ask({**request, "here": f"{request['here']}{next(numbers)}"})

    numbers = iter(range(times))
    threads = [threading.Thread(target=ask) for _ in range(times)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)


def test_processes_that_are_busy_end_with_the_run(factory: str, tmp_path: Path) -> None:
    before, path = descriptors(), tmp_path / "busy"
    pool = Workers(factory, {}, count=2, timeout=LONG)
    with asking(pool, {"job": "hang", "here": str(path)}, 2):
        processes = [number_in(path.with_name(f"busy{number}")) for number in range(2)]
        assert all(map(is_alive, processes))
        pool.__exit__()
    assert not any(map(is_alive, processes))
    assert descriptors() == before


def test_a_process_that_is_loading_ends_with_the_run(factory: str, tmp_path: Path) -> None:
    path = tmp_path / "loading"
    pool = Workers(factory, {"endless": str(path)}, timeout=LONG)
    with asking(pool, {"job": "add", "here": ""}):
        process = number_in(path)
        pool.__exit__()
    assert not is_alive(process)


def test_a_process_that_is_just_being_started_ends_with_the_run(
    factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, made, start = threading.Event(), [], subprocess.Popen

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.set()
        time.sleep(0.2)
        made.append(start(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", slow)
    pool = Workers(factory, {"b": 1}, timeout=LONG)
    with asking(pool, {"job": "hang", "here": os.devnull}):
        begun.wait()
        pool.__exit__()
    assert len(made) == 1 and made[0].returncode is not None
    with pytest.raises(ShiftAddError, match="the run has ended"):
        pool.ask({"job": "add", "a": 1})


class Numbers:
    """Candidates 0 to 7; the rule's choice is 5."""

    unit = "cycles"

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"n": number} for number in (5, 0, 1, 2, 3, 4, 6, 7)]

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        return [float(parameters["n"])]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        return "a layer", 1


def searched(path: Path, workers: Workers, report: Callable[[Any], None]) -> Search:
    with Database.open(path, {}) as database:
        task = Task({"layer": 1}, "a layer", 1, 1)
        search = Search(Numbers(), [task], database, workers, report=report)
        search.run(100)
    return search


def test_candidates_that_crash_are_recorded_and_passed_over(
    workers: Workers, tmp_path: Path
) -> None:
    path, told = tmp_path / "tuned.jsonl", []
    search = searched(path, workers, told.append)
    errors = {r.parameters["n"]: r.error for r in Database.read(path, {}).records if r.error}
    assert errors == {3: "the process was ended by SIGSEGV"}
    (outcome,) = search.outcomes()
    assert (outcome.parameters, outcome.tried, outcome.failed) == ({"n": 0}, 8, 1)
    assert {trial.error for trial in told} == {"", *errors.values()}


def test_candidates_that_the_machine_failed_are_tried_again(factory: str, tmp_path: Path) -> None:
    path, flag = tmp_path / "tuned.jsonl", tmp_path / "flag"
    flag.touch()
    with Workers(factory, {"flag": str(flag)}, timeout=LONG) as pool:
        with pytest.raises(ShiftAddError, match="No space left"):
            searched(path, pool, lambda trial: None)
        tried = [record.parameters["n"] for record in Database.read(path, {}).records]
        assert 5 in tried and 6 not in tried
        flag.unlink()
        (outcome,) = searched(path, pool, lambda trial: None).outcomes()
    assert (outcome.tried, outcome.failed) == (8, 1)
