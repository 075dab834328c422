"""Unit energies of operations and of memory accesses, each with its source.

Nothing is computed here. The figures are for a 45 nm process; they rank designs, they do not
predict a chip's power.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["multiply", "add", "shift"]

HOROWITZ = "Horowitz, Computing's energy problem, ISSCC 2014"
SHIFTADDVIT = "You et al., ShiftAddViT, NeurIPS 2023, hardware model"
SHIFTADDLLM = "You et al., ShiftAddLLM, NeurIPS 2024, hardware model"
SHIFTADDNET = "You et al., ShiftAddNet, NeurIPS 2020, hardware model"


@dataclass(frozen=True)
class UnitEnergy:
    """Energy of one operation, in picojoules."""

    operation: Operation
    number: str
    picojoules: float
    source: str


@dataclass(frozen=True)
class MemoryEnergy:
    """Energy of moving 16 bits through one level of the memory hierarchy, in picojoules."""

    level: str
    picojoules: float
    source: str


#: Operations, 45 nm.
OPERATIONS: tuple[UnitEnergy, ...] = (
    UnitEnergy("multiply", "float32", 3.7, SHIFTADDVIT),
    UnitEnergy("add", "float32", 0.9, SHIFTADDVIT),
    UnitEnergy("shift", "int32", 0.13, SHIFTADDVIT),
    UnitEnergy("multiply", "int32", 3.1, HOROWITZ),
    UnitEnergy("add", "int32", 0.1, HOROWITZ),
    UnitEnergy("multiply", "int16", 1.1, SHIFTADDLLM),
    UnitEnergy("add", "int16", 0.4, SHIFTADDLLM),
    UnitEnergy("shift", "int16", 0.15, SHIFTADDLLM),
    UnitEnergy("multiply", "int8", 0.2, SHIFTADDVIT),
    UnitEnergy("add", "int8", 0.03, SHIFTADDVIT),
    UnitEnergy("shift", "int8", 0.024, SHIFTADDVIT),
)

#: Memory, per 16 bits.
MEMORY: tuple[MemoryEnergy, ...] = (
    MemoryEnergy("DRAM", 200.0, SHIFTADDNET),
    MemoryEnergy("global buffer", 22.2, SHIFTADDNET),
    MemoryEnergy("on-chip network", 7.4, SHIFTADDNET),
    MemoryEnergy("register file", 3.7, SHIFTADDNET),
)


def operation_energy(operation: Operation, number: str) -> float:
    """Picojoules of one operation on one kind of number; KeyError if the table lacks it."""
    return _OPERATIONS[operation, number]


_OPERATIONS = {(row.operation, row.number): row.picojoules for row in OPERATIONS}
