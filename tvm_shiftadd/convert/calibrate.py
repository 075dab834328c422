"""Activation scales: one streaming pass over the calibration data, one exponent a group.

What is kept of a tensor is its largest magnitude and a sample of bounded size, so memory does not
grow with the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.execute import run_float
from tvm_shiftadd.convert.feeds import Batches, Progress, checked, silent
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.storage import Storage
from tvm_shiftadd.errors import DataError, ModelError
from tvm_shiftadd.formats.ranges import activation_range

#: Values kept of one tensor, at most.
SAMPLE_SIZE = 1 << 17

#: Values drawn from one batch, at most.
DRAW_SIZE = 1 << 14

#: Steps below the scale that covers the maximum: each halves it and saturates more.
FINER_STEPS = (0, 1, 2, 3)

#: A tensor of zeros only needs some exponent; this one keeps every later shift small.
EXPONENT_OF_ZERO = 7

#: Beyond these no float32 network has a use for a scale.
EXPONENT_LIMITS = (-64, 64)


class TensorStatistics:
    """Largest magnitude and a deterministic uniform sample of one tensor over all batches."""

    def __init__(self, seed: int) -> None:
        """``seed`` fixes the sample; give tensors different ones."""
        self.maximum = 0.0
        self._random = np.random.default_rng(seed)
        self._rate = 1.0
        self._chunks: list[NDArray[np.float32]] = []
        self._kept = 0

    def update(self, values: NDArray[np.float32]) -> None:
        """Account for one batch of ``values``, of any shape."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        self.maximum = max(self.maximum, float(flat.max()), -float(flat.min()))
        count = max(1, int(min(flat.size, DRAW_SIZE) * self._rate))
        # Random places, not every n-th value: a step that divides the channels would see few.
        self._chunks.append(flat[self._random.integers(0, flat.size, count)])
        self._kept += count
        if self._kept > SAMPLE_SIZE:
            self._chunks = [self.sample()[::2]]
            self._kept = self._chunks[0].size
            self._rate /= 2

    def sample(self) -> NDArray[np.float32]:
        """The values kept, float32 [n], n <= SAMPLE_SIZE."""
        return np.concatenate(self._chunks) if self._chunks else np.zeros(1, np.float32)


def calibrate(
    graph: Graph,
    storage: Storage,
    batches: Batches,
    limit: int | None = None,
    progress: Progress = silent,
) -> dict[str, int]:
    """The exponent of every stored tensor.

    Raises DataError for unusable calibration data and ModelError where the float network itself
    makes NaN or infinity of it.
    """
    watched = sorted({name for names in storage.measured for name in names})
    statistics = {name: TensorStatistics(seed) for seed, name in enumerate(watched)}
    seen, empty = 0, set(graph.inputs)
    for feeds in checked(graph, batches, limit):
        empty -= {name for name in empty if feeds[name].any()}
        for name, values in run_float(graph, feeds, keep=watched).items():
            if name in statistics:
                statistics[name].update(values)
        seen += len(next(iter(feeds.values())))
        progress("calibrate", seen, limit or 0)
    if empty:
        raise DataError(
            "expected calibration data like what the network will see, got nothing but zeros for "
            f"{', '.join(sorted(empty))}; check the data and its preprocessing"
        )
    exponents = {}
    for group, measured in zip(storage.groups, storage.measured, strict=True):
        kept = {name: statistics[name] for name in measured}
        exponent = _group_exponent(kept, storage.dtype(group[0]))
        exponents.update(dict.fromkeys(group, exponent))
    return exponents


def choose_exponent(maximum: float, sample: NDArray[np.float32], dtype: str = "int8") -> int:
    """a of the scale 2^-a with the least squared error on ``sample``, stored as ``dtype``.

    Candidates: the finest scale that covers ``maximum``, and up to three steps finer.
    """
    if maximum == 0:
        return EXPONENT_OF_ZERO
    covering = math.floor(math.log2(activation_range(dtype)[1] / maximum))
    low, high = EXPONENT_LIMITS
    candidates = [min(max(covering + step, low), high) for step in FINER_STEPS]
    errors = [_squared_error(sample, exponent, dtype) for exponent in candidates]
    return candidates[int(np.argmin(errors))]


def _squared_error(sample: NDArray[np.float32], exponent: int, dtype: str) -> float:
    scaled = np.ldexp(sample.astype(np.float64), exponent)
    kept = np.clip(np.rint(scaled), *activation_range(dtype))
    difference = np.ldexp(kept - scaled, -exponent)
    return float(np.square(difference).mean())


def _group_exponent(statistics: Mapping[str, TensorStatistics], dtype: str) -> int:
    for name, one in statistics.items():
        if not math.isfinite(one.maximum):
            raise ModelError(
                f"tensor '{name}' is not finite on the calibration data; check the model and "
                "its preprocessing"
            )
    samples: Sequence[NDArray[np.float32]] = [one.sample() for one in statistics.values()]
    maximum = max(one.maximum for one in statistics.values())
    return choose_exponent(maximum, np.concatenate(samples), dtype)
