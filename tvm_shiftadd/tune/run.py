"""Tuning a network: its workloads, a database, processes, and the search through candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import ShiftAddError
from tvm_shiftadd.tune.database import Database, Record, text_of
from tvm_shiftadd.tune.search import Search
from tvm_shiftadd.tune.task import Outcome, Report, Space, Task
from tvm_shiftadd.tune.workers import Workers


@dataclass(frozen=True)
class Tunable:
    """A kind of target to tune for.

    ``identity`` is what its database must be for, ``factory`` and ``config`` what its processes
    are started with (see ``worker``), ``processes`` how many of them may measure at once.
    ``waiting``: seconds that one may wait for a machine to try a candidate on.
    """

    identity: Mapping[str, Any]
    space: Space
    factory: str
    config: Mapping[str, Any]
    threads: int = 1
    processes: int = 1
    machine: str = ""
    waiting: float = 0.0


@dataclass(frozen=True)
class Result:
    """What a run of ``tune`` knows in the end; ``failures`` are those of this run."""

    unit: str
    outcomes: list[Outcome]
    failures: list[Record] = field(default_factory=list)

    def total(self, which: str) -> float:
        """Seconds or cycles of all layers together: "rule" or "best", where both are known."""
        known = [o for o in self.outcomes if o.rule is not None and o.best is not None]
        return float(sum(outcome.layers * getattr(outcome, which) for outcome in known))


def tasks_of(kernels: Sequence[Mapping[str, Any]], space: Space) -> list[Task]:
    """The different workloads of an artifact's kernels, each with the layers that have it."""
    works = {text_of(kernel["workload"]): kernel["workload"] for kernel in kernels}
    counts = Counter(text_of(kernel["workload"]) for kernel in kernels)
    described = {text: space.describe(work) for text, work in works.items()}
    return [Task(works[text], name, counts[text], work) for text, (name, work) in described.items()]


def tune(
    tunable: Tunable,
    path: Path,
    kernels: Callable[[], Sequence[Mapping[str, Any]]],
    *,
    trials: int,
    timeout: float,
    report: Report = lambda trial: None,
) -> Result:
    """Try candidates until the database at ``path`` has ``trials`` of a network.

    ``kernels``: an artifact's list of them, asked for once the database is known to fit. Trials of
    earlier runs count. A candidate that takes longer than ``timeout`` seconds has failed.

    Raises InputError for a database that is damaged, in use, or of another target, and
    ShiftAddError where nothing at all can be measured.
    """
    config = {**tunable.config, "timeout": timeout}
    limit, count = timeout + tunable.waiting, tunable.processes
    with (
        Database.open(path, tunable.identity) as database,
        Workers(tunable.factory, config, count=count, timeout=limit) as pool,
    ):
        search = Search(
            tunable.space,
            tasks_of(kernels(), tunable.space),
            database,
            pool,
            threads=tunable.threads,
            machine=tunable.machine,
            report=report,
        )
        search.run(trials)
        outcomes, failures = search.outcomes(), search.failures
    if failures and all(outcome.best is None for outcome in outcomes):
        raise ShiftAddError(f"no candidate could be measured: {failures[0].error}")
    return Result(tunable.space.unit, outcomes, failures)
