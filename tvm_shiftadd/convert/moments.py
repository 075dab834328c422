"""Second-order statistics of a layer's input windows, from a sample of output positions.

All is in units of the integer input: real input = 2^-a * integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Node

#: Windows sampled: so many for each weight of a channel, at least and at most.
WINDOWS_PER_WEIGHT = 24
LEAST_WINDOWS = 8192
LARGEST_SAMPLE = 1 << 25

#: Weights of one output channel beyond which the covariance would take too much time and memory.
MAX_REDUCTION = 4608

#: Part of the mean variance added to each input's own, so that nothing rests on inputs that
#: hardly vary. It grows where there are few windows for the number of weights.
DAMPING = 0.1


@dataclass(frozen=True)
class Moments:
    """hessian: damped covariance of a group's inputs, float64 ``[G, n, n]``; ideal: the float
    weights ``[G, n, O]`` that best give the target from the inputs the layer really gets.
    """

    hessian: NDArray[np.float64]
    ideal: NDArray[np.float64]


def measure(
    node: Node,
    x: NDArray[np.int8],
    exponent: int,
    target: NDArray[np.float32],
    weight: NDArray[np.float64],
) -> Moments:
    """Moments of a conv2d or dense layer.

    x: the layer's integer input, all images; exponent: its a; target: what the layer should give,
    float32 ``[..., O]``; weight: the float weight, ``[G, n, O]``. The mean is left to the bias.
    """
    groups, reduction, made = weight.shape
    inputs, wanted = _sample(node, x, target, groups * reduction)
    columns = inputs.reshape(len(inputs), -1, groups, x.shape[-1] // groups)
    windows = columns.transpose(2, 0, 1, 3).reshape(groups, len(inputs), reduction)
    windows = windows.astype(np.float32)
    windows -= windows.mean(axis=1, keepdims=True)
    results = np.ldexp(wanted.reshape(len(wanted), groups, made).transpose(1, 0, 2), exponent)
    results = results - results.mean(axis=1, keepdims=True)
    turned = windows.transpose(0, 2, 1)
    hessian = (turned @ windows).astype(np.float64) / len(inputs)
    cross = (turned @ results).astype(np.float64) / len(inputs)
    mean = np.einsum("gnn->g", hessian) / reduction
    damping = (DAMPING + reduction / len(inputs)) * np.maximum(mean, 1e-6)
    hessian[:, np.arange(reduction), np.arange(reduction)] += damping[:, None]
    # Ridge regression towards the given weight: without a sample it stays where it is.
    gradient = cross - hessian @ weight + damping[:, None, None] * weight
    return Moments(hessian, weight + np.linalg.solve(hessian, gradient))


def _sample(
    node: Node, x: NDArray[np.int8], target: NDArray[np.float32], columns: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Input windows int8 ``[m, kh * kw, I]`` and the target ``[m, O]`` at the same positions."""
    flat = target.reshape(-1, target.shape[-1])
    groups = int(node.attrs.get("groups", 1))
    count = max(LEAST_WINDOWS, WINDOWS_PER_WEIGHT * columns // groups)
    count = min(count, max(LARGEST_SAMPLE // columns, 1), len(flat))
    places = np.arange(len(flat))
    if count < len(flat):
        # Seeded, so that converting twice gives the same integers.
        places = np.sort(np.random.default_rng(0).choice(len(flat), count, replace=False))
    if node.op == "dense":
        return x.reshape(len(flat), 1, -1)[places], flat[places]
    views = _windows(node, x)
    image, row, column = np.unravel_index(places, target.shape[:3])
    windows = views[image, row, column].transpose(0, 2, 3, 1)
    return windows.reshape(len(places), -1, x.shape[-1]), flat[places]


def _windows(node: Node, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """A view ``[N, OH, OW, I, kh, kw]`` of a convolution's input windows."""
    assert node.weight is not None
    top, left, bottom, right = node.attrs["padding"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (down, across), (step_y, step_x) = node.attrs["dilation"], node.attrs["strides"]
    reach = (down * (node.weight.shape[0] - 1) + 1, across * (node.weight.shape[1] - 1) + 1)
    every = sliding_window_view(padded, reach, axis=(1, 2))
    return every[:, ::step_y, ::step_x, :, ::down, ::across]
