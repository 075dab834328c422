"""Bringing a layer's parameters into the form its kernel reads; done once, when a network loads.

Codes stay codes of four bits a term: only their order changes, and channels and reductions are
padded to whole vectors with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import int32
from tvm_shiftadd.topi.terms import code_or_sum, shift_term, unpack_code

from .instructions import QUAD

if TYPE_CHECKING:
    from .plan import ConvPlan

#: From a row of a kernel's weights to that of a layer's, or to -1: then the weights are zero.
Rows = Callable[[Any], Any]


def pack_codes(codes: Any, plan: ConvPlan, rows: Rows | None = None) -> Any:
    """uint8 codes ``[K, ceil(R/2), O]`` as weights in the order of ``plan.packed_shape``.

    Codes of one term stay codes; of a pair of quads the first is in the low nibbles. The sum of
    two or three terms is a byte, which takes no more than its codes. ``rows`` gives the row of
    ``codes`` for one of the plan, where they differ.
    """

    def weight(*where: Any) -> Any:
        inside, row, output = _source_of(plan, *where)
        if rows is not None:
            row = rows(row)
            inside = tirx.all(inside, row >= 0)
        return tirx.if_then_else(inside, code_or_sum(codes, row, output), int32(0))

    def body(block: Any, index: Any, vector: Any, byte: Any) -> Any:
        if not plan.coded:
            return weight(block, index, vector, byte).astype("int8")
        low, high = (weight(block, index * 2 + half, vector, byte) for half in (0, 1))
        return (low | (high << int32(4))).astype("uint8")

    return te.compute(plan.packed_shape, body, name="packed")


def pack_adder(weight: Any, plan: ConvPlan) -> Any:
    """int8 weights ``[R, O]`` of an adder layer as bytes in the order of ``plan.packed_shape``.

    They have the flipped top bit of the input. Beside an input that is never negative they are
    clipped at zero; what that leaves out is constant (see ``adder_bias``).
    """

    def body(*where: Any) -> Any:
        inside, row, output = _source_of(plan, *where)
        value = weight[row, output].astype("int32")
        stored = value + int32(128) if plan.source.zero else tirx.max(value, int32(0))
        return tirx.if_then_else(inside, stored, int32(0)).astype("uint8")

    return te.compute(plan.packed_shape, body, name="packed")


def adder_bias(weight: Any, bias: Any, zero: int) -> Any:
    """The bias less all that does not depend on the input, int32 ``[O]``.

    That is the sum of the stored weights, and below an input that is never negative also of what
    was clipped, |w| where w < 0: together the sum of |w|.
    """
    r = te.reduce_axis((0, weight.shape[0]), "r")

    def part(o: Any) -> Any:
        value = weight[r, o].astype("int32")
        if zero:
            return value + int32(128)
        return tirx.max(value, int32(0) - value)

    total = te.compute(bias.shape, lambda o: te.sum(part(o), axis=[r]), name="constant_part")
    return te.compute(bias.shape, lambda o: bias[o] - total[o], name="adder_bias")


def _source_of(plan: ConvPlan, block: Any, quad: Any, vector: Any, byte: Any) -> tuple[Any, ...]:
    """What a packed byte is: whether it is a weight at all, of which row R, and which output.

    Channels of other groups that are read together with a channel's own have no weight.
    """
    shape = plan.shape
    width, pitch = shape.kernel[1], plan.source.pitch
    group_in, group_out = shape.group_channels, shape.outputs // shape.groups
    own_in, own_out = group_in // plan.merged, group_out // plan.merged
    quads = shape.kernel[0] * plan.runs * plan.run_quads
    group = tirx.indexdiv(block, plan.panels)
    panel = tirx.indexmod(block, plan.panels)
    output = (plan.first_vector(panel) + vector) * plan.isa.lanes + tirx.indexdiv(byte, QUAD)
    element = tirx.indexmod(quad, plan.run_quads) * QUAD + tirx.indexmod(byte, QUAD)
    run = tirx.indexdiv(quad, plan.run_quads)
    if plan.runs == 1:
        ky, kx, channel = run, tirx.indexdiv(element, pitch), tirx.indexmod(element, pitch)
    else:
        ky, kx, channel = tirx.indexdiv(run, width), tirx.indexmod(run, width), element
    mine = tirx.indexdiv(channel, own_in) == tirx.indexdiv(output, own_out)
    row = (ky * width + kx) * own_in + tirx.indexmod(channel, own_in)
    inside = tirx.all(quad < quads, kx < width, channel < group_in, output < group_out, mine)
    return inside, row, group * group_out + output


def sum_of_weights(codes: Any, reduction: int, rows: Rows | None = None) -> Any:
    """int32 ``[O]``: the sum of each output channel's weights.

    ``codes`` and ``rows`` as in ``pack_codes``; ``reduction`` rows are summed up.
    """
    terms, _, outputs = (int(size) for size in codes.shape)
    one = int32(1)

    def body(o: Any) -> Any:
        r, k = te.reduce_axis((0, reduction), "r"), te.reduce_axis((0, terms), "k")
        row = r if rows is None else rows(r)
        return te.sum(shift_term(one, unpack_code(codes, k, row, o)), axis=[r, k])

    return te.compute((outputs,), body, name="sum_of_weights")
