"""Second-order statistics of a layer's input windows, from a sample of output positions.

All is in units of the integer input: real input = 2^-a * integer. Sums are kept apart for a few
parts of the images, so that what was fitted to some can be judged by the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.formats.pooling import Activations

Float64 = NDArray[np.float64]

#: Windows sampled: so many for each weight of a channel, at least and at most.
WINDOWS_PER_WEIGHT = 24
LEAST_WINDOWS = 16384
LARGEST_SAMPLE = 1 << 26

#: Elements of the windows that are unfolded at a time.
CHUNK = 1 << 22

#: Weights of one output channel beyond which the covariance would take too much time and memory.
MAX_REDUCTION = 4608

#: Parts the images are split into, at most.
PARTS = 4

#: Part of the mean variance added to each input's own where nothing better is known, so that
#: nothing rests on inputs that hardly vary.
DAMPING = 0.1

#: Largest error of an eigenvalue of the sums, which are of float32 products, in parts of the mean
#: square of the inputs. Damping below it could leave a covariance that has no inverse.
ROUNDING = 2.0**-16


@dataclass(frozen=True)
class Moments:
    """hessian: damped covariance of a group's inputs, float64 ``[G, n, n]``; ideal: the float
    weights ``[G, n, O]`` that best give the target from the inputs the layer really gets.
    """

    hessian: Float64
    ideal: Float64


@dataclass(frozen=True)
class Sums:
    """Sums over windows: inputs ``[G, n]`` and results ``[G, O]``, less an offset, and products.

    ``xx`` ``[G, n, n]``, ``xt`` ``[G, n, O]``, ``tt`` ``[G, O]``; all float64.
    """

    count: int
    x: Float64
    t: Float64
    xx: Float64
    xt: Float64
    tt: Float64

    def plus(self, other: Sums) -> Sums:
        """The sums over the windows of both; both must have the same offset."""
        return Sums(
            self.count + other.count,
            self.x + other.x,
            self.t + other.t,
            self.xx + other.xx,
            self.xt + other.xt,
            self.tt + other.tt,
        )

    def rows(self, rows: slice, weight: Float64) -> Sums:
        """The sums of the weights in ``rows`` of n, the others being ``weight`` ``[G, n, O]``."""
        rest = weight.copy()
        rest[:, rows] = 0
        made = self.xx @ rest
        return Sums(
            self.count,
            self.x[:, rows],
            self.t - np.einsum("gn,gno->go", self.x, rest),
            self.xx[:, rows, rows],
            (self.xt - made)[:, rows],
            self.tt + np.einsum("gno,gno->go", rest, made - 2 * self.xt),
        )

    def moments(self, weight: Float64, damping: float) -> Moments:
        """Ridge regression of the results on the inputs, drawn towards ``weight`` ``[G, n, O]``.

        damping: of the mean variance of the inputs.
        """
        x, t = self.x / self.count, self.t / self.count
        hessian = self.xx / self.count - x[:, :, None] * x[:, None, :]
        cross = self.xt / self.count - x[:, :, None] * t[:, None, :]
        reduction = weight.shape[1]
        spread = damping * np.einsum("gnn->g", hessian) / reduction
        noise = ROUNDING * np.einsum("gnn->g", self.xx) / (reduction * self.count)
        extra = np.maximum(spread, np.maximum(noise, 1e-6))
        gradient = cross - hessian @ weight
        hessian[:, np.arange(reduction), np.arange(reduction)] += extra[:, None]
        return Moments(hessian, weight + np.linalg.solve(hessian, gradient))

    def loss(self, weight: Float64, fitted: Sums) -> float:
        """Squared error of ``weight`` ``[G, n, O]`` here, with the bias of the ``fitted`` sums."""
        bias = fitted.t / fitted.count
        bias = bias - np.einsum("gn,gno->go", fitted.x / fitted.count, weight)
        made = np.einsum("gno,gno->go", weight, self.xx @ weight - 2 * self.xt)
        residual = np.einsum("gn,gno->go", self.x, weight) - self.t
        error = made + self.tt + 2 * bias * residual + self.count * np.square(bias)
        return float(error.sum()) / self.count


def total(parts: Sequence[Sums]) -> Sums:
    """The sums over all ``parts``, at least one."""
    result = parts[0]
    for part in parts[1:]:
        result = result.plus(part)
    return result


def gather(
    node: Node,
    x: Activations,
    exponent: int,
    target: NDArray[np.float32],
    shape: tuple[int, ...],
    rows: slice | None = None,
) -> list[Sums]:
    """The sums of a weight layer in up to :data:`PARTS` parts of the images.

    x: the layer's integer input, all images; exponent: its a; target: what the layer should give,
    float32 ``[..., O]``; shape: of its weight, [G, n, O]; rows: of n that count, None for
    all. The memory taken does not depend on the number of images.
    """
    groups, reduction, made = shape
    places = _places(target, groups * reduction, groups)
    flat = target.reshape(-1, target.shape[-1])
    image = places // (len(flat) // len(x))
    parts = []
    offset = None
    for part in range(min(PARTS, len(x))):
        own = places[image % PARTS == part]
        if not len(own):
            continue
        sums = None
        for windows, chosen in _windows_at(node, x, own, target.shape, groups):
            results = np.ldexp(flat[chosen].astype(np.float64), exponent)
            if rows is not None:
                windows = windows[..., rows]
            pair = (windows, results.reshape(len(results), groups, made).transpose(1, 0, 2))
            if offset is None:
                offset = tuple(values.mean(axis=1, keepdims=True) for values in pair)
            piece = _sum(pair[0] - offset[0], pair[1] - offset[1])
            sums = piece if sums is None else sums.plus(piece)
        assert sums is not None
        parts.append(sums)
    return parts


def _sum(windows: NDArray[np.float32], results: Float64) -> Sums:
    """Sums of float32 windows ``[G, m, n]`` and float64 results ``[G, m, O]``."""
    turned = windows.transpose(0, 2, 1)
    return Sums(
        windows.shape[1],
        windows.sum(axis=1, dtype=np.float64),
        results.sum(axis=1),
        (turned @ windows).astype(np.float64),
        (turned @ results.astype(np.float32)).astype(np.float64),
        np.square(results).sum(axis=1),
    )


def _places(target: NDArray[np.float32], columns: int, groups: int) -> NDArray[np.intp]:
    """The output positions that are sampled, sorted."""
    positions = target.size // target.shape[-1]
    count = max(LEAST_WINDOWS, WINDOWS_PER_WEIGHT * columns // groups)
    count = min(count, max(LARGEST_SAMPLE // columns, 1), positions)
    if count == positions:
        return np.arange(positions)
    # Seeded, so that converting twice gives the same integers.
    return np.sort(np.random.default_rng(0).choice(positions, count, replace=False))


def _windows_at(
    node: Node,
    x: Activations,
    places: NDArray[np.intp],
    shape: tuple[int, ...],
    groups: int,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.intp]]]:
    """Input windows float32 ``[G, m, n]`` at some of the ``places``, and these, chunk by chunk."""
    depth = x.shape[-1]
    views = None if node.op == "dense" else _windows(node, x)
    taps = 1 if views is None else views.shape[-2] * views.shape[-1]
    step = max(1, CHUNK // (taps * depth))
    for start in range(0, len(places), step):
        chosen = places[start : start + step]
        if views is None:
            found = x.reshape(-1, 1, depth)[chosen]
        else:
            image, row, column = np.unravel_index(chosen, shape[:3])
            found = views[image, row, column].transpose(0, 2, 3, 1).reshape(len(chosen), taps, -1)
        columns = found.reshape(len(chosen), taps, groups, depth // groups).transpose(2, 0, 1, 3)
        yield columns.reshape(groups, len(chosen), -1).astype(np.float32), chosen


def _windows(node: Node, x: Activations) -> Activations:
    """A view ``[N, OH, OW, I, kh, kw]`` of a convolution's input windows."""
    assert node.weight is not None
    (down, across), (step_y, step_x) = node.attrs["dilation"], node.attrs["strides"]
    reach = (down * (node.weight.shape[0] - 1) + 1, across * (node.weight.shape[1] - 1) + 1)
    if node.op == "conv2d_transpose":
        spread = _spread(node, x, reach)
        every = sliding_window_view(spread, reach, axis=(1, 2))
        # Each tap meets the input as far behind the output as the tap is from the first.
        return every[..., ::down, ::across][..., ::-1, ::-1]
    top, left, bottom, right = node.attrs["padding"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    every = sliding_window_view(padded, reach, axis=(1, 2))
    return every[:, ::step_y, ::step_x, :, ::down, ::across]


def _spread(node: Node, x: Activations, reach: tuple[int, int]) -> Activations:
    """The input of a transposed convolution with zeros between its rows and columns.

    A plain convolution of stride 1 with the kernel turned round makes of it what the transposed
    one makes of ``x``. Weights that never meet in an output then have a covariance of zero.
    """
    axes = []
    padding = np.reshape(node.attrs["padding"], (2, 2)).T
    for size, stride, (before, after), more, far in zip(
        x.shape[1:3],
        node.attrs["strides"],
        padding,
        node.attrs["output_padding"],
        reach,
        strict=True,
    ):
        length = (size - 1) * stride + far - before - after + more
        places = np.arange(size) * stride + far - 1 - before
        axes.append((length + far - 1, places))
    (height, rows), (width, columns) = axes
    spread = np.zeros((x.shape[0], height, width, x.shape[3]), dtype=x.dtype)
    down, across = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inner = x[:, down][:, :, across]
    spread[:, rows[down][:, None], columns[across][None, :]] = inner
    return spread
