"""Biases of converted layers, corrected so that no output channel drifts, without labels.

Rounded weights shift the mean of a channel, and the shifts of successive layers add up. The bias
is free: it takes up the difference between the mean float output and the mean converted output,
layer after layer, with inputs that come from the layers converted before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Node


def float_bias(node: Node) -> NDArray[np.float64]:
    """The layer's own bias, float64 ``[O]``; zeros where it has none."""
    if node.bias is not None:
        return node.bias.astype(np.float64)
    assert node.weight is not None
    return np.zeros(node.weight.shape[-1], dtype=np.float64)


def corrected_bias(
    target: NDArray[np.float32], acc: NDArray[np.int32], exponent: NDArray[np.int32]
) -> NDArray[np.float64]:
    """The bias with which the layer's mean equals the mean of ``target`` in each channel.

    target: float32 ``[..., O]``, what the layer should give; acc: int32 ``[..., O]``, what its
    integers give without bias, at the scale 2^-exponent, int32 ``[O]``.
    """
    return channel_mean(target) - np.ldexp(channel_mean(acc), -exponent)


def channel_mean(values: NDArray[np.float32] | NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean over all axes but the last, in float64."""
    return np.asarray(values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float64))


def integer_bias(bias: NDArray[np.float64], exponent: NDArray[np.int32]) -> NDArray[np.int32]:
    """A real bias on the accumulator's scale 2^-exponent, rounded half to even, int32 ``[O]``."""
    limit = float(2**31 - 1)
    return np.clip(np.rint(np.ldexp(bias, exponent)), -limit, limit).astype(np.int32)
