"""What is tuned: tasks, their candidates, what is known of them, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tvm_shiftadd.tune.database import Record, text_of

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A workload and its place in a network: ``count`` layers have it, of ``work`` operations."""

    workload: Mapping[str, Any]
    name: str
    count: int
    work: int


class Space(Protocol):
    """What can be tuned: candidates of a workload, as plain values."""

    #: "seconds" or "cycles"; the latter are always the same, so there is no final.
    unit: str

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All parameters that can be, the rule's choice first."""

    def features(self, workload: Mapping[str, Any], parameters: Parameters) -> list[float]:
        """Numbers that a candidate's time may depend on."""

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        """A workload for people, and its operations."""


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried: ``done`` of ``trials`` are. ``value`` is None where it failed.

    ``rule`` is the value of the rule's choice, ``best`` the least so far; None before there is any.
    """

    done: int
    trials: int
    task: str
    parameters: Parameters
    value: float | None
    error: str
    rule: float | None
    best: float | None


Report = Callable[[Trial], None]


@dataclass(frozen=True)
class Outcome:
    """What is known of a task in the end.

    ``rule`` and ``best`` are seconds or cycles of the rule's choice and of the one to be used,
    both of the final where there was one; None where no candidate could be measured.
    """

    task: str
    layers: int
    work: int
    candidates: int
    tried: int
    failed: int
    rule: float | None
    best: float | None
    parameters: dict[str, Any] | None


@dataclass
class State:
    """A task with its candidates and what is known of them."""

    task: Task
    candidates: list[dict[str, Any]]
    tried: dict[str, Record] = field(default_factory=dict)
    rows: dict[str, list[float]] = field(default_factory=dict)
    #: Batches since the best was found.
    stale: int = 0
    changed: bool = False

    @property
    def rule(self) -> dict[str, Any]:
        """The parameters that the rule gives."""
        return self.candidates[0]

    @property
    def rule_value(self) -> float | None:
        """What those take; None before they were measured, and where they failed."""
        record = self.tried.get(text_of(self.rule))
        return record.value if record and record.values else None

    def verified(self) -> list[Record]:
        """What may be best, the fastest first."""
        good = [r for r in self.tried.values() if r.values and r.verified]
        return sorted(good, key=lambda record: record.value)

    @property
    def best(self) -> float | None:
        """The least value of what may be best."""
        return next((record.value for record in self.verified()), None)

    def left(self) -> list[dict[str, Any]]:
        """Candidates that were not tried."""
        return [c for c in self.candidates if text_of(c) not in self.tried]


class Workload(Protocol):
    """What a kernel has to do."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""


def chosen(made: Iterable[tuple[str, Workload, Any, bool]]) -> list[dict[str, Any]]:
    """What was chosen in a build, as plain values for the artifact's report.

    ``made``: of each kernel the name of its result, its workload, its parameters, a dataclass, and
    whether those were tuned.
    """
    return [
        {
            "result": name,
            "workload": work.to_dict(),
            "parameters": asdict(parameters),
            "tuned": tuned,
        }
        for name, work, parameters, tuned in made
    ]
