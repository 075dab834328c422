"""The matrix-vector kernel: weights are decoded in registers on their way from memory.

Each byte of weights is read once for a few rows of the input, so that for one row the speed is
that of the memory, half a byte a weight of one term.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size, kernel
from tvm_shiftadd.topi.schedules.shapes import ConvShape

from .convert import fill_border
from .epilogue import Epilogue
from .instructions import QUAD, InstructionSet
from .parameters import ConvParameters
from .plan import ConvPlan
from .stored import Stored

#: Images whose rows share decoded weights, at most.
TOGETHER = 4
#: Vectors of outputs of a block, by rule.
_VECTORS = 4
#: Multiply-accumulates below which starting threads costs more than they bring.
_SERIAL = 1_000_000


def dense_plan(
    shape: ConvShape,
    source: Stored,
    isa: InstructionSet,
    images: int,
    parameters: ConvParameters | None = None,
) -> ConvPlan:
    """A dense layer as a convolution of maps of one pixel; without parameters by rule.

    ``images``: as many may be computed together, from 1 to ``TOGETHER``.
    """
    if parameters is not None:
        return ConvPlan(shape, source, isa, parameters, images=images)
    plan = ConvPlan(shape, source, isa, ConvParameters(), images=images)
    rows, vectors = _tile(plan)
    return shared_by_rule(replace(plan, parameters=ConvParameters(rows, vectors=vectors)))


def _tile(plan: ConvPlan) -> tuple[int, int]:
    """Rows and vectors of outputs by rule; each row has two sums for a vector.

    All rows, with as many vectors as leave registers for weights and an input of each row. Where a
    dot product takes apart the bytes of its weights first, to spill sums costs less than to do
    that for fewer of them: then sums fill all registers.
    """
    isa, most = plan.isa, min(_VECTORS, plan.group_vectors)
    if isa.computed_by == "vpmaddwd" and not plan.coded:
        return min(plan.images, isa.registers // (2 * most)), most
    rows = plan.images
    fitting = (v for v in range(most, 1, -1) if (2 * v + 1) * rows <= isa.room(v, plan.most))
    return rows, next(fitting, 1)


def shared_by_rule(plan: ConvPlan) -> ConvPlan:
    """The plan with its work given to threads as the rule has it."""
    parallel = plan.work >= _SERIAL and plan.panels > 1
    return replace(plan, parameters=replace(plan.parameters, parallel=parallel))


@dataclass(frozen=True)
class _Rows:
    """Code for some rows of the input times a block of outputs."""

    plan: ConvPlan
    epilogue: Epilogue
    made: Kernel
    count: int

    def compute(self, first: Any, block: Any) -> None:
        """The outputs of a block for ``count`` rows from ``first`` on."""
        plan, epilogue, made, lanes = self.plan, self.epilogue, self.made, self.plan.isa.lanes
        channel = plan.first_vector(block) * lanes
        # Low and high codes have sums of their own: more of them are in flight.
        sums = T.alloc_buffer((2 * self.count * plan.vectors * lanes,), "int32")
        for row in range(self.count):
            for v in range(plan.vectors):
                bias = epilogue.constant(made["constants"], "bias", channel + v * lanes)
                self._put(sums, 0, row, v, bias)
                self._put(sums, 1, row, v, plan.isa.every(0))
        with build.serial(plan.quads // 2) as pair:
            self._multiply(sums, first, block, pair, 2)
        if plan.quads % 2:
            self._multiply(sums, first, block, plan.quads // 2, 1)
        for row in range(self.count):
            results = []
            for v in range(plan.vectors):
                total = self._get(sums, 0, row, v) + self._get(sums, 1, row, v)
                at = channel + v * lanes
                operand = epilogue.operand(made, first + row, 0, 0, at)
                results.append(epilogue.shifted(total, made["constants"], at, operand))
            places = [v * lanes for v in range(plan.vectors)]
            at = epilogue.out.at(0, 0) + channel
            epilogue.store(made["out"], first + row, at, places, results)

    def _multiply(self, sums: Any, first: Any, block: Any, pair: Any, count: int) -> None:
        """Add the products of ``count`` quads from the first of a pair on."""
        isa, most = self.plan.isa, self.plan.most
        start = self.plan.source.origin + pair * (2 * QUAD)
        inputs = [
            [
                T.bind(isa.spread_quad(self.made["x"], first + row, start + half * QUAD))
                for half in range(count)
            ]
            for row in range(self.count)
        ]
        for v in range(self.plan.vectors):
            for half, weights in enumerate(self._weights(block, pair, v)[:count]):
                weights = T.bind(weights)
                for row in range(self.count):
                    before = self._get(sums, half, row, v)
                    added = isa.dot(before, inputs[row][half], weights, most)
                    self._put(sums, half, row, v, added)

    def _weights(self, block: Any, pair: Any, vector: int) -> list[Any]:
        """The int8 weights of a pair of quads and a vector of outputs."""
        packed, isa = self.made["weights"], self.plan.isa
        if self.plan.coded:
            codes = packed.vload([block, pair, vector, 0], dtype=isa.vector_of("uint8"))
            return list(isa.decode(codes))
        kind = isa.vector_of("int8")
        return [packed.vload([block, pair * 2 + half, vector, 0], dtype=kind) for half in (0, 1)]

    def _at(self, half: int, row: int, vector: int) -> int:
        return ((half * self.count + row) * self.plan.vectors + vector) * self.plan.isa.lanes

    def _get(self, sums: Any, *where: int) -> Any:
        return sums.vload([self._at(*where)], dtype=self.plan.isa.vector_of("int32"))

    def _put(self, sums: Any, half: int, row: int, vector: int, value: Any) -> None:
        T.buffer_store(sums, value, [T.ramp(self._at(half, row, vector), 1, self.plan.isa.lanes)])


def dense(plan: ConvPlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants[, residual], out), as those of ``conv``."""
    n = batch_size(batch)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, plan.packed_type),
        **epilogue.tensors(n),
    }
    spread = build.parallel if plan.parameters.parallel else build.serial
    rows = plan.rows
    with kernel("shiftadd_dense", tensors, plan.isa.computed_by) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        with spread(plan.panels) as block:
            if rows > 1 and (not isinstance(batch, int) or batch >= rows):
                with build.serial(n // rows) as group:
                    _Rows(plan, epilogue, made, rows).compute(group * rows, block)
            with build.serial(n % rows if rows > 1 else n) as row:
                first = n // rows * rows if rows > 1 else 0
                _Rows(plan, epilogue, made, 1).compute(first + row, block)
    return made.function
