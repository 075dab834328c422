"""What is tried, in which order, and what may become best."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.tune import model
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.search import Search
from tvm_shiftadd.tune.task import Task, Trial

IDENTITY = {"target": "a test"}
TASKS = [Task({"layer": name}, name, 1, work) for name, work in (("large", 100), ("small", 1))]


class Numbers:
    """Candidates are the numbers 0 to ``count - 1``; the rule's choice is 5."""

    unit = "seconds"

    def __init__(self, count: int = 20) -> None:
        self.count = count

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        numbers = [5, *(n for n in range(self.count) if n != 5)]
        return [{"n": number} for number in numbers]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        return str(workload), 1

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        return [float(parameters["n"]), float(len(workload["layer"]))]


class Machine:
    """Answers as processes would. ``time`` gives seconds, or raises to fail."""

    count = 1

    def __init__(
        self, time: Callable[[int], float], wrong: Callable[[int], bool] = lambda n: False
    ) -> None:
        self.time, self.wrong = time, wrong
        self.measured: list[tuple[str, int]] = []
        self.checked: list[int] = []

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        number = request["parameters"]["n"]
        if request["job"] == "verify":
            self.checked.append(number)
            return {"error": "1 of 2 results are wrong"} if self.wrong(number) else {"equal": True}
        self.measured.append((request["workload"]["layer"], number))
        try:
            return {"values": [self.time(number)]}
        except RuntimeError as error:
            return {"error": str(error)}

    def ask_all(
        self, requests: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, request in enumerate(requests):
            yield index, self.ask(request)


def tuned(
    path: Path,
    machine: Machine,
    trials: int,
    *,
    tasks: Sequence[Task] = TASKS[:1],
    space: Any = None,
    report: Callable[[Trial], None] = lambda trial: None,
) -> Search:
    with Database.open(path, IDENTITY) as database:
        search = Search(
            space or Numbers(),
            tasks,
            database,
            machine,
            report=report,  # type: ignore[arg-type]
        )
        search.run(trials)
        return search


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuned.jsonl"


def test_the_rules_choice_is_first_and_the_best_wins(path: Path) -> None:
    machine, told = Machine(lambda n: 1.0 + abs(n - 12)), []
    search = tuned(path, machine, 100, report=told.append)
    assert machine.measured[0] == ("large", 5)
    assert sorted(n for _, n in machine.measured[:20]) == list(range(20))
    (outcome,) = search.outcomes()
    assert (outcome.parameters, outcome.rule, outcome.best) == ({"n": 12}, 8.0, 1.0)
    assert (outcome.tried, outcome.candidates, outcome.failed) == (20, 20, 0)
    assert [trial.done for trial in told] == list(range(1, 21))
    assert told[-1].best == 1.0 and told[-1].rule == 8.0
    bests = [trial.best for trial in told]
    assert bests == sorted(bests, reverse=True)  # type: ignore[type-var]


def test_a_second_run_measures_nothing_again(path: Path) -> None:
    first, second = (Machine(lambda n: 1.0 + n) for _ in range(2))
    tuned(path, first, 6, tasks=TASKS)
    before = path.read_bytes()
    tuned(path, second, 6, tasks=TASKS)
    assert second.measured == [] and path.read_bytes() == before
    search = tuned(path, second, 12, tasks=TASKS)
    tried = {(r.workload["layer"], r.parameters["n"]) for r in search.database.records}
    once = [
        (r.workload["layer"], r.parameters["n"]) for r in search.database.records if not r.final
    ]
    assert len(once) == len(set(once)) == 12 and len(tried) == 12


def test_a_run_that_is_cut_goes_on_with_its_records(path: Path) -> None:
    def cut(trial: Trial) -> None:
        if trial.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(path, Machine(lambda n: 1.0 + n), 15, report=cut)
    assert len(Database.read(path, IDENTITY).records) == 7
    machine = Machine(lambda n: 1.0 + n)
    search = tuned(path, machine, 15)
    assert search.outcomes()[0].tried == 15
    assert len([r for r in search.database.records if not r.final]) == 15


def test_failures_are_recorded_with_their_cause(path: Path) -> None:
    def time(n: int) -> float:
        if n % 2:
            raise RuntimeError(f"took longer than {n} s")
        return 1.0 + n

    told: list[Trial] = []
    search = tuned(path, Machine(time), 20, report=told.append)
    (outcome,) = search.outcomes()
    assert outcome.failed == 10 and outcome.parameters == {"n": 0}
    assert {r.error for r in search.failures} == {
        f"took longer than {n} s" for n in range(1, 20, 2)
    }
    stored = Database.read(path, IDENTITY).records
    assert sum("took longer" in r.error for r in stored) == 10
    assert sum("took longer" in trial.error for trial in told) == 10


def test_what_computes_wrong_results_is_never_best(path: Path) -> None:
    machine = Machine(lambda n: 1.0 + n, wrong=lambda n: n < 3)
    search = tuned(path, machine, 20)
    (outcome,) = search.outcomes()
    assert outcome.parameters == {"n": 3}
    assert {0, 1, 2} & set(machine.checked)
    assert all("wrong" in r.error for r in search.failures) and search.failures
    assert all(r.parameters["n"] >= 3 for r in search.database.records if r.verified)


def test_a_winner_by_luck_does_not_survive_the_final(path: Path) -> None:
    calls: dict[int, int] = {}

    def time(n: int) -> float:
        calls[n] = calls.get(n, 0) + 1
        # Number 9 was measured once while everything else slept.
        return 0.5 if n == 9 and calls[n] == 1 else 1.0 + 0.001 * n

    search = tuned(path, Machine(time), 20)
    record = search.database.best()[('{"layer":"large"}', 1)]
    assert record.final and record.parameters == {"n": 5}
    assert len(record.values) == len(record.baseline) == 7


def test_what_is_found_wrong_in_the_final_is_a_failure(path: Path) -> None:
    # The rule is fastest, so that nothing else is checked before the final.
    machine = Machine(lambda n: 1.0 if n == 5 else 2.0 + 0.01 * n, wrong=lambda n: n in (0, 2))
    search = tuned(path, machine, 20)
    assert machine.checked == [5, 0, 1, 2, 3, 4]
    failed = {r.parameters["n"]: r.error for r in Database.read(path, IDENTITY).records if r.error}
    assert failed == dict.fromkeys((0, 2), "1 of 2 results are wrong")
    assert {r.parameters["n"] for r in search.failures} == {0, 2}
    again = tuned(path, machine, 20).outcomes()[0]
    assert (again.failed, again.tried) == (2, 20) and len(machine.checked) == 6


def test_what_fails_in_the_final_cannot_win(path: Path) -> None:
    calls: dict[int, int] = {}

    def time(n: int) -> float:
        calls[n] = calls.get(n, 0) + 1
        if n == 0 and calls[n] == 4:
            raise RuntimeError("crashed")
        return 1.0 + n

    search = tuned(path, Machine(time), 20)
    (outcome,) = search.outcomes()
    assert (outcome.parameters, outcome.failed, calls[0]) == ({"n": 1}, 1, 4)
    assert [record.error for record in search.failures] == ["crashed"]


class Changed(Numbers):
    """The rules of another version: they choose number 7."""

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        return sorted(super().candidates(workload), key=lambda c: c["n"] != 7)


@pytest.mark.parametrize("trials", [6, 20])
def test_the_final_measures_and_checks_a_rule_that_has_changed(path: Path, trials: int) -> None:
    def cut(trial: Trial) -> None:
        if trial.done == 6:
            raise KeyboardInterrupt

    # A third as fast, so that it is not checked for being best.
    machine = Machine(lambda n: 30.0 if n == 7 else 10.0 + 0.001 * n)
    before = Numbers(7)
    with pytest.raises(KeyboardInterrupt):
        tuned(path, machine, 6, space=before, report=cut)
    machine.checked.clear()
    search = tuned(path, machine, trials, space=Changed())
    assert 7 in machine.checked
    record = search.database.best()[('{"layer":"large"}', 1)]
    assert record.final and set(record.baseline) == {30.0} and record.parameters != {"n": 7}


def test_there_is_no_final_without_a_rule_that_is_right(path: Path) -> None:
    search = tuned(path, Machine(lambda n: 1.0 + n, wrong=lambda n: n == 5), 20)
    assert not any(record.final for record in search.database.records)
    (outcome,) = search.outcomes()
    assert (outcome.rule, outcome.parameters) == (None, {"n": 0})


def test_cycles_need_no_final(path: Path) -> None:
    space = Numbers()
    space.unit = "cycles"
    search = tuned(path, Machine(lambda n: 1.0 + n), 20, space=space)
    assert not any(r.final for r in search.database.records)
    assert search.outcomes()[0].best == 1.0


def test_every_task_gets_its_turn_and_the_slow_ones_more(path: Path) -> None:
    class Sizes(Machine):
        def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
            answer = super().ask(request)
            times = 100 if request["workload"]["layer"] == "large" else 1
            values = [value * times for value in answer.get("values", ())]
            return {**answer, "values": values}

    shuffled = list(range(200))
    random.Random(1).shuffle(shuffled)
    machine = Sizes(lambda n: 1.0 + shuffled[n])
    tuned(path, machine, 60, tasks=TASKS, space=Numbers(200))
    tried = [name for name, _ in machine.measured[:60]]
    assert 1 <= tried.count("small") < tried.count("large")


@pytest.mark.skipif(not model.available(), reason="needs xgboost")
def test_the_model_finds_a_valley_sooner_than_chance(path: Path) -> None:
    machine = Machine(lambda n: 1.0 + abs(n - 700) / 100)
    tuned(path, machine, 60, space=Numbers(1000))
    near = sum(abs(n - 700) <= 100 for _, n in machine.measured[:60])
    # By chance 20 % of the candidates are that near.
    assert near > 24


def test_without_xgboost_candidates_are_tried_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "available", lambda: False)
    search = tuned(path, Machine(lambda n: 1.0 + n), 30, space=Numbers(30))
    assert search.outcomes()[0].parameters == {"n": 0}
