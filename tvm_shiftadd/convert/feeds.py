"""Calibration data on its way into the converter: checked, cut to size, never held as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.errors import DataError

Feeds = Mapping[str, NDArray[np.float32]]

#: Gives a fresh pass over the calibration data at every call; a batch is one array an input.
Batches = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]

#: Told (phase, done, total); total is 0 where it is not known.
Progress = Callable[[str, int, int], None]


def silent(phase: str, done: int, total: int) -> None:
    """A progress callback that reports nothing."""


def checked(graph: Graph, batches: Batches, limit: int | None = None) -> Iterator[Feeds]:
    """The batches of one pass, at most ``limit`` images of them.

    Raises DataError for a missing or unknown input, a wrong shape, a type other than float32, a
    value that is not finite, and for a pass without any image.
    """
    left = limit
    seen = 0
    for batch in batches():
        feeds, size = _check(graph, batch)
        if left is not None:
            size = min(size, left)
            left -= size
            feeds = {name: array[:size] for name, array in feeds.items()}
        if size:
            seen += size
            yield feeds
        if left == 0:
            break
    if not seen:
        raise DataError("calibration needs at least one image, but the set is empty; add images")


def hold(
    graph: Graph, batches: Batches, most: int, limit: int | None = None
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """At most ``most`` images spread evenly over one pass, and how many the pass has.

    Twice as many are in memory on the way. Raises DataError as :func:`checked` does.
    """
    every, seen = 1, 0
    kept: list[tuple[int, dict[str, NDArray[np.float32]]]] = []
    for batch in checked(graph, batches, limit):
        size = len(next(iter(batch.values())))
        for index in range(-seen % every, size, every):
            image = {name: array[index : index + 1].copy() for name, array in batch.items()}
            kept.append((seen + index, image))
        seen += size
        while len(kept) > 2 * most:
            every *= 2
            kept = [item for item in kept if item[0] % every == 0]
    count = min(most, len(kept))
    chosen = [kept[place * len(kept) // count][1] for place in range(count)]
    return {name: np.concatenate([i[name] for i in chosen]) for name in graph.inputs}, seen


def _check(graph: Graph, batch: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], int]:
    """The inputs of one batch in the graph's order, and how many images they hold."""
    if set(batch) != set(graph.inputs):
        raise DataError(
            f"calibration data for the inputs {sorted(graph.inputs)} was expected, but came for "
            f"{sorted(batch)}; name each array after its input"
        )
    feeds = {name: np.asarray(batch[name]) for name in graph.inputs}
    for name, array in feeds.items():
        _check_array(name, array, graph.shapes[name])
    counts = {array.shape[0] for array in feeds.values()}
    if len(counts) != 1:
        raise DataError(
            f"every input needs the same number of images, but they have {sorted(counts)}; "
            "cut them to the same length"
        )
    return feeds, counts.pop()


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise DataError(
            f"calibration data for '{name}' must be float32, not {array.dtype}; preprocess it first"
        )
    if array.ndim != len(shape) or array.shape[1:] != tuple(shape[1:]):
        wanted = ", ".join(["N", *(str(size) for size in shape[1:])])
        raise DataError(
            f"calibration data for '{name}' must have the shape [{wanted}], not "
            f"{list(array.shape)}; check the preprocessing"
        )
    if not np.isfinite(array).all():
        raise DataError(f"calibration data for '{name}' holds NaN or infinity; remove these images")
