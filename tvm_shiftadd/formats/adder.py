"""Adder layers on integers: ``acc = bias - sum |x - w|``; part of the integer reference.

Input and weight are int8 on one scale 2^-a. A weight beyond int8 differs from every input by a
constant more than the end of int8 does, so it is clipped and the constant moves to the bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import distance
from tvm_shiftadd.formats.ranges import INT8_MAX, INT8_MIN, INT32_MAX
from tvm_shiftadd.formats.windows import Padding, Pair

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

#: The largest distance of two int8 values.
MAX_DISTANCE = INT8_MAX - INT8_MIN


def fold_weight(weight: NDArray[np.signedinteger]) -> tuple[Int8, NDArray[np.int64]]:
    """Integer weights ``[..., O]`` of any size as int8 and what that adds to the bias, ``[O]``.

    For an int8 x and w > 127, |x - w| = |x - 127| + (w - 127); for w < -128 likewise. So
    ``-sum |x - w| = -sum |x - clipped| + offset`` with ``offset = -sum (|w| - |clipped|)``, for
    zero padding (x = 0) too.
    """
    clipped = np.clip(weight, INT8_MIN, INT8_MAX)
    excess = np.abs(weight.astype(np.int64) - clipped)
    return clipped.astype(np.int8), -excess.reshape(-1, weight.shape[-1]).sum(axis=0)


def adder_conv2d(
    x: Int8,
    weight: Int8,
    bias: Int32 | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
) -> Int32:
    """``bias - sum over the window of |x - w|``: int8 ``[N, H, W, I]`` and ``[kh, kw, I, O]`` to
    int32 ``[N, OH, OW, O]``.

    Zero padding, (top, left, bottom, right), is part of the windows: it adds |w|. Raises
    RangeError where an accumulator could leave int32, InputError for shapes or dtypes that do not
    fit.
    """
    _check("adder_conv2d", x, weight, bias)
    return _finish(distance.conv2d(x, weight, strides=strides, padding=padding), bias)


def adder_dense(x: Int8, weight: Int8, bias: Int32 | None = None) -> Int32:
    """``bias - sum over i of |x - w|``: int8 ``[..., I]`` and ``[I, O]`` to int32 ``[..., O]``.

    Errors as :func:`adder_conv2d`.
    """
    _check("adder_dense", x, weight, bias)
    return _finish(distance.dense(x, weight), bias)


def _check(name: str, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    if x.dtype != np.int8 or weight.dtype != np.int8:
        raise InputError(
            f"{name} needs int8 inputs and weights, not {x.dtype} and {weight.dtype}; "
            "bring both to one scale and fold the weight first"
        )
    reach = MAX_DISTANCE * (weight.size // max(weight.shape[-1], 1))
    if bias is not None:
        if bias.dtype != np.int32 or bias.shape != weight.shape[-1:]:
            raise InputError(
                f"{name} needs a bias int32 [{weight.shape[-1]}], not {bias.dtype} "
                f"{list(bias.shape)}; give one value an output channel"
            )
        reach += int(np.abs(bias.astype(np.int64)).max(initial=0))
    if reach > INT32_MAX:
        raise RangeError(
            f"{name} can reach {reach}, which must fit int32; "
            "prove the layer with formats.ranges before running it"
        )


def _finish(total: NDArray[Any], bias: Int32 | None) -> Int32:
    result: Int32 = np.negative(total, out=total)
    if bias is not None:
        result += bias
    return result
