"""What the timing model found: cycles, use of the matrix unit, waits, traffic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from vta_ext.isa import access
from vta_ext.isa.schema import Module
from vta_ext.program import Program

#: Properties of a label that are shown beside its fields.
_DERIVED = ("utilisation", "bound", "of_bound", "compute_bound", "of_compute_bound")

#: A cause and the cycles it cost: "instructions" (none had arrived) or "token from ...".
Wait = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction in its module, from its start to its end, in cycles.

    ``waits``: what the module waited for, idle, before it started this instruction, in order.
    """

    position: int
    module: Module
    start: int
    end: int
    waits: tuple[Wait, ...] = ()


@dataclass(frozen=True)
class LabelReport:
    """One label, for instance a layer.

    ``cycles`` of compute: from the end of its work for the label before to the end of its work for
    this one, waits included. Micro-ops of GEMM (one a cycle at best) and ALU; bytes moved, in all
    and by buffer, and the cycles the memory port needs for them; what compute waited for in these
    cycles.
    """

    name: str
    cycles: int
    gemm_micro_ops: int
    alu_micro_ops: int
    bytes: int
    memory_cycles: int
    waits: dict[str, int]
    bytes_by_memory: dict[str, int]

    @property
    def utilisation(self) -> float:
        """Share of cycles in which the matrix unit adds up."""
        return self.gemm_micro_ops / self.cycles if self.cycles else 0.0

    @property
    def bound(self) -> int:
        """The roofline: cycles that matrix unit or memory need in any case, whichever is more."""
        return max(self.gemm_micro_ops, self.memory_cycles)

    @property
    def of_bound(self) -> float:
        """The roofline's cycles as a share of those taken."""
        return self.bound / self.cycles if self.cycles else 0.0

    @property
    def compute_bound(self) -> int:
        """Cycles that compute needs for its GEMM and ALU micro-ops, one a cycle, or memory."""
        return max(self.gemm_micro_ops + self.alu_micro_ops, self.memory_cycles)

    @property
    def of_compute_bound(self) -> float:
        """The cycles of :attr:`compute_bound` as a share of those taken."""
        return self.compute_bound / self.cycles if self.cycles else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as an object that JSON can hold."""
        derived = {name: getattr(self, name) for name in _DERIVED}
        return {**asdict(self), **derived}


@dataclass(frozen=True)
class TimingReport:
    """``cycles`` count from the first fetch to the end of FINISH.

    ``bytes``: moved, by memory. ``bus_busy``: cycles in which the memory port moved a beat.
    """

    program: Program
    cycles: int
    steps: tuple[Step, ...]
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

    @property
    def waits(self) -> dict[str, dict[str, int]]:
        """Cycles each module was idle before an instruction, by cause."""
        return {
            module.value: _sum_waits(step for step in self.steps if step.module is module)
            for module in _MODULES
        }

    def compute_cycles(self) -> dict[str, int]:
        """Where the time of compute went: cycles by kind of instruction, its own loads too."""
        found: dict[str, int] = {}
        for step in self.steps:
            if step.module is Module.COMPUTE:
                name = self.program.instructions[step.position].kind.name
                found[name] = found.get(name, 0) + step.end - step.start
        return found

    def busy(self) -> dict[str, int]:
        """Cycles in which at least one instruction of a module was under way."""
        return {module.value: _covered(self._spans(module)) for module in _MODULES}

    def _spans(self, module: Module) -> list[tuple[int, int]]:
        return [(step.start, step.end) for step in self.steps if step.module is module]

    def labels(self) -> list[LabelReport]:
        """Each label in turn; loads and stores of one label may overlap the time of another."""
        marks = sorted(self.program.labels, key=lambda label: label.position)
        found, before = [], 0
        steps = {step.position: step for step in self.steps}
        for number, mark in enumerate(marks):
            last = len(self.program.instructions)
            last = marks[number + 1].position if number + 1 < len(marks) else last
            positions = range(mark.position, last)
            own = [steps[p] for p in positions if p in steps]
            ends = (step.end for step in own if step.module is Module.COMPUTE)
            end = max(ends, default=before)
            found.append(self._label(mark.name, own, max(end - before, 0)))
            before = max(end, before)
        return found

    def _label(self, name: str, steps: list[Step], cycles: int) -> LabelReport:
        program = self.program
        instructions = [program.instructions[step.position] for step in steps]
        by_memory: dict[str, int] = {}
        for instruction in instructions:
            if instruction.kind.name in ("LOAD", "STORE"):
                move = access.transfer(instruction, program.config)
                if move is not None:
                    buffer = move.memory.name
                    by_memory[buffer] = by_memory.get(buffer, 0) + move.moved_bytes
        moved = sum(by_memory.values())
        return LabelReport(
            name=name,
            cycles=cycles,
            gemm_micro_ops=sum(_gemm_work(program, step.position) for step in steps),
            alu_micro_ops=sum(
                access.micro_op_count(i) for i in instructions if i.kind.name == "ALU"
            ),
            bytes=moved,
            memory_cycles=-(-8 * moved // self.memory_bits),
            waits=_sum_waits(step for step in steps if step.module is Module.COMPUTE),
            bytes_by_memory=by_memory,
        )

    def to_dict(self) -> dict[str, Any]:
        """Counters as an object that JSON can hold."""
        return {
            "cycles": self.cycles,
            "utilisation": self.utilisation,
            "gemm_micro_ops": self.gemm_micro_ops(),
            "busy": self.busy(),
            "compute_cycles": self.compute_cycles(),
            "waits": self.waits,
            "bytes": self.bytes,
            "bandwidth": self.bandwidth,
            "labels": [label.to_dict() for label in self.labels()],
        }


_MODULES = (Module.LOAD, Module.COMPUTE, Module.STORE)


def _gemm_work(program: Program, position: int) -> int:
    """Micro-ops of an instruction that add up products: none where it only clears."""
    instruction = program.instructions[position]
    if instruction.kind.mode is None or (instruction.reset and not instruction.fresh):
        return 0
    return access.micro_op_count(instruction)


def _sum_waits(steps: Iterable[Step]) -> dict[str, int]:
    """Cycles by cause."""
    found: dict[str, int] = {}
    for step in steps:
        for cause, cycles in step.waits:
            found[cause] = found.get(cause, 0) + cycles
    return found


def _covered(spans: list[tuple[int, int]]) -> int:
    """Length of the union of intervals."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
