"""Sizes of the convolution kernel: what a tile computes, and how its weights lie in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.shapes import ConvShape, round_up

from .instructions import ANY, ONE_TERM, QUAD, InstructionSet
from .parameters import ConvParameters
from .stored import Stored

#: Bytes of weights, and of sums, that stay in the first-level cache while all tiles use them.
PANEL, ALL_SUMS = 24_576, 49_152
#: Bytes of a layer's weights from which on, and tiles up to which they are fetched ahead.
FETCHED, MOST_TILES = 65_536, 32
#: Multiply-accumulates below which starting threads costs more than they bring.
SERIAL = 1_500_000


@dataclass(frozen=True)
class ConvPlan:
    """A convolution of a stored map, and how its kernel is cut up.

    ``shape`` has ``merged`` of the layer's groups in one of its own, where a group alone would
    not fill a vector of outputs; weights between them are zero. With ``adder`` its weights are
    bytes on the scale of the input, of which distances are taken. ``images``: of the dense kernel,
    whose rows are images, as many as may be computed together; 0 for other kernels.
    """

    shape: ConvShape
    source: Stored
    isa: InstructionSet
    parameters: ConvParameters
    merged: int = 1
    adder: bool = False
    images: int = 0

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.parameters.rows

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.parameters.columns

    @property
    def vectors(self) -> int:
        """Vectors of outputs of a tile."""
        return self.parameters.vectors

    @property
    def run(self) -> int:
        """Neighbouring bytes of one window row that are read one after the other."""
        shape = self.shape
        if self._joined:
            return (shape.kernel[1] - 1) * self.source.pitch + shape.group_channels
        return shape.group_channels

    @property
    def _joined(self) -> bool:
        return self.shape.dilation[1] == 1 and self.shape.groups == 1

    @property
    def runs(self) -> int:
        """Runs of a window row."""
        return 1 if self._joined else self.shape.kernel[1]

    @property
    def run_quads(self) -> int:
        """Quads of a run; what reaches past its end has zero weights."""
        return -(-self.run // QUAD)

    @property
    def quads(self) -> int:
        """Quads of a window; an even number where two share a byte of codes."""
        quads = self.shape.kernel[0] * self.runs * self.run_quads
        return round_up(quads, 2) if self.coded else quads

    @property
    def coded(self) -> bool:
        """Whether weights are kept as codes: the sum of two terms or more takes less as int8."""
        return self.shape.terms == 1 and not self.adder

    @property
    def most(self) -> int:
        """The largest magnitude of what bytes of the input are multiplied with."""
        if self.adder:
            return 1
        return ONE_TERM if self.coded else ANY

    @property
    def zero(self) -> int:
        """What the sums take an input of zero as."""
        return self.source.zero if self.adder else self.isa.zero(self.source.zero)

    @property
    def panels(self) -> int:
        """Blocks of output channels of a group."""
        return -(-self.group_vectors // self.vectors)

    @property
    def group_vectors(self) -> int:
        """Vectors of output channels of a group."""
        return -(-(self.shape.outputs // self.shape.groups) // self.isa.lanes)

    def first_vector(self, panel: Any) -> Any:
        """Where a block begins in its group, in vectors; the last one steps back."""
        return tirx.min(panel * self.vectors, self.group_vectors - self.vectors)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: a vector of int8, or of bytes with two codes each."""
        vectors = self.quads // 2 if self.coded else self.quads
        return (self.shape.groups * self.panels, vectors, self.vectors, self.isa.vector)

    @property
    def packed_type(self) -> str:
        """Element type of the packed weights."""
        return "uint8" if self.coded or self.adder else "int8"

    @property
    def segment(self) -> int:
        """Quads of a run that are used together."""
        return self.parameters.segment or self.run_quads

    @property
    def segmented(self) -> bool:
        """Whether sums leave the registers between the segments of a panel."""
        return self.parameters.segment > 0

    @property
    def distance(self) -> int:
        """Quads from weights that are used to those that come after all tiles have used them."""
        return self.segment if self.segmented else self.quads

    @property
    def tiles(self) -> int:
        """Tiles of a part of the map."""
        rows = -(-self.shape.out_height // self.rows)
        return -(-rows // self.parameters.parts) * -(-self.shape.out_width // self.columns)

    @property
    def tasks(self) -> int:
        """What threads share: blocks of outputs, times parts of the map."""
        return self.shape.groups * self.panels * self.parameters.parts

    @property
    def work(self) -> int:
        """Multiply-accumulates of an image."""
        shape = self.shape
        return shape.out_height * shape.out_width * shape.outputs * shape.reduction


def choose_plan(
    layer: ConvShape,
    source: Stored,
    isa: InstructionSet,
    adder: bool = False,
    parameters: ConvParameters | None = None,
) -> ConvPlan:
    """The plan of a layer with given parameters, or with those that the rules give it."""
    merged = _groups_to_merge(layer, isa.lanes)
    shape = replace(layer, groups=layer.groups // merged)
    plan = ConvPlan(shape, source, isa, parameters or ConvParameters(), merged, adder)
    return plan if parameters else by_rule(plan, _best_tile(plan))


def _best_tile(plan: ConvPlan) -> tuple[int, int, int]:
    """The tile that keeps the dot products busy: the fewest wasted pixels, the fewest loads."""
    best, least = (1, 1, 1), math.inf
    for tile in tiles_of(plan):
        cost = tile_cost(plan, *tile)
        if cost < least:
            best, least = tile, cost
    return best


def tiles_of(plan: ConvPlan) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and vectors of all tiles whose sums fit the registers."""
    shape = plan.shape
    for vectors in range(1, min(4, plan.group_vectors) + 1):
        for rows in range(1, min(4, shape.out_height) + 1):
            for columns in range(1, min(28, shape.out_width) + 1):
                if rows * columns * vectors <= plan.isa.room(vectors, plan.most):
                    yield rows, columns, vectors


def by_rule(plan: ConvPlan, tile: tuple[int, int, int]) -> ConvPlan:
    """The plan with a tile, and with everything else as the rules have it for that tile."""
    rows, columns, vectors = tile
    plan = shared_by_rule(replace(plan, parameters=ConvParameters(rows, columns, vectors)))
    plan = _with(plan, segment=_segment(plan))
    return _with(plan, fetch=_fetches(plan), unroll=_unroll(plan))


def shared_by_rule(plan: ConvPlan) -> ConvPlan:
    """The plan with its work given to threads as the rules have it for its tile."""
    plan = _with(plan, parts=_parts(plan))
    return _with(plan, parallel=plan.work >= SERIAL and plan.tasks > 1)


def _with(plan: ConvPlan, **changes: Any) -> ConvPlan:
    return replace(plan, parameters=replace(plan.parameters, **changes))


def _parts(plan: ConvPlan) -> int:
    """Parts that a map's rows are cut in, so that two threads have equal work."""
    count = plan.shape.groups * plan.panels
    if count % 2 == 0 or count > 8 or plan.shape.out_height < 2 * plan.rows:
        return 1
    return 2


def _segment(plan: ConvPlan) -> int:
    """A part of a run that the first-level cache holds, where it does not hold the whole panel.

    0 where it does, or holds no part. Sums of all tiles should stay in a cache too: where they
    are many, a run stays whole.
    """
    quad = plan.vectors * plan.isa.vector
    if plan.shape.kernel[0] * plan.runs * plan.run_quads * quad <= PANEL:
        return 0
    whole = sums_size(plan) > ALL_SUMS
    sizes = [plan.run_quads] if whole else [*segments_of(plan), plan.run_quads]
    return max((size for size in sizes if size * quad <= PANEL), default=0)


def sums_size(plan: ConvPlan) -> int:
    """Bytes of the sums of all tiles, which leave the registers between segments."""
    return plan.tiles * plan.rows * plan.columns * plan.vectors * plan.isa.vector


def segments_of(plan: ConvPlan) -> list[int]:
    """Quads that a run may be cut into: equal parts, of an even number where two share codes."""
    step = 2 if plan.coded else 1
    return [q for q in range(step, plan.run_quads + 1, step) if plan.run_quads % q == 0]


def _fetches(plan: ConvPlan) -> bool:
    """Whether weights are fetched ahead: there are many, and few tiles to use them."""
    size = plan.panels * plan.quads * plan.vectors * plan.isa.vector
    return not plan.coded and size > FETCHED and plan.tiles <= MOST_TILES


def _unroll(plan: ConvPlan) -> int:
    """Quads of one turn of the innermost loop.

    Neighbouring pixels must not read the same ones in it: the compiler would keep them in
    registers that the sums need. A loop of two turns it makes one of.
    """
    apart = max(1, plan.shape.strides[1] * plan.source.pitch // QUAD)
    most = min(8, max(1, plan.isa.unrolled // (plan.rows * plan.columns * plan.vectors)))
    fits = [u for u in range(1, most + 1) if plan.segment % u == 0]
    if plan.columns == 1:
        return max(fits)
    together = {u: plan.segment if plan.segment == 2 * u else u for u in fits}
    return max((u for u in fits if together[u] <= apart), default=1)


def _groups_to_merge(layer: ConvShape, lanes: int) -> int:
    """The fewest groups whose outputs are whole vectors, or all."""
    outputs = layer.outputs // layer.groups
    whole = [
        count
        for count in range(1, layer.groups + 1)
        if layer.groups % count == 0 and outputs * count % lanes == 0
    ]
    return whole[0] if whole and layer.groups > 1 else layer.groups


def tile_cost(plan: ConvPlan, rows: int, columns: int, vectors: int) -> float:
    """Cycles an image takes, up to a constant, for a quad of the reduction."""
    shape = plan.shape
    tiles = -(-shape.out_height // rows) * -(-shape.out_width // columns)
    cycles = plan.isa.cost(rows * columns, vectors, plan.most)
    cycles *= 1 + 0.02 * (rows - 1)
    return tiles * -(-plan.group_vectors // vectors) * (cycles + 0.3)


def reach_of(shape: ConvShape) -> tuple[int, int]:
    """Rows above and below the map that windows reach."""
    last = (shape.out_height - 1) * shape.strides[0] + (shape.kernel[0] - 1) * shape.dilation[0]
    return shape.origin[0], max(0, last - shape.origin[0] + 1 - shape.height)
