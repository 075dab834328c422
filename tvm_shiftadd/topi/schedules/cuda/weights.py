"""Weights in the order of the CUDA kernels; made once, when a network is loaded."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import int32
from tvm_shiftadd.topi.schedules.shapes import round_up
from tvm_shiftadd.topi.terms import code_or_sum, shift_term

from .intrinsics import QUAD, WARP
from .problem import CHUNK, SLAB, Problem


def pack_words(weights: Any, problem: Problem) -> Any:
    """int32 ``[groups, words, padded outputs]``: four weights of a tap's channels a word.

    ``weights`` are packed codes ``[K, ceil(R/2), O]``, or an adder layer's int8 ``[R, O]``, whose
    bytes get their top bits turned. Codes of one term take half the words: of a pair of words'
    codes, those of the first are in the low half.
    """

    def word(group: Any, index: Any, output: Any) -> Any:
        return _joined(
            [_byte(weights, problem, group, index, output, byte) for byte in range(QUAD)]
        )

    def codes(group: Any, pair: Any, output: Any) -> Any:
        total = int32(0)
        for place in range(2 * QUAD):
            half, byte = divmod(place, QUAD)
            code = _value(weights, problem, group, pair * 2 + half, output, byte)
            total = total | (code << int32(4 * place))
        return total

    shape = packed_shape(problem)
    return te.compute(shape, codes if problem.coded else word, name="packed")


def packed_shape(problem: Problem) -> tuple[int, int, int]:
    """The shape of ``pack_words``' result."""
    words = -(-problem.words // 2) if problem.coded else problem.words
    return (problem.shape.groups, words, problem.padded_outputs)


def _byte(weights: Any, problem: Problem, group: Any, index: Any, output: Any, byte: int) -> Any:
    value = _value(weights, problem, group, index, output, byte)
    return value ^ int32(-128) if problem.kind == "adder" else value


def _joined(values: list[Any]) -> Any:
    """Four int8 values, each an int32, as the bytes of an int32."""
    # The last is not made positive first: TVM folds constants, and refuses 128 << 24.
    total = values[-1] << int32(24)
    for byte, value in enumerate(values[:-1]):
        total = total | ((value & int32(255)) << int32(8 * byte))
    return total


def _value(weights: Any, problem: Problem, group: Any, index: Any, output: Any, byte: int) -> Any:
    """The code of one term, else the weight, at a byte of a word; 0 where there is none."""
    tap = tirx.indexdiv(index, problem.tap_words)
    channel = tirx.indexmod(index, problem.tap_words) * QUAD + byte
    inside = tirx.all(index < problem.words, channel < problem.channels, output < problem.outputs)
    row, column = tap * problem.channels + channel, group * problem.outputs + output
    if problem.kind == "adder":
        value = weights[row, column].astype("int32")
    else:
        value = code_or_sum(weights, row, column)
    return tirx.if_then_else(inside, value, int32(0))


def pack_fragments(codes: Any, problem: Problem) -> Any:
    """int32 ``fragments_shape``: weights as the threads of a warp hold them for tensor cores.

    The last axis is the 16 bytes that a thread loads at once: a word for each half of each of a
    slab's products, or codes in half as many words of each of two tiles. Neighbouring outputs are
    spread over the tiles of a panel, so that each thread gets sums of neighbouring outputs.
    """

    def body(group: Any, slab: Any, unit: Any, lane: Any, word: Any) -> Any:
        if not problem.coded:
            where = (group, slab, unit, lane, word)
            return _joined([_fragment(codes, problem, *where, byte) for byte in range(QUAD)])
        total = int32(0)
        tile = unit * 2 + tirx.indexdiv(word, 2)
        for place in range(2 * QUAD):
            half, byte = divmod(place, QUAD)
            part = tirx.indexmod(word, 2) * 2 + half
            code = _fragment(codes, problem, group, slab, tile, lane, part, byte)
            total = total | (code << int32(4 * place))
        return total

    return te.compute(fragments_shape(problem), body, name="packed")


def _fragment(
    codes: Any,
    problem: Problem,
    group: Any,
    slab: Any,
    tile: Any,
    lane: Any,
    part: Any,
    byte: int,
) -> Any:
    """The weight in a byte of part 0 to 3 of a slab, which are sixteen bytes of it each."""
    place = slab * SLAB + part * CHUNK + tirx.indexmod(lane, QUAD) * QUAD + byte
    tap, channel = (f(place, problem.channels) for f in (tirx.indexdiv, tirx.indexmod))
    panel, inner = (f(tile, problem.panel_tiles) for f in (tirx.indexdiv, tirx.indexmod))
    column = tirx.indexdiv(lane, QUAD)
    output = tirx.indexdiv(column, 2) * (2 * problem.panel_tiles) + inner * 2
    output = panel * problem.panel + output + tirx.indexmod(column, 2)
    taps = problem.shape.kernel[0] * problem.shape.kernel[1]
    inside = tirx.all(tap < taps, output < problem.outputs)
    row = tap * problem.channels + channel
    value = code_or_sum(codes, row, group * problem.outputs + output)
    return tirx.if_then_else(inside, value, int32(0))


def fragments_shape(problem: Problem) -> tuple[int, int, int, int, int]:
    """Groups, slabs, units of one tile of eight outputs or of codes of two, threads, words."""
    tiles = -(-problem.outputs // problem.panel) * problem.panel_tiles
    units = tiles // problem.unit_tiles
    return (problem.shape.groups, problem.slabs, units, WARP, SLAB // CHUNK)


def pack_taps(codes: Any, problem: Problem) -> Any:
    """int32 ``[quads of taps, channels]`` of a depthwise layer: four taps of a channel a word."""
    taps = problem.shape.kernel[0] * problem.shape.kernel[1]

    def body(quad: Any, channel: Any) -> Any:
        values = []
        for byte in range(QUAD):
            tap = quad * QUAD + byte
            inside = tirx.all(tap < taps, channel < problem.shape.channels)
            values.append(tirx.if_then_else(inside, _weight(codes, tap, channel), int32(0)))
        return _joined(values)

    return te.compute(taps_shape(problem), body, name="packed")


def taps_shape(problem: Problem) -> tuple[int, int]:
    """The shape of ``pack_taps``' result, with channels for whole words."""
    taps = problem.shape.kernel[0] * problem.shape.kernel[1]
    return (-(-taps // QUAD), round_up(problem.shape.channels, QUAD))


def _weight(codes: Any, row: Any, column: Any) -> Any:
    """The value of a weight of any count of terms."""
    found = code_or_sum(codes, row, column)
    return shift_term(int32(1), found) if int(codes.shape[0]) == 1 else found
