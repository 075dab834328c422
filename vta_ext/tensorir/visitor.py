"""From statements of TensorIR to instructions: one walk.

A statement alone in its loops is an instruction, or a few: a copy from DRAM is a LOAD, a copy to
DRAM a STORE, a call of the tensor intrinsic GEMM, any other assignment operations of the ALU. Loops
around several statements are run as they stand, so that every instruction knows its addresses.
"""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import handle
from tvm_shiftadd.errors import CompileError
from vta_ext.jit.recorder import Recorder
from vta_ext.program import Section
from vta_ext.tensorir.buffers import Buffers
from vta_ext.tensorir.environment import Environment
from vta_ext.tensorir.instructions import Instructions
from vta_ext.tensorir.nest import Loop, Nest, evaluate
from vta_ext.tensorir.statements import THREADS, Uses, describe, stripped

Values = dict[int, int]


class Visitor:
    """Records the body of an operator; ``sections``: where its arguments are, by handle."""

    def __init__(
        self, env: Environment, recorder: Recorder, sections: dict[int, Section], body: Any
    ) -> None:
        self._body = body
        self._buffers = Buffers(env.config)
        self._instructions = Instructions(env, recorder, sections, self._buffers, Uses.of(body))

    def record(self) -> None:
        """Record everything. Raises CompileError that quotes the statement at fault."""
        self._visit(self._body, {})

    def _visit(self, stmt: Any, values: Values) -> None:
        kind = type(stmt).__name__
        if kind == "For":
            self._loop(stmt, values)
        elif kind == "SeqStmt":
            self._sequence(stmt, values)
        elif kind == "IfThenElse":
            self._branch(stmt, values)
        elif kind == "AttrStmt":
            self._attribute(stmt, values)
        elif kind in ("BufferStore", "Evaluate"):
            self._instructions.record(stmt, Nest((), values), ())
        else:
            raise CompileError(
                f"statement `{describe(stmt)}` ({kind}) is none of loops, conditions, copies, "
                "calls of tensor intrinsics and assignments, which are what the accelerator runs"
            )

    def _loop(self, stmt: Any, values: Values) -> None:
        loops, conditions, leaf = stripped(stmt)
        if leaf is not None:
            found = tuple(_loop(loop, values) for loop in loops)
            self._instructions.record(leaf, Nest(found, values), conditions)
            return
        loop = _loop(stmt, values)
        for value in range(loop.minimum, loop.minimum + loop.extent):
            self._turn(stmt.body, {**values, handle(stmt.loop_var): value})

    def _turn(self, body: Any, values: Values) -> None:
        """One iteration: what is declared outside may be needed by the next one."""
        self._buffers.level += 1
        self._visit(body, values)
        self._buffers.level -= 1

    def _attribute(self, stmt: Any, values: Values) -> None:
        """A note on what is inside; virtual threads are a loop, whose turns overlap anyway."""
        if str(stmt.attr_key) not in THREADS:
            self._visit(stmt.body, values)
            return
        for value in range(evaluate(stmt.value, values)):
            self._turn(stmt.body, {**values, handle(stmt.node.var): value})

    def _branch(self, stmt: Any, values: Values) -> None:
        if evaluate(stmt.condition, values):
            self._visit(stmt.then_case, values)
        elif stmt.else_case is not None:
            self._visit(stmt.else_case, values)

    def _sequence(self, stmt: Any, values: Values) -> None:
        self._buffers.level += 1
        mine = []
        for part in stmt.seq:
            if type(part).__name__ == "AllocBuffer":
                mine.append(part.buffer)
                self._buffers.declare(part.buffer)
            else:
                self._visit(part, values)
        for buffer in mine:
            self._buffers.free(buffer)
        self._buffers.level -= 1


def _loop(loop: Any, values: Values) -> Loop:
    if loop.step is not None and evaluate(loop.step, values) != 1:
        raise CompileError(
            f"loop {loop.loop_var} has a step of {loop.step}; multiply the index instead"
        )
    try:
        extent, minimum = evaluate(loop.extent, values), evaluate(loop.min, values)
    except KeyError:
        raise CompileError(
            f"loop {loop.loop_var} has a range of {loop.extent}, which differs with a loop around "
            "the same statement; split or reorder them so that inner loops have fixed sizes"
        ) from None
    return Loop(handle(loop.loop_var), extent, minimum)
