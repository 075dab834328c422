"""Processes that candidates are tried in may crash, hang and complain; nothing else suffers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.errors import ShiftAddError
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.search import Search
from tvm_shiftadd.tune.task import Task
from tvm_shiftadd.tune.workers import Workers

HANDLERS = """
import ctypes, os, sys, time

def serve(config):
    if config.get("broken"):
        raise RuntimeError("no such machine")
    print("chatter on standard output")
    def handle(request):
        job = request["job"]
        if job == "add":
            return {"values": [request["a"] + config["b"]]}
        if job == "measure" and request["parameters"]["n"] == 3:
            ctypes.string_at(0)
        if job == "measure" and request["parameters"]["n"] == 4:
            time.sleep(60)
        if job == "measure":
            return {"values": [1.0 + request["parameters"]["n"]]}
        if job == "verify":
            return {"equal": True}
        if job == "raise":
            raise ValueError("the first line\\n  the last line\\n")
        if job == "crash":
            ctypes.string_at(0)
        if job == "exit":
            print("the last words", file=sys.stderr)
            os._exit(7)
        if job == "sleep":
            time.sleep(request["seconds"])
            return {"process": os.getpid()}
        while True:
            pass
    return handle
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tuning_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "tuning_handlers:serve"


@pytest.fixture
def workers(factory: str) -> Iterator[Workers]:
    with Workers(factory, {"b": 2}, timeout=1.0) as pool:
        yield pool


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ("raise", "ValueError: the last line"),
        ("crash", "the process was ended by SIGSEGV"),
        ("exit", "the process ended with code 7: the last words"),
        ("hang", "took longer than 1 s"),
    ],
)
def test_a_failure_has_its_cause_and_the_next_candidate_works(
    workers: Workers, job: str, cause: str
) -> None:
    requests = [{"job": "add", "a": 1}, {"job": job}, {"job": "add", "a": 3}]
    answers = dict(workers.ask_all(requests))
    assert answers == {0: {"values": [3]}, 1: {"error": cause}, 2: {"values": [5]}}


def test_processes_work_at_the_same_time(factory: str) -> None:
    with Workers(factory, {"b": 0}, count=2, timeout=20.0) as pool:
        list(pool.ask_all([{"job": "sleep", "seconds": 0.5}] * 2))
        begun = time.monotonic()
        answers = [a for _, a in pool.ask_all([{"job": "sleep", "seconds": 0.6}] * 4)]
        assert time.monotonic() - begun < 2.2
    assert len({answer["process"] for answer in answers}) == 2


def test_a_process_that_cannot_be_prepared_is_an_error(factory: str) -> None:
    message = "RuntimeError: no such machine"
    with Workers(factory, {"broken": True}) as pool, pytest.raises(ShiftAddError, match=message):
        pool.ask({"job": "add"})


class Numbers:
    """Candidates 0 to 7; the rule's choice is 5."""

    unit = "cycles"

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"n": number} for number in (5, 0, 1, 2, 3, 4, 6, 7)]

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        return [float(parameters["n"])]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        return "a layer", 1


def test_candidates_that_crash_or_hang_are_recorded_and_passed_over(
    workers: Workers, tmp_path: Path
) -> None:
    path, told = tmp_path / "tuned.jsonl", []
    with Database.open(path, {}) as database:
        task = Task({"layer": 1}, "a layer", 1, 1)
        search = Search(Numbers(), [task], database, workers, report=told.append)
        search.run(100)
    errors = {r.parameters["n"]: r.error for r in Database.read(path, {}).records if r.error}
    assert errors == {3: "the process was ended by SIGSEGV", 4: "took longer than 1 s"}
    (outcome,) = search.outcomes()
    assert (outcome.parameters, outcome.tried, outcome.failed) == ({"n": 0}, 8, 2)
    assert {trial.error for trial in told} == {"", *errors.values()}
