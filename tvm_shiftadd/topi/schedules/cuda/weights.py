"""Weights in the order of the CUDA kernels; made once, when a network is loaded."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import int32
from tvm_shiftadd.topi.schedules.cpu.dot.weights import code_or_sum

from .intrinsics import QUAD
from .problem import Problem


def pack_words(weights: Any, problem: Problem) -> Any:
    """int32 ``[groups, words, padded outputs]``: four weights of a tap's channels a word.

    ``weights`` are packed codes ``[K, ceil(R/2), O]``, or an adder layer's int8 ``[R, O]``, whose
    bytes get their top bits turned. Codes of one term take half the words: of a pair of words'
    codes, those of the first are in the low half.
    """

    def word(group: Any, index: Any, output: Any) -> Any:
        total = int32(0)
        for byte in range(QUAD):
            total = total | (_byte(weights, problem, group, index, output, byte) << int32(8 * byte))
        return total

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
    value = _value(weights, problem, group, index, output, byte) & int32(255)
    return value ^ int32(128) if problem.kind == "adder" else value


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
