"""``tvm-shiftadd profile``: time of each kernel call of an artifact, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from tvm_shiftadd.bench.layers import Profile

HELP = "Time each layer of an artifact against what the machine can do."


@dataclass(frozen=True)
class Config:
    """One call of ``profile``."""

    artifact: Path
    inputs: Path | None
    batch: int | None
    threads: int | None
    rounds: int
    written: Path | None


def command(
    artifact: Annotated[Path, typer.Argument(help="An artifact directory.")],
    inputs: Annotated[
        Path | None,
        typer.Option("--input", help=".npz with an array for each input; default: random."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Images a run of random inputs; default 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Default: what the artifact says, or all.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often each call is sampled.")] = 11,
    written: options.Output = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, measure, print."""
    config = Config(artifact, inputs, batch, threads, rounds, written)
    with output.clean_stdout(json):
        profile = _profile(config)
    from tvm_shiftadd.bench import layer_tables, results

    report, tables = profile.to_dict(), layer_tables.tables(profile)
    if config.written is not None:
        title = f"{profile.model}, batch {profile.batch}, by layer"
        results.write(config.written, title, report, tables)
    if json:
        output.print_json(report)
        return
    output.print_lines(f"{profile.model}, batch {profile.batch}", profile.machine.line)
    output.print_tables(tables)


def _profile(config: Config) -> Profile:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.bench import inputs, layers, results
    from tvm_shiftadd.data import read_arrays
    from tvm_shiftadd.target import runtime

    if config.rounds < 1:
        raise InputError(f"expected --rounds to be at least 1, got {config.rounds}")
    if config.inputs is not None and config.batch is not None:
        raise InputError("--batch is for random inputs; the arrays of --input have a size")
    if config.written is not None:
        results.check(config.written)
    artifact = Artifact.load(config.artifact)
    if config.inputs is None:
        feed = inputs.random_inputs(artifact, inputs.batch_size(artifact, config.batch))
    else:
        feed = dict(read_arrays(config.inputs))
        if len(feed) == 1 and len(artifact.inputs) == 1:
            # A single array needs no name.
            feed = {artifact.inputs[0].name: next(iter(feed.values()))}
    said = artifact.manifest.target.attributes.get("num_threads")
    threads = config.threads or (said if isinstance(said, int) else runtime.available_cores())
    with output.progress() as progress:
        return layers.profile(
            artifact, feed, threads=threads, rounds=config.rounds, progress=progress
        )
