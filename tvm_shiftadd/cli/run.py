"""``tvm-shiftadd run``: arrays through an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_shiftadd.cli import options, output

HELP = "Run an artifact on the arrays of an .npz file."


@dataclass(frozen=True)
class Config:
    """One call of ``run``."""

    artifact: Path
    inputs: Path
    outputs: Path
    device: options.DeviceOptions


def command(
    artifact: Annotated[Path, typer.Argument(help="An artifact directory.")],
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
    import numpy as np

    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.data import read_arrays
    from tvm_shiftadd.data.writers import write_arrays

    choice = config.device.choice()
    artifact = Artifact.load(config.artifact)
    if choice is not None:
        artifact.connect(choice)
    feeds: Any = read_arrays(config.inputs)
    if len(feeds) == 1 and len(artifact.inputs) == 1:
        # A single array needs no name.
        feeds = next(iter(feeds.values()))
    result = artifact.run(feeds)
    if isinstance(result, np.ndarray):
        result = {artifact.outputs[0].name: result}
    write_arrays(config.outputs, result)
    shapes = {name: list(array.shape) for name, array in result.items()}
    return shapes, dict(artifact.counted)
