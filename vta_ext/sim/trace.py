"""A timed program as a picture: events of the Chrome trace format, which Perfetto reads.

Rows: the labels; each module's instructions, in as many rows as are in flight together; what
each module waited for. A cycle is shown as a microsecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vta_ext.isa.schema import Module
from vta_ext.sim.report import Step, TimingReport

_MODULES: Final = (Module.LOAD, Module.COMPUTE, Module.STORE)


class _Rows:
    """Numbers of rows, and until when each is taken: slices of a row must not overlap."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._ends: dict[str, list[tuple[int, int]]] = {}

    def place(self, group: str, start: int, end: int) -> int:
        """The first row of ``group`` that is free from ``start`` on; it is taken until ``end``."""
        rows = self._ends.setdefault(group, [])
        for place, (row, taken) in enumerate(rows):
            if taken <= start:
                rows[place] = (row, end)
                return row
        row = len(self.names)
        self.names.append(group if not rows else f"{group} {len(rows) + 1}")
        rows.append((row, end))
        return row


def _slice(rows: _Rows, group: str, name: str, start: int, end: int, **more: Any) -> dict[str, Any]:
    row = rows.place(group, start, end)
    return {"name": name, "ph": "X", "pid": 0, "tid": row, "ts": start, "dur": end - start, **more}


def events(report: TimingReport) -> Iterator[dict[str, Any]]:
    """The events, the names of rows last."""
    rows = _Rows()
    at = 0
    for label in report.labels():
        args = {"utilisation": label.utilisation, "waits": label.waits}
        yield _slice(rows, "labels", label.name, at, at + label.cycles, cat="label", args=args)
        at += label.cycles
    for module in _MODULES:
        for step in report.steps:
            if step.module is module:
                yield _step(rows, report, step)
        for step in report.steps:
            if step.module is module:
                yield from _waits(rows, step)
    for number, name in enumerate(rows.names):
        about = {"pid": 0, "tid": number, "ph": "M"}
        yield {**about, "name": "thread_name", "args": {"name": name}}
        yield {**about, "name": "thread_sort_index", "args": {"sort_index": number}}


def _step(rows: _Rows, report: TimingReport, step: Step) -> dict[str, Any]:
    text = str(report.program.instructions[step.position])
    args = {"position": step.position, "text": text}
    name, module = text.partition(" ")[0], step.module.value
    return _slice(rows, module, name, step.start, step.end, cat=module, args=args)


def _waits(rows: _Rows, step: Step) -> Iterator[dict[str, Any]]:
    """The idle time before a step, a slice a cause."""
    at = step.start - sum(cycles for _, cycles in step.waits)
    for cause, cycles in step.waits:
        group, args = f"{step.module.value} waits", {"before": step.position}
        yield _slice(rows, group, f"wait: {cause}", at, at + cycles, cat="wait", args=args)
        at += cycles


def save_trace(report: TimingReport, path: str | Path) -> None:
    """Write the trace as JSON for ui.perfetto.dev or chrome://tracing."""
    trace = {"traceEvents": list(events(report)), "displayTimeUnit": "ns"}
    Path(path).write_text(json.dumps(trace), encoding="utf-8")
