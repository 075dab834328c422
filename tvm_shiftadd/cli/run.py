"""``tvm-shiftadd run``: arrays through an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_shiftadd.cli import feeds, options, output

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact

HELP = "Run an artifact on the arrays of an .npz file."


#: Images that an accelerator gets at once, or one launch of it where that takes more.
_PART = 4


@dataclass(frozen=True)
class Config:
    """One call of ``run``."""

    artifact: Path
    inputs: Path
    outputs: Path
    device: options.DeviceOptions


def command(
    artifact: options.ArtifactDirectory,
    inputs: Annotated[
        Path, typer.Option("--input", help=".npz with an array for each input, by its name.")
    ],
    outputs: Annotated[Path, typer.Option("--output", help="The .npz that is written.")],
    device: options.Device = None,
    time_limit: options.TimeLimit = None,
    rpc: options.Rpc = None,
    key: options.Key = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, run, write, print."""
    config = Config(artifact, inputs, outputs, options.DeviceOptions(device, time_limit, rpc, key))
    with output.clean_stdout(json):
        shapes, counted = _run(config)
    if json:
        told = {"device": counted} if counted else {}
        output.print_json({"output": str(config.outputs), "shapes": shapes, **told})
        return
    output.print_table(f"Wrote {config.outputs}", ["output", "shape"], list(shapes.items()))
    output.print_counted(counted)


def _run(config: Config) -> tuple[dict[str, list[int]], dict[str, int]]:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.data.writers import write_arrays

    choice = config.device.choice()
    artifact = Artifact.load(config.artifact)
    if choice is not None:
        artifact.connect(choice)
    given = feeds.read(artifact, config.inputs)
    with output.progress() as progress:
        result = _in_parts(artifact, given, progress)
    write_arrays(config.outputs, result)
    shapes = {name: list(array.shape) for name, array in result.items()}
    return shapes, dict(artifact.counted)


def _in_parts(
    artifact: Artifact, given: Mapping[str, Any], progress: output.Progress
) -> dict[str, Any]:
    """Outputs by name; an accelerator gets a few images at a time, since simulators are slow."""
    import numpy as np

    tensors = (*artifact.inputs, *artifact.outputs)
    batched = all(info.shape[:1] == (-1,) for info in tensors)
    counts = {len(array) if np.ndim(array) else 0 for array in given.values()}
    count = counts.pop() if len(counts) == 1 else 0
    # Both are powers of two, so no launch but the last one is padded.
    size = max(_PART, artifact.regions.config.batch) if artifact.regions is not None else 0
    if not size or not batched or count <= size:
        return _named(artifact, artifact.run(given))
    parts = []
    for start in range(0, count, size):
        progress("run", start, count)
        part = slice(start, start + size)
        cut = {name: array[part] for name, array in given.items()}
        parts.append(_named(artifact, artifact.run(cut)))
    progress("run", count, count)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _named(artifact: Artifact, result: Any) -> dict[str, Any]:
    return result if isinstance(result, dict) else {artifact.outputs[0].name: result}
