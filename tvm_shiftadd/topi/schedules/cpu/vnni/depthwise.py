"""The depthwise kernel: four taps of a window a dot product, 64 channels at a time.

``vpdpbusd`` adds four neighbouring bytes, but the taps of a channel lie in different pixels. Two
rounds of interleaving turn four vectors of 64 channels into four of sixteen channels by four
taps. They interleave within quarters of a register, so the sums come in an order of their own,
for which weights and constants are prepared; narrowing the results to bytes puts them right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import int32
from tvm_shiftadd.topi.schedules.cpu.geometry import ConvShape
from tvm_shiftadd.topi.terms import unpack_code

from .convert import fill_border
from .epilogue import Epilogue
from .function import batch_size, kernel
from .instructions import LANES, QUAD, VECTOR, decode_terms, dot, interleave, narrow
from .stored import Stored

#: Pixels computed together.
_PIXELS = 4
#: Multiply-accumulates below which starting threads costs more than they bring.
_SERIAL = 400_000


@dataclass(frozen=True)
class DepthwisePlan:
    """A depthwise convolution of a stored map into one of the same channels."""

    shape: ConvShape
    source: Stored

    @property
    def taps(self) -> list[tuple[int, int]]:
        """The taps of a window, row by row."""
        height, width = self.shape.kernel
        return [(y, x) for y in range(height) for x in range(width)]

    @property
    def quads(self) -> int:
        """Groups of four taps; the last one is filled up."""
        return -(-len(self.taps) // QUAD)

    @property
    def blocks(self) -> int:
        """Blocks of 64 channels; the last one steps back, or reaches past a narrow pixel."""
        return -(-self.source.pitch // VECTOR)

    def first_channel(self, block: Any) -> Any:
        """Where a block begins."""
        return tirx.min(block * VECTOR, max(0, self.source.pitch - VECTOR))

    @property
    def width(self) -> int:
        """Channels of a block that are stored."""
        return min(VECTOR, self.source.pitch)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: two vectors of codes share one of bytes."""
        return (self.blocks, self.quads * 2, self.shape.terms, VECTOR)

    @property
    def parts(self) -> int:
        """Parts of the map's rows that threads share."""
        work = self.shape.out_height * self.shape.out_width * self.shape.channels * len(self.taps)
        return 2 if work >= _SERIAL and self.shape.out_height >= 4 else 1

    def channel(self, position: Any) -> Any:
        """The channel whose constants are at a position of a block's 64."""
        vector, quarter = tirx.indexdiv(position, LANES), tirx.indexdiv(position % LANES, QUAD)
        return quarter * LANES + vector * QUAD + position % QUAD


def pack_depthwise(codes: Any, plan: DepthwisePlan) -> Any:
    """uint8 codes ``[K, ceil(R/2), C]`` in the order of ``plan.packed_shape``."""
    reduction, channels = len(plan.taps), plan.shape.channels

    def code(block: Any, vector: Any, term: Any, byte: Any) -> Any:
        position = tirx.indexmod(vector, QUAD) * LANES + tirx.indexdiv(byte, QUAD)
        channel = plan.first_channel(block) + plan.channel(position)
        row = tirx.indexdiv(vector, QUAD) * QUAD + tirx.indexmod(byte, QUAD)
        inside = tirx.all(row < reduction, channel < channels)
        return tirx.if_then_else(inside, unpack_code(codes, term, row, channel), int32(0))

    def body(block: Any, pair: Any, term: Any, byte: Any) -> Any:
        low, high = (code(block, pair * 2 + half, term, byte) for half in (0, 1))
        return (low | (high << int32(4))).astype("uint8")

    return te.compute(plan.packed_shape, body, name="packed")


def order_constants(constants: Any, plan: DepthwisePlan) -> Any:
    """The matrix of constants in the order of the sums: ``[rows, 64 * blocks]``."""
    rows, columns = (int(size) for size in constants.shape)

    def body(row: Any, at: Any) -> Any:
        block, position = tirx.indexdiv(at, VECTOR), tirx.indexmod(at, VECTOR)
        channel = plan.first_channel(block) + plan.channel(position)
        return tirx.if_then_else(channel < columns, constants[row, channel], int32(0))

    return te.compute((rows, plan.blocks * VECTOR), body, name="ordered")


def depthwise(plan: DepthwisePlan, epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights, constants, out) between stored maps."""
    shape, parts = plan.shape, plan.parts
    n = batch_size(batch)
    pixels = min(_PIXELS, shape.out_width)
    share, columns = -(-shape.out_height // parts), -(-shape.out_width // pixels)
    tensors = {
        "x": ((n, plan.source.size), "uint8"),
        "weights": (plan.packed_shape, "uint8"),
        **epilogue.tensors(n),
    }
    tensors["constants"] = ((len(epilogue.rows), plan.blocks * VECTOR), "int32")
    spread = build.parallel if parts > 1 else build.serial
    with kernel("shiftadd_depthwise", tensors) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        with spread(parts) as part:
            panel = T.alloc_buffer((plan.blocks * plan.quads * QUAD * VECTOR,), "int8")
            _fill(plan, panel, made["weights"])
            with build.grid(n, share, plan.blocks, columns) as (image, row, block, run):
                y = T.bind(T.min(part * share + row, shape.out_height - 1))
                # The last run steps back, and computes some values again.
                x = T.bind(T.min(run * pixels, shape.out_width - pixels))
                for pixel in range(pixels):
                    _pixel(plan, epilogue, made, panel, (image, y, x + pixel), block)
    return made.function


def _fill(plan: DepthwisePlan, panel: Any, weights: Any) -> None:
    with build.grid(plan.blocks, plan.quads * 2) as (block, pair):
        planes = [
            T.bind(weights.vload([block, pair, term, 0], dtype="uint8x64"))
            for term in range(plan.shape.terms)
        ]
        for half, decoded in enumerate(decode_terms(planes)):
            at = ((block * (plan.quads * 2) + pair) * 2 + half) * VECTOR
            T.buffer_store(panel, decoded, [T.ramp(at, 1, VECTOR)])


def _pixel(
    plan: DepthwisePlan,
    epilogue: Epilogue,
    made: Any,
    panel: Any,
    place: Sequence[Any],
    block: Any,
) -> None:
    """64 channels of one output pixel at (image, y, x)."""
    shape, source = plan.shape, plan.source
    image, y, x = place
    channel = plan.first_channel(block)
    top, left = shape.origin
    row, column = y * shape.strides[0] - top, x * shape.strides[1] - left
    start = source.at(row, column) + channel
    constants = made["constants"]
    sums = [epilogue.constant(constants, "bias", block * VECTOR + r * LANES) for r in range(QUAD)]
    for quad in range(plan.quads):
        taps = plan.taps[quad * QUAD : (quad + 1) * QUAD]
        # A missing tap has zero weights: any pixel will do.
        taps += taps[:1] * (QUAD - len(taps))
        steps = [
            ky * shape.dilation[0] * source.row + kx * shape.dilation[1] * source.pitch
            for ky, kx in taps
        ]
        pixels = [made["x"].vload([image, start + step], dtype="uint8x64") for step in steps]
        for r, quads in enumerate(interleave(pixels)):
            at = ((block * plan.quads + quad) * QUAD + r) * VECTOR
            sums[r] = T.bind(dot(sums[r], quads, panel.vload([at], dtype="int8x64")))
    wide = [epilogue.shifted(sums[r], constants, block * VECTOR + r * LANES) for r in range(QUAD)]
    result = epilogue.limited(narrow(wide, epilogue.narrow_type[0]))
    at = epilogue.out.at(y, x) + channel
    _store(made["out"], image, at, result, plan.width)


def _store(out: Any, image: Any, at: Any, value: Any, width: int) -> None:
    """Write the first ``width`` of 64 bytes, a multiple of sixteen."""
    value, start = T.bind(value), 0
    for piece in (64, 32, 16):
        if width & piece:
            indices = [tirx.IntImm("int32", start + i) for i in range(piece)]
            part = value if piece == VECTOR else tirx.Shuffle([value], indices)
            T.buffer_store(out, part, [image, T.ramp(at + start, 1, piece)])
            start += piece
