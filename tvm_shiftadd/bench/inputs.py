"""What a benchmark runs on: images that were given, or random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.bench.networks import Task
from tvm_shiftadd.convert import ConvertOptions, run_float
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import DataError, InputError
from tvm_shiftadd.evaluation import whole_batch

if TYPE_CHECKING:
    from tvm_shiftadd.api import Model
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.convert import Graph

Array = NDArray[Any]

#: Random inputs to calibrate on where no data is given.
RANDOM_IMAGES = 16


def random_calibration(graph: Graph) -> dict[str, Array]:
    """Random inputs by name, float32, to compile a network that is only to be timed."""
    count = graph.batch or RANDOM_IMAGES
    return {name: _normal((count, *graph.shapes[name][1:])) for name in graph.inputs}


def plain_options(terms: int) -> ConvertOptions:
    """How to convert a network that is only to be timed: without what serves accuracy alone.

    Nothing of that costs time later but factors of shifted copies, which some layers then lack.
    """
    return ConvertOptions(
        terms, bias_correction=False, compensation=False, equalize=False, fold=False
    )


def task(
    artifact: Artifact,
    *,
    model: Model | None = None,
    onnx: Path | None = None,
    data: Dataset | None = None,
    batch: int | None = None,
) -> Task:
    """What to compare an artifact on.

    ``model``: its float network, for the outputs to hold its own against. ``onnx``: the file for
    the peers. ``data``: images whose first ``batch`` are run, and on all of which the peers'
    int8 models are calibrated. Raises InputError for a batch that the artifact does not take, and
    DataError where there are too few images or several inputs.
    """
    size = batch_size(artifact, batch)
    if data is None:
        numbers = random_inputs(artifact, max(size, RANDOM_IMAGES // size * size))
        sets, where = _parts(numbers, size), "random numbers, normally distributed"
    else:
        sets, where = _given(artifact, data, size), f"{len(data)} images"
    reference = None
    if model is not None:
        outputs = run_float(model.graph, dict(sets[0]))
        reference = [outputs[name] for name in model.graph.outputs]
    return Task(artifact, sets[0], sets, onnx, model, reference, where)


def random_inputs(artifact: Artifact, batch: int) -> dict[str, Array]:
    """Inputs of an artifact by name, normally distributed. Raises DataError for integers."""
    for info in artifact.inputs:
        if info.dtype != "float32":
            raise DataError(
                f"expected float32 inputs for random numbers, got {info.name} of {info.dtype}; "
                "give data"
            )
    return {info.name: _normal((batch, *info.shape[1:])) for info in artifact.inputs}


def batch_size(artifact: Artifact, wanted: int | None) -> int:
    """The images of a run: as wanted, the fixed number of the artifact, or 1. InputError."""
    fixed = artifact.inputs[0].shape[0]
    if wanted is not None and wanted < 1:
        raise InputError(f"expected --batch to be at least 1, got {wanted}")
    if fixed > 0 and wanted not in (None, fixed):
        raise InputError(f"the network has a fixed batch of {fixed}, got --batch {wanted}")
    return fixed if fixed > 0 else wanted or 1


def _parts(inputs: Mapping[str, Array], size: int) -> list[dict[str, Array]]:
    count = len(next(iter(inputs.values())))
    return [
        {name: array[start : start + size] for name, array in inputs.items()}
        for start in range(0, count, size)
    ]


def _given(artifact: Artifact, data: Dataset, batch: int) -> list[dict[str, Array]]:
    if len(artifact.inputs) != 1:
        names = ", ".join(info.name for info in artifact.inputs)
        raise DataError(f"expected a network with one input for a set of images, got {names}")
    if len(data) < batch:
        raise DataError(f"expected at least {batch} images for a batch, got {len(data)}")
    name = artifact.inputs[0].name
    return [{name: whole_batch(images, batch)} for images in data.batches(batch)]


def _normal(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
