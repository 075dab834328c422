"""The depthwise kernel: four rows of a window's column a dot product, in registers of channels.

A dot product adds four neighbouring bytes, but the taps of a channel lie in different pixels. Two
rounds of interleaving turn four registers of channels into four of a quarter of them by four
rows; every output pixel whose window has that column then uses them. They interleave within
parts of a register, so the sums come in an order of their own, for which weights and constants
are prepared; narrowing the results to bytes puts them right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import int32
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size, kernel
from tvm_shiftadd.topi.schedules.shapes import ConvShape
from tvm_shiftadd.topi.terms import code_or_sum

from .convert import fill_border
from .epilogue import Epilogue
from .instructions import ANY, ONE_TERM, PART, QUAD, InstructionSet, shuffled
from .parameters import DepthwiseParameters
from .stored import Stored

#: Groups of pixels computed together at most: four vectors of sums each.
_GROUPS = 4
#: Multiply-accumulates below which starting threads costs more than they bring.
_SERIAL = 400_000


@dataclass(frozen=True)
class DepthwisePlan:
    """A depthwise convolution of a stored map into one of the same channels."""

    shape: ConvShape
    source: Stored
    isa: InstructionSet
    parameters: DepthwiseParameters

    @property
    def together(self) -> int:
        """Neighbouring pixels that share a vector where one has few channels."""
        if self.shape.strides[1] > 1:
            return 1
        count, rest = divmod(self.isa.vector, self.source.pitch)
        return count if not rest and 1 < count <= self.shape.out_width else 1

    @property
    def stacks(self) -> int:
        """Groups of four rows of a window; the last one is filled up."""
        return -(-self.shape.kernel[0] // QUAD)

    @property
    def columns(self) -> int:
        """Columns of quads of a window."""
        return self.stacks * self.shape.kernel[1]

    @property
    def blocks(self) -> int:
        """Registers of channels; the last one steps back, or reaches past a narrow pixel."""
        return -(-self.source.pitch // self.isa.vector)

    def first_channel(self, block: Any) -> Any:
        """Where a block begins."""
        return tirx.min(block * self.isa.vector, max(0, self.source.pitch - self.isa.vector))

    @property
    def width(self) -> int:
        """Bytes of a vector that are stored."""
        return min(self.isa.vector, self.source.pitch * self.together)

    @property
    def coded(self) -> bool:
        """Whether weights are kept as codes: the sum of two terms or more takes less as int8."""
        return self.shape.terms == 1

    @property
    def most(self) -> int:
        """The largest magnitude of a weight."""
        return ONE_TERM if self.coded else ANY

    @property
    def most_groups(self) -> int:
        """Groups of pixels whose sums have registers, beside two stages of interleaving."""
        return (self.isa.registers - 8) // QUAD

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: vectors of int8, or of bytes with two codes each."""
        return (self.blocks, self.columns * (2 if self.coded else 4), self.isa.vector)

    @property
    def packed_type(self) -> str:
        """Element type of the packed weights."""
        return "uint8" if self.coded else "int8"

    def channel(self, block: Any, position: Any) -> Any:
        """The channel whose constants are at a position of a block."""
        lanes = self.isa.lanes
        vector, part = tirx.indexdiv(position, lanes), tirx.indexdiv(position % lanes, QUAD)
        byte = part * PART + vector * QUAD + position % QUAD
        if self.together > 1:
            return tirx.indexmod(byte, self.source.pitch)
        return self.first_channel(block) + byte


def depthwise_plan(
    shape: ConvShape,
    source: Stored,
    isa: InstructionSet,
    parameters: DepthwiseParameters | None = None,
) -> DepthwisePlan:
    """The plan of a layer; without parameters by rule."""
    plan = DepthwisePlan(shape, source, isa, parameters or DepthwiseParameters())
    if parameters is not None:
        return plan
    groups = min(_GROUPS, plan.most_groups, shape.out_width // plan.together)
    return parted_by_rule(replace(plan, parameters=DepthwiseParameters(groups)))


def parted_by_rule(plan: DepthwisePlan) -> DepthwisePlan:
    """The plan with as many parts for threads as the rule has it."""
    shape = plan.shape
    work = shape.out_height * shape.out_width * shape.channels * shape.reduction
    parts = 2 if work >= _SERIAL and shape.out_height >= 4 else 1
    return replace(plan, parameters=replace(plan.parameters, parts=parts))


def pack_depthwise(codes: Any, plan: DepthwisePlan) -> Any:
    """uint8 codes ``[K, ceil(R/2), C]`` as weights in the order of ``plan.packed_shape``."""
    (height, width), channels = plan.shape.kernel, plan.shape.channels

    def weight(block: Any, vector: Any, byte: Any) -> Any:
        position = tirx.indexmod(vector, QUAD) * plan.isa.lanes + tirx.indexdiv(byte, QUAD)
        channel = plan.channel(block, position)
        column = tirx.indexdiv(vector, QUAD)
        ky = tirx.indexdiv(column, width) * QUAD + tirx.indexmod(byte, QUAD)
        row = ky * width + tirx.indexmod(column, width)
        inside = tirx.all(ky < height, channel < channels)
        return tirx.if_then_else(inside, code_or_sum(codes, row, channel), int32(0))

    def body(block: Any, index: Any, byte: Any) -> Any:
        if not plan.coded:
            return weight(block, index, byte).astype("int8")
        low, high = (weight(block, index * 2 + half, byte) for half in (0, 1))
        return (low | (high << int32(4))).astype("uint8")

    return te.compute(plan.packed_shape, body, name="packed")


def order_constants(constants: Any, plan: DepthwisePlan) -> Any:
    """The matrix of constants in the order of the sums: ``[rows, blocks * vector]``."""
    vector = plan.isa.vector
    rows, columns = (int(size) for size in constants.shape)

    def body(row: Any, at: Any) -> Any:
        channel = plan.channel(tirx.indexdiv(at, vector), tirx.indexmod(at, vector))
        return tirx.if_then_else(channel < columns, constants[row, channel], int32(0))

    return te.compute((rows, plan.blocks * vector), body, name="ordered")


def depthwise(plan: DepthwisePlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants, out) between stored maps."""
    shape, parts, groups = plan.shape, plan.parameters.parts, plan.parameters.groups
    n = batch_size(batch)
    span = groups * plan.together
    share, runs = -(-shape.out_height // parts), -(-shape.out_width // span)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, plan.packed_type),
        **epilogue.tensors(n),
    }
    tensors["constants"] = ((len(epilogue.rows), plan.blocks * plan.isa.vector), "int32")
    spread = build.parallel if parts > 1 else build.serial
    with kernel("shiftadd_depthwise", tensors, plan.isa.computed_by) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        with spread(parts) as part:
            task = _Task(plan, epilogue, made)
            with build.grid(n, share, plan.blocks, runs) as (image, row, block, run):
                y = T.bind(T.min(part * share + row, shape.out_height - 1))
                # The last run steps back, and computes some values again.
                x = T.bind(T.min(run * span, shape.out_width - span))
                task.pixels(image, y, x, block)
    return made.function


class _Task:
    """Code for a few groups of neighbouring pixels and a register of channels."""

    def __init__(self, plan: DepthwisePlan, epilogue: Epilogue, made: Kernel) -> None:
        self.plan, self.epilogue, self.made, self.isa = plan, epilogue, made, plan.isa
        self.groups = plan.parameters.groups
        self.panel = None
        if plan.coded:
            vector, kind = self.isa.vector, self.isa.vector_of("uint8")
            size = plan.columns * QUAD * vector
            self.panel = T.alloc_buffer((plan.blocks, size), "int8")
            with build.grid(plan.blocks, plan.columns * 2) as (block, index):
                codes = T.bind(made["weights"].vload([block, index, 0], dtype=kind))
                for half, decoded in enumerate(self.isa.decode(codes)):
                    at = (index * 2 + half) * vector
                    T.buffer_store(self.panel, decoded, [block, T.ramp(at, 1, vector)])

    def _weights(self, block: Any, column: int, vector: int) -> Any:
        index, kind = column * QUAD + vector, self.isa.vector_of("int8")
        if self.panel is None:
            return self.made["weights"].vload([block, index, 0], dtype=kind)
        return self.panel.vload([block, index * self.isa.vector], dtype=kind)

    def pixels(self, image: Any, y: Any, x: Any, block: Any) -> None:
        """``groups`` groups of output pixels from (y, x) on."""
        plan, epilogue, constants = self.plan, self.epilogue, self.made["constants"]
        first, lanes = plan.first_channel(block), self.isa.lanes
        start = T.bind(block * self.isa.vector)
        bias = [
            T.bind(epilogue.constant(constants, "bias", start + r * lanes)) for r in range(QUAD)
        ]
        sums = [list(bias) for _ in range(self.groups)]
        for stack in range(plan.stacks):
            self._add_stack(sums, image, y, x, first, block, stack)
        out = epilogue.out
        for group in range(self.groups):
            wide = [
                epilogue.shifted(sums[group][r], constants, start + r * lanes) for r in range(QUAD)
            ]
            narrow = self.isa.narrow(wide, epilogue.narrow_type[0], natural=False)
            result = epilogue.limited(narrow)
            at = out.at(y, x + group * plan.together) + first
            _store(self.made["out"], image, at, result, plan.width)

    def _add_stack(
        self, sums: Any, image: Any, y: Any, x: Any, channel: Any, block: Any, stack: int
    ) -> None:
        """Add the products of up to four rows of the windows."""
        plan, shape, source = self.plan, self.plan.shape, self.plan.source
        top, left = shape.origin
        kind = self.isa.vector_of("uint8")
        rows = range(stack * QUAD, min((stack + 1) * QUAD, shape.kernel[0]))
        start = source.at(y * shape.strides[0] - top, x * shape.strides[1] - left) + channel
        start = T.bind(start)
        step = shape.strides[1] * plan.together
        for column, users in _users(self.groups, shape.kernel[1], step, shape.dilation[1]):
            vectors = []
            for ky in rows:
                at = start + (ky * shape.dilation[0] * source.row + column * source.pitch)
                vectors.append(T.bind(self.made["x"].vload([image, at], dtype=kind)))
            # Missing rows have zero weights: any will do.
            vectors += vectors[:1] * (QUAD - len(vectors))
            for r, quads in enumerate(self.isa.interleave(vectors)):
                for group, kx in users:
                    weights = self._weights(block, stack * shape.kernel[1] + kx, r)
                    total = self.isa.dot(sums[group][r], quads, weights, plan.most)
                    sums[group][r] = T.bind(total)


def _users(
    groups: int, width: int, step: int, dilation: int
) -> list[tuple[int, list[tuple[int, int]]]]:
    """Columns of the input with the (group, kernel column) pairs that read them."""
    found: dict[int, list[tuple[int, int]]] = {}
    for group in range(groups):
        for kx in range(width):
            found.setdefault(group * step + kx * dilation, []).append((group, kx))
    return sorted(found.items())


def _store(out: Any, image: Any, at: Any, value: Any, width: int) -> None:
    """Write the first ``width`` of a register's bytes, a multiple of sixteen."""
    value, start = T.bind(value), 0
    size = int(value.ty.dtype.lanes)
    for piece in (64, 32, 16):
        if width & piece:
            part = value if piece == size else shuffled([value], range(start, start + piece))
            T.buffer_store(out, part, [image, T.ramp(at + start, 1, piece)])
            start += piece
