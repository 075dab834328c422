"""Accuracy of a compiled network on labelled images, beside the float network it came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert import Graph, Progress, run_float
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import DataError

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation; None where one cannot be had.

    n: images. float_top1, shiftadd_top1, agreement: percent, the last the share of images for
    which both networks name the same class. float_seconds, shiftadd_seconds: wall time of the
    networks alone. costs: as ``costs.CostReport.to_dict`` gives them. allocation: as
    ``convert.AllocationReport``, None where every layer has the same terms. counted: launches on
    an accelerator's device, some for images that only warm up, and what it counted in them.
    """

    n: int
    float_top1: float | None
    shiftadd_top1: float | None
    agreement: float | None
    float_seconds: float | None
    shiftadd_seconds: float
    costs: Mapping[str, Any] = field(default_factory=dict)
    allocation: Mapping[str, Any] | None = None
    counted: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``eval --json`` prints them."""
        return {
            "n": self.n,
            "float": {"top1": self.float_top1, "seconds": self.float_seconds},
            "shiftadd": {"top1": self.shiftadd_top1, "seconds": self.shiftadd_seconds},
            "agreement": self.agreement,
            "terms_per_weight": self.costs.get("terms_per_weight"),
            "weight_bytes": self.costs.get("weight_bytes"),
            "multiplications": self.costs.get("multiplications"),
            "shift_add_share": self.costs.get("shift_add_share"),
            "allocation": self.allocation,
            **({"device": dict(self.counted)} if self.counted else {}),
        }


@dataclass(frozen=True)
class _Scores:
    """The class named for each image, int64 [N], and the seconds it took."""

    classes: NDArray[np.int64]
    seconds: float


def compare(
    artifact: Artifact, graph: Graph | None, data: Dataset, progress: Progress
) -> Evaluation:
    """Run an artifact, and where ``graph`` is given its float network, over a data set.

    Raises DataError where the output is no row of scores an image.
    """
    scores = _score(artifact_function(artifact), data, _batch(artifact), "shift-add", progress)
    reference = None
    if graph is not None:
        reference = _score(_float_function(graph), data, graph.batch, "float", progress)
    same = None if reference is None else reference.classes == scores.classes
    return Evaluation(
        n=len(data),
        float_top1=None if reference is None else _top1(reference, data),
        shiftadd_top1=_top1(scores, data),
        agreement=None if same is None else _percent(same),
        float_seconds=None if reference is None else reference.seconds,
        shiftadd_seconds=scores.seconds,
        costs=artifact.report.get("costs", {}),
        allocation=artifact.report.get("conversion", {}).get("allocation"),
        counted=artifact.counted,
    )


def feeds(graph: Graph, data: Dataset | Mapping[str, Float]) -> Iterator[dict[str, Float]]:
    """Calibration data as feeds: a data set for the only input, or an array for each by name.

    Raises DataError for a data set where a network has several inputs.
    """
    if isinstance(data, Mapping):
        step = graph.batch or 100
        for start in range(0, max((len(array) for array in data.values()), default=0), step):
            yield {name: array[start : start + step] for name, array in data.items()}
        return
    if len(graph.inputs) != 1:
        raise DataError(
            f"expected calibration data for each of the inputs {', '.join(graph.inputs)}, got one "
            "set; give a mapping from their names to arrays"
        )
    for batch in data.batches(graph.batch):
        yield {graph.inputs[0]: batch}


def whole_batch(images: Float, size: int | None) -> Float:
    """Images filled up to a fixed batch size by repeating the last one."""
    missing = 0 if size is None else size - len(images)
    return images if missing <= 0 else np.concatenate([images, images[-1:].repeat(missing, 0)])


def artifact_function(artifact: Artifact) -> Callable[[Float], Any]:
    """An artifact as a function from images to its first output."""

    def run(images: Float) -> Any:
        result = artifact.run(images)
        return next(iter(result.values())) if isinstance(result, dict) else result

    return run


def _float_function(graph: Graph) -> Callable[[Float], Any]:
    def run(images: Float) -> Any:
        return run_float(graph, {graph.inputs[0]: images})[graph.outputs[0]]

    return run


def _batch(artifact: Artifact) -> int | None:
    size = artifact.inputs[0].shape[0]
    return size if size > 0 else None


def _score(
    run: Callable[[Float], Any],
    data: Dataset,
    batch: int | None,
    phase: str,
    progress: Progress,
) -> _Scores:
    classes: list[NDArray[np.int64]] = []
    seconds, done = 0.0, 0
    for images in data.batches(batch):
        if not done:
            run(whole_batch(images[:1], batch))  # the first run also makes code and threads ready
        start = time.perf_counter()
        output = run(whole_batch(images, batch))
        seconds += time.perf_counter() - start
        classes.append(_classes(output, len(images), data.preprocess.label_offset))
        done += len(images)
        progress(phase, done, len(data))
    return _Scores(np.concatenate(classes), seconds)


def _classes(output: Any, count: int, offset: int) -> NDArray[np.int64]:
    """The best class of each row of scores."""
    scores = output[:count].reshape(count, -1)[:, offset:]
    if scores.shape[1] < 2:
        raise DataError(
            f"expected a row of class scores an image, got an output {list(output.shape)} with "
            f"label offset {offset}; eval measures classifiers, use run for other networks"
        )
    best: NDArray[np.int64] = scores.argmax(axis=1)
    return best


def _top1(scores: _Scores, data: Dataset) -> float | None:
    return None if data.labels is None else _percent(scores.classes == data.labels)


def _percent(hits: NDArray[np.bool_]) -> float:
    return round(100.0 * float(hits.mean()), 4)
