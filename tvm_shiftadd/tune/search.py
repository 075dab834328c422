"""The search: which candidate of which layer is tried next, and what is kept of it.

MetaSchedule's search works on traces of schedule primitives. The kernels here are written out by
TVM's builder from a small record of parameters, and all records that can be are listed; so the
model ranks all of them instead of mutating a few.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from tvm_shiftadd.tune.database import Database, Record, text_of
from tvm_shiftadd.tune.model import CostModel
from tvm_shiftadd.tune.task import Outcome, Parameters, Report, Space, State, Task, Trial
from tvm_shiftadd.tune.workers import Workers

#: Candidates that are tried before the model learns again, and the share that it does not choose.
BATCH, RANDOM = 8, 0.25
#: Differences of logarithms that mean nothing, in predictions as in measurements.
SCATTER = 0.05
#: Candidates of the final beside the rule's choice, its rounds, and how much the winner must gain.
FINALISTS, ROUNDS, GAIN = 3, 7, 1.03


class Search:
    """Tunes tasks into a database with the processes of ``workers``.

    ``machine`` is written into the records. ``report`` is told of each trial.
    """

    def __init__(
        self,
        space: Space,
        tasks: Sequence[Task],
        database: Database,
        workers: Workers,
        *,
        threads: int = 1,
        machine: str = "",
        report: Report = lambda trial: None,
    ) -> None:
        self.space, self.database, self.workers = space, database, workers
        self.threads, self.machine, self.report = threads, machine, report
        self.model, self.random = CostModel(), random.Random(0)
        self.states = [State(task, space.candidates(task.workload)) for task in tasks]
        self.failures: list[Record] = []
        for state in self.states:
            self._recall(state)

    def _recall(self, state: State) -> None:
        """What earlier runs have tried."""
        key = self._key(state)
        finals = False
        for record in self.database.records:
            if record.key != key:
                continue
            finals = record.final
            if not record.final:
                state.tried[text_of(record.parameters)] = record
        state.changed = bool(state.tried) and not finals
        for record in state.tried.values():
            self._learn(state, record)

    def run(self, trials: int) -> None:
        """Try candidates until the database has ``trials`` of these tasks, then hold the finals."""
        done = sum(len(state.tried) for state in self.states)
        while done < trials:
            state = self._next()
            if state is None:
                break
            before = state.best
            for record in self._try(state, self._choose(state, min(BATCH, trials - done))):
                done += 1
                self._tell(state, record, done, trials)
            improved = state.best is not None and (before is None or state.best < before / GAIN)
            state.stale = 0 if improved else state.stale + 1
        if self.space.unit == "seconds":
            for state in self.states:
                if state.changed:
                    self._final(state)

    def outcomes(self) -> list[Outcome]:
        """What the database now has of each task."""
        best = self.database.best()
        return [self._outcome(state, best.get(self._key(state))) for state in self.states]

    def _outcome(self, state: State, best: Record | None) -> Outcome:
        tried = state.tried.values()
        rule, value = state.rule_value, best.value if best else None
        if best and best.final:
            rule, value = statistics.median(best.baseline), statistics.median(best.values)
        return Outcome(
            state.task.name,
            state.task.count,
            state.task.work,
            len(state.candidates),
            len(tried),
            sum(bool(record.error) for record in tried),
            rule,
            value,
            best.parameters if best else None,
        )

    def _key(self, state: State) -> tuple[str, int]:
        return text_of(state.task.workload), self.threads

    def _next(self) -> State | None:
        """The task to go on with: a new one, or the one where most time may be gained."""
        open_ = [state for state in self.states if state.left()]
        fresh = [state for state in open_ if not state.tried]
        if fresh:
            return max(fresh, key=lambda state: state.task.work * state.task.count)

        def weight(state: State) -> float:
            return state.task.count * (state.best or 0.0) / (1 + state.stale)

        return max(open_, key=weight, default=None)

    def _choose(self, state: State, count: int) -> list[dict[str, Any]]:
        """The rule's choice first; then what the model finds best, and some at random."""
        left = state.left()
        if left[0] is state.rule:
            # So that all that follows can be compared with it.
            return left[:1]
        chosen: list[dict[str, Any]] = []
        if self.model.ready:
            costs = self.model.predict([self._row(state, candidate) for candidate in left])
            guesses = [float(cost) + self.random.gauss(0, SCATTER) for cost in costs]
            order = sorted(range(len(left)), key=guesses.__getitem__)
            chosen = [left[index] for index in order[: count - int(count * RANDOM)]]
            left = [candidate for candidate in left if candidate not in chosen]
        return chosen + self.random.sample(left, min(count - len(chosen), len(left)))

    def _row(self, state: State, candidate: Parameters) -> list[float]:
        text = text_of(candidate)
        if text not in state.rows:
            state.rows[text] = self.space.features(state.task.workload, candidate)
        return state.rows[text]

    def _learn(self, state: State, record: Record) -> None:
        rule = state.rule_value
        if rule is not None:
            relative = record.value / rule if record.values else None
            self.model.add(self._row(state, record.parameters), relative)

    # One candidate.

    def _try(self, state: State, chosen: Sequence[dict[str, Any]]) -> Iterator[Record]:
        requests = [self._request(state, "measure", parameters) for parameters in chosen]
        for index, answer in self.workers.ask_all(requests):
            record = self._judged(state, chosen[index], answer)
            self.database.append(record)
            state.tried[text_of(record.parameters)] = record
            state.changed = True
            if record.error:
                self.failures.append(record)
            self._learn(state, record)
            yield record

    def _request(self, state: State, job: str, parameters: Parameters) -> dict[str, Any]:
        return {"job": job, "workload": state.task.workload, "parameters": parameters}

    def _judged(
        self, state: State, parameters: dict[str, Any], answer: Mapping[str, Any]
    ) -> Record:
        """The record of a candidate; one that would be best is first compared with the reference.

        That may come out wrong as well: then it is a failure.
        """
        error = str(answer.get("error", ""))
        values = tuple(float(value) for value in answer.get("values", ()))
        verified = False
        if values and (state.best is None or min(values) < state.best):
            error = self._verify(state, parameters)
            values, verified = (() if error else values), not error
        return self._record(state, parameters, values=values, error=error, verified=verified)

    def _verify(self, state: State, parameters: Parameters) -> str:
        answer = self.workers.ask(self._request(state, "verify", parameters))
        return "" if answer.get("equal") else str(answer.get("error", "wrong results"))

    def _record(self, state: State, parameters: Mapping[str, Any], **known: Any) -> Record:
        return Record(
            workload=dict(state.task.workload),
            parameters=dict(parameters),
            threads=self.threads,
            machine=self.machine,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **known,
        )

    def _tell(self, state: State, record: Record, done: int, trials: int) -> None:
        value = record.value if record.values else None
        told = (state.task.name, record.parameters, value, record.error)
        self.report(Trial(done, trials, *told, state.rule_value, state.best))

    # The final.

    def _final(self, state: State) -> None:
        """Measure the fastest and the rule's choice in turns; what does not gain is not used.

        In single measurements the least of many may be so by luck, or because others slept.
        Without a rule's choice that is right there is nothing to hold others against.
        """
        if state.rule_value is None and text_of(state.rule) not in state.tried:
            # The rules were others when the database was begun.
            list(self._try(state, [state.rule]))
        if state.rule_value is None or not self._is_right(state, state.rule):
            return
        contenders = [state.rule, *self._finalists(state)]
        samples = self._in_turns(state, contenders)
        if not samples[0]:
            return
        medians = [statistics.median(s) if s else float("inf") for s in samples]
        best = min(range(len(medians)), key=medians.__getitem__)
        if medians[best] * GAIN > medians[0]:
            best = 0
        won: dict[str, Any] = {"values": samples[best], "baseline": samples[0]}
        record = self._record(state, contenders[best], verified=True, final=True, **won)
        self.database.append(record)
        state.changed = False

    def _finalists(self, state: State) -> list[Parameters]:
        """The fastest candidates that compute the right results."""
        found: list[Parameters] = []
        for record in sorted((r for r in state.tried.values() if r.values), key=lambda r: r.value):
            if len(found) == FINALISTS:
                break
            if record.parameters != state.rule and self._is_right(state, record.parameters):
                found.append(record.parameters)
        return found

    def _is_right(self, state: State, parameters: Parameters) -> bool:
        """Whether a candidate computes the reference's results; if not it has failed."""
        if state.tried[text_of(parameters)].verified:
            return True
        error = self._verify(state, parameters)
        if error:
            self._take_back(state, parameters, error)
        return not error

    def _take_back(self, state: State, parameters: Parameters, error: str) -> None:
        """Record that a candidate that was measured has failed after all."""
        record = self._record(state, parameters, error=error)
        self.database.append(record)
        state.tried[text_of(parameters)] = record
        self.failures.append(record)

    def _in_turns(self, state: State, contenders: Sequence[Parameters]) -> list[tuple[float, ...]]:
        """Times of each contender, one a round; none of one that failed in any."""
        if len(contenders) == 1:
            return [state.tried[text_of(state.rule)].values]
        samples: list[list[float]] = [[] for _ in contenders]
        order = list(range(len(contenders)))
        for _ in range(ROUNDS):
            self.random.shuffle(order)
            for index in list(order):
                answer = self.workers.ask(self._request(state, "measure", contenders[index]))
                if answer.get("values"):
                    samples[index].append(min(map(float, answer["values"])))
                    continue
                self._take_back(state, contenders[index], str(answer.get("error", "no values")))
                samples[index].clear()
                order.remove(index)
        return [tuple(values) for values in samples]
