"""What the timing model found: cycles, use of the matrix unit, waits, traffic, and a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vta_ext.isa import access
from vta_ext.isa.schema import Module
from vta_ext.program import Program


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction in its module, from its start to its end, in cycles."""

    position: int
    module: Module
    start: int
    end: int


@dataclass(frozen=True)
class LabelReport:
    """One label: cycles until the next one's work ends, micro-ops of GEMM, utilisation."""

    name: str
    cycles: int
    gemm_micro_ops: int
    alu_micro_ops: int
    bytes: int

    @property
    def utilisation(self) -> float:
        """Share of cycles in which the matrix unit adds up."""
        return self.gemm_micro_ops / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class TimingReport:
    """``cycles`` count from the first fetch to the end of FINISH.

    ``waits``: cycles a module waited before an instruction, by cause. ``bytes``: moved, by memory.
    ``bus_busy``: cycles in which the memory port moved a beat.
    """

    program: Program
    cycles: int
    steps: tuple[Step, ...]
    waits: dict[str, dict[str, int]]
    bytes: dict[str, int]
    bus_busy: int
    memory_bits: int

    def gemm_micro_ops(self) -> int:
        """Micro-ops that add up products; each is ``macs_per_cycle`` of them."""
        return sum(_gemm_work(self.program, step.position) for step in self.steps)

    @property
    def utilisation(self) -> float:
        """Share of all cycles in which the matrix unit adds up products."""
        return self.gemm_micro_ops() / self.cycles

    @property
    def bandwidth(self) -> float:
        """Share of all cycles in which the memory port is busy."""
        return self.bus_busy / self.cycles

    def busy(self) -> dict[str, int]:
        """Cycles in which at least one instruction of a module was under way."""
        return {module.value: _covered(self._spans(module)) for module in _MODULES}

    def _spans(self, module: Module) -> list[tuple[int, int]]:
        return [(step.start, step.end) for step in self.steps if step.module is module]

    def labels(self) -> list[LabelReport]:
        """Each label in turn; a label's time ends when the last of its instructions does."""
        marks = sorted(self.program.labels, key=lambda label: label.position)
        found, before = [], 0
        ends = {step.position: step.end for step in self.steps}
        for number, mark in enumerate(marks):
            last = len(self.program.instructions)
            last = marks[number + 1].position if number + 1 < len(marks) else last
            positions = range(mark.position, last)
            end = max((ends[p] for p in positions if p in ends), default=before)
            found.append(self._label(mark.name, positions, max(end - before, 0)))
            before = max(end, before)
        return found

    def _label(self, name: str, positions: range, cycles: int) -> LabelReport:
        program = self.program
        instructions = [program.instructions[p] for p in positions]
        moves = (
            access.transfer(i, program.config)
            for i in instructions
            if i.kind.name in ("LOAD", "STORE")
        )
        return LabelReport(
            name=name,
            cycles=cycles,
            gemm_micro_ops=sum(_gemm_work(program, p) for p in positions),
            alu_micro_ops=sum(
                access.micro_op_count(i) for i in instructions if i.kind.name == "ALU"
            ),
            bytes=sum(move.moved_bytes for move in moves if move is not None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Counters as an object that JSON can hold."""
        return {
            "cycles": self.cycles,
            "utilisation": self.utilisation,
            "gemm_micro_ops": self.gemm_micro_ops(),
            "busy": self.busy(),
            "waits": self.waits,
            "bytes": self.bytes,
            "bandwidth": self.bandwidth,
            "labels": [
                {**vars(label), "utilisation": label.utilisation} for label in self.labels()
            ],
        }

    def trace(self) -> Iterator[dict[str, Any]]:
        """Events of the Chrome trace format, a cycle a microsecond; Perfetto reads it."""
        for number, module in enumerate(_MODULES):
            yield {
                "name": "thread_name",
                "ph": "M",
                "pid": 0,
                "tid": number,
                "args": {"name": module.value},
            }
        for step in self.steps:
            instruction = self.program.instructions[step.position]
            yield {
                "name": str(instruction).partition(" ")[0],
                "cat": step.module.value,
                "ph": "X",
                "pid": 0,
                "tid": _MODULES.index(step.module),
                "ts": step.start,
                "dur": step.end - step.start,
                "args": {
                    "position": step.position,
                    "text": str(instruction),
                    "label": self.program.label_of(step.position),
                },
            }

    def save_trace(self, path: str | Path) -> None:
        """Write the trace as JSON for ui.perfetto.dev or chrome://tracing."""
        events = {"traceEvents": list(self.trace()), "displayTimeUnit": "ns"}
        Path(path).write_text(json.dumps(events), encoding="utf-8")


_MODULES = (Module.LOAD, Module.COMPUTE, Module.STORE)


def _gemm_work(program: Program, position: int) -> int:
    """Micro-ops of an instruction that add up products: none where it only clears."""
    instruction = program.instructions[position]
    if instruction.kind.mode is None or (instruction.reset and not instruction.fresh):
        return 0
    return access.micro_op_count(instruction)


def _covered(spans: list[tuple[int, int]]) -> int:
    """Length of the union of intervals."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
