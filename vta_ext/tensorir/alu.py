"""Writes expressions to accumulators: which operations, in which order, through which copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tvm_shiftadd.errors import CompileError
from vta_ext.config import Config
from vta_ext.isa.schema import Source
from vta_ext.isa.table import OPERATION_BY_NAME
from vta_ext.jit.recorder import Recorder
from vta_ext.tensorir.expressions import (
    COMMUTATIVE,
    REPEATABLE,
    Constant,
    Node,
    Operation,
    Vector,
    vectors,
)
from vta_ext.tensorir.nest import Index

#: Operations that take the low six bits of their operand.
_SHIFTS: Final = ("shr", "rshr")


class AluWriter:
    """``temporary`` gives accumulators for results in between: the first one of so many."""

    def __init__(self, recorder: Recorder, config: Config, temporary: Callable[[int], int]) -> None:
        self._recorder, self._config, self._temporary = recorder, config, temporary

    def write(self, target: Index, node: Node) -> None:
        """Instructions that make accumulators ``target``, over any loops, a node's value.

        All iterations read what was there before the first one writes, except for sums, maxima and
        minima of several iterations. Raises CompileError for what depends on their order.
        """
        repeated = np.unique(target).size < target.size
        if repeated and not self._accumulates(target, node):
            raise CompileError(
                "several iterations write one accumulator, which is only possible for sums, maxima "
                "and minima of its own old value and what is not written meanwhile; initialise it "
                "in a step of its own"
            )
        if any(one.meets(target) and not one.same("acc", target) for one in vectors(node)):
            # Micro-ops run in any order, so everything is read before anything is written.
            apart = self._apart(target)
            self._write(apart, node)
            node = Vector("acc", apart)
        self._write(target, node)

    def _accumulates(self, target: Index, node: Node) -> bool:
        if not isinstance(node, Operation) or node.name not in REPEATABLE:
            return False
        if node.parameters.get("replace"):
            return False
        operands = self._own_first(target, node).operands
        first = isinstance(operands[0], Vector) and operands[0].same("acc", target)
        return first and not any(
            isinstance(one, Operation) or (isinstance(one, Vector) and one.meets(target))
            for one in operands[1:]
        )

    def _own_first(self, target: Index, node: Operation) -> Operation:
        """The same with the target as the first operand, where order does not matter."""
        if node.name in COMMUTATIVE and len(node.operands) == 2:
            second = node.operands[1]
            if isinstance(second, Vector) and second.same("acc", target):
                return replace(node, operands=node.operands[::-1])
        return node

    def _write(self, target: Index, node: Node) -> None:
        if isinstance(node, Constant):
            self._constant(target, node.value)
        elif isinstance(node, Vector):
            if not node.same("acc", target):
                self._copy(target, node)
        else:
            self._operation(target, self._own_first(target, node))

    def _constant(self, target: Index, value: int) -> None:
        grid = _grid(target)
        self._recorder.gemm(self._config.gemm_modes[0], grid, "clear")
        low = _signed(value)
        if value != low:
            # An immediate has 16 bits: the upper half first.
            self._recorder.alu("add", grid, imm=_signed((value - low) >> 16))
            self._recorder.alu("shr", grid, imm=-16)
        if low:
            self._recorder.alu("add", grid, imm=low)

    def _copy(self, target: Index, source: Vector) -> None:
        if "sha" in self._config.alu_ops:
            self._run(Operation("sha", (), {"shift": 0, "replace": 1}), target, source)
            return
        self._constant(target, 0)
        self._run(Operation("add", ()), target, source)

    def _operation(self, target: Index, node: Operation) -> None:
        first, *others = node.operands
        in_place = node.parameters.get("replace") or (
            isinstance(first, Vector) and first.same("acc", target)
        )
        read = [vector for other in others for vector in vectors(other)]
        if not in_place and any(vector.meets(target) for vector in read):
            # The first operand, which is written first, would overwrite what is still to be read.
            apart = self._apart(target)
            self._operation(apart, node)
            self._copy(target, Vector("acc", apart))
            return
        if not node.parameters.get("replace"):
            self._write(target, first)
        ready = [self._ready(target, other, node) for other in others]
        self._run(node, target, *ready)

    def _apart(self, target: Index) -> Index:
        return self._temporary(target.size) + np.arange(target.size).reshape(target.shape)

    def _ready(self, target: Index, operand: Node, node: Operation) -> Constant | Vector:
        """An operand as the instruction takes it: a vector, or a constant where that may be."""
        takes = OPERATION_BY_NAME[node.name].source
        if isinstance(operand, Vector) or (
            isinstance(operand, Constant) and takes is Source.OPERAND
        ):
            return operand
        apart = self._apart(target)
        self._write(apart, operand)
        return Vector("acc", apart)

    def _run(self, node: Operation, target: Index, *operands: Constant | Vector) -> None:
        """One operation on what is in place already."""
        entry = OPERATION_BY_NAME[node.name]
        parameters: dict[str, Any] = dict(node.parameters)
        wanted = {Source.IMMEDIATE: 0, Source.ROWS: 2, Source.CODES: 2}.get(entry.source, 1)
        if len(operands) != wanted:
            raise CompileError(
                f"operation {node.name} takes {wanted} operands besides the destination, not "
                f"{len(operands)}"
            )
        if not operands:
            self._recorder.alu(node.name, _grid(target), **parameters)
            return
        first = operands[0]
        if isinstance(first, Constant):
            if node.name in _SHIFTS and not -32 <= first.value <= 31:
                raise CompileError(f"{node.name} shifts by -32 to 31, not by {first.value}")
            self._recorder.alu(node.name, _grid(target), imm=first.value)
            return
        rows: Index | int = 0
        if entry.source is Source.ROWS:
            self._check_rows(node, first, operands[1])
        elif entry.source is Source.CODES:
            if parameters["row"]:
                raise CompileError(f"{node.name} takes its row from the index of its codes")
            rows, parameters["row"] = self._codes(node, operands[1])
        if first.memory == "wgt":
            raise CompileError(f"operand of {node.name} are weights; load it as inputs instead")
        if first.memory == "inp" and not self._config.has("input-source"):
            raise CompileError(
                "this machine's ALU does not read inputs; load them into scope local.acc_buffer"
            )
        grid = _grid(target, first.entries, rows)
        self._recorder.alu(node.name, grid, from_inp=first.memory == "inp", **parameters)

    def _check_rows(self, node: Operation, first: Vector, second: Constant | Vector) -> None:
        after = isinstance(second, Vector) and second.same("acc", first.entries + 1)
        if first.memory != "acc" or not after:
            raise CompileError(
                f"operation {node.name} reads two vectors one after the other; let both be in one "
                "buffer, [..., 2, BATCH, BLOCK]"
            )

    def _codes(self, node: Operation, operand: Constant | Vector) -> tuple[Index, int]:
        if not isinstance(operand, Vector) or operand.memory != "wgt":
            raise CompileError(f"operation {node.name} takes codes from scope local.wgt_buffer")
        first = int(operand.entries.min())
        return operand.entries - first, first


def _grid(dst: Index, src: Index | int = 0, wgt: Index | int = 0) -> Index:
    return np.stack(np.broadcast_arrays(dst, src, wgt), axis=-1)


def _signed(value: int) -> int:
    """The low 16 bits, as a signed number."""
    return (value + 0x8000) % 0x10000 - 0x8000
