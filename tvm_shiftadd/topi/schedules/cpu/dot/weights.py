"""Bringing a layer's parameters into the form its kernel reads; done once, when a network loads.

Codes stay codes of four bits a term: only their order changes, and channels and reductions are
padded to whole vectors with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import clamp, int32, of_channel
from tvm_shiftadd.topi.terms import shift_term, unpack_code

from .epilogue import Constants
from .instructions import QUAD
from .stored import Stored, View

if TYPE_CHECKING:
    from .plan import ConvPlan

_MAX_SHIFT = 31
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


def code_or_sum(codes: Any, row: Any, output: Any) -> Any:
    """The code of a weight of one term, or the value of a weight of several; int32."""
    terms = int(codes.shape[0])
    if terms == 1:
        return unpack_code(codes, 0, row, output)
    total = int32(0)
    for term in range(terms):
        total = total + shift_term(int32(1), unpack_code(codes, term, row, output))
    return total


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


def constants(
    epilogue: Constants, bias: Any, zero: int, weight_sums: Any, operands: dict[str, Any]
) -> Any:
    """The matrix of constants of an epilogue, int32 ``[len(epilogue.rows), outputs]``.

    ``zero`` is what the sums take an input of zero as: 0, 128 or -128. ``weight_sums``, int32
    ``[O]``, is what it is multiplied with where it is not 0. ``operands`` holds "factor"
    (uint8 codes ``[K, C]`` or ``[K, 1]``), "lhs_shift", "rhs_shift" and "shift" (int32 ``[C]`` or
    ``[1]``) as far as the epilogue has them.
    """
    outputs = epilogue.out.channels
    shift = operands.get("shift")

    def rounding(o: Any) -> Any:
        if shift is None:
            return int32(0)
        n = of_channel(shift, (o,))
        half = int32(1) << (clamp(n, 1, _MAX_SHIFT) - int32(1))
        return tirx.Select(n >= int32(1), half, int32(0))

    def value(name: str, o: Any) -> Any:
        if name == "bias":
            start = bias[o]
            if zero:
                of_zero = weight_sums[o] << int32(7)
                start = start - of_zero if zero > 0 else start + of_zero
            return start if "offset" in epilogue.rows else start + rounding(o)
        if name == "factor":
            return _factor(operands["factor"], o)
        if name == "mask":
            return _mask(epilogue, o)
        if name == "offset":
            zero_part = _zero_of_residual(epilogue, operand_shift("rhs_shift", o))
            return rounding(o) - (zero_part & _mask(epilogue, o))
        if name in ("lhs_shift", "rhs_shift"):
            return operand_shift(name, o)
        n = of_channel(shift, (o,))
        return clamp(n, 0, _MAX_SHIFT) if name == "right" else left(o)

    def left(o: Any) -> Any:
        if shift is None:
            return int32(0)
        return clamp(int32(0) - of_channel(shift, (o,)), 0, _MAX_SHIFT)

    def operand_shift(name: str, o: Any) -> Any:
        if name not in operands:
            return int32(0)
        # Two left shifts that together leave 32 bits leave nothing, as one by 31 of proved sums.
        return tirx.min(of_channel(operands[name], (o,)) + left(o), int32(_MAX_SHIFT))

    def body(row: Any, o: Any) -> Any:
        result = int32(0)
        for index, name in enumerate(epilogue.rows):
            result = tirx.if_then_else(row == index, value(name, o), result)
        return tirx.if_then_else(o < outputs, result, int32(0))

    return te.compute((len(epilogue.rows), epilogue.outputs), body, name="constants")


def _factor(codes: Any, o: Any) -> Any:
    """The sum of a factor's terms: one, shifted."""
    single = isinstance(codes.shape[1], tirx.IntImm) and int(codes.shape[1]) == 1
    total = int32(0)
    for term in range(int(codes.shape[0])):
        total = total + shift_term(int32(1), codes[term, 0 if single else o].astype("int32"))
    return total


def _mask(epilogue: Constants, o: Any) -> Any:
    """-1 for the channels that an addition's other operand has, else 0."""
    residual = epilogue.residual
    if not isinstance(residual, View):
        return int32(-1)
    own = tirx.all(o >= residual.before, o < residual.before + residual.channels)
    return tirx.Select(own, int32(-1), int32(0))


def _zero_of_residual(epilogue: Constants, shift: Any) -> Any:
    """What the flipped top bit of a stored operand adds to the sum."""
    residual = epilogue.residual
    if not isinstance(residual, Stored) or not residual.zero:
        return int32(0)
    return int32(residual.zero) << shift
