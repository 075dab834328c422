"""Layers whose reduction is too long for one covariance: rounded one block of it after another.

Within a block errors are made to cancel. What is left of them is passed on: the next block is
fitted to what the layer should give less what the blocks before it really give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.compensate import choose_damping, compensated_search, descend
from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.moments import gather, total
from tvm_shiftadd.convert.operators import run_linear
from tvm_shiftadd.convert.terms import Float64, Int32, TermLimits
from tvm_shiftadd.formats.pooling import Activations

#: Weights of one output channel in a block, at most.
BLOCK_REDUCTION = 2048


def fit_in_blocks(
    node: Node,
    x: Activations,
    input_exponent: int,
    target: NDArray[np.float32],
    weight: Float64,
    allowed: TermLimits,
    exponent: Int32,
    price: float = 0.0,
) -> Int32:
    """The integers ``[R, G * O]`` of a layer at the given exponents ``[G * O]``.

    x: the layer's integer input, a its input_exponent; target: what the layer should give, float32
    ``[..., G * O]``; weight: float64 ``[G, n, O]``; price: as for :func:`descend`.
    """
    groups, reduction, made = weight.shape
    blocks = np.array_split(np.arange(reduction), -(-reduction // BLOCK_REDUCTION))
    steps = exponent.reshape(groups, 1, made)
    current, values = weight.copy(), np.empty_like(weight)
    for block in blocks:
        rows = slice(int(block[0]), int(block[-1]) + 1)
        others = current.copy()
        others[:, rows] = 0
        own = weight[:, rows]
        rest = target - _run(node, x, input_exponent, others)
        parts = gather(node, x, input_exponent, rest, weight.shape, rows)
        limits = allowed.rows(rows)
        moments = total(parts).moments(own, choose_damping(parts, own, limits))
        found, _ = compensated_search(moments, limits)(steps.transpose(1, 0, 2).astype(np.float64))
        flat = found[0].transpose(1, 0, 2).reshape(-1, groups * made).astype(np.int32)
        better = descend(flat, exponent, moments, limits, price)
        values[:, rows] = better.reshape(-1, groups, made).transpose(1, 0, 2)
        current[:, rows] = np.ldexp(values[:, rows], -steps)
    return values.transpose(1, 0, 2).reshape(reduction, groups * made).astype(np.int32)


def _run(node: Node, x: Activations, exponent: int, weight: Float64) -> NDArray[np.float32]:
    """The layer's float result with the weights ``[G, n, O]`` and no bias."""
    assert node.weight is not None
    scaled = np.ldexp(weight, -exponent).astype(np.float32)
    flat = scaled.transpose(1, 0, 2).reshape(node.weight.shape)
    return np.asarray(run_linear(node, x, flat, None), dtype=np.float32)
