"""``tvm-shiftadd profile``: time of each kernel call of an artifact, and what bounds it.

For an artifact of the accelerator it is the timing model's cycles of each layer instead, and the
counters of the hardware where a device is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_shiftadd.cli import cycles, feeds, options, output
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target.gpu import CUDA

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.bench.layers import Profile

HELP = "Time each layer of an artifact, or count its cycles."


@dataclass(frozen=True)
class Config:
    """One call of ``profile``."""

    artifact: Path
    inputs: Path | None
    batch: int | None
    threads: int | None
    rounds: int | None
    written: Path | None
    cycles: cycles.Config
    device: options.DeviceOptions

    @property
    def for_cpu(self) -> bool:
        """Whether something was said that is only for artifacts of the CPU."""
        said = (self.inputs, self.batch, self.threads, self.rounds, self.written)
        return any(value is not None for value in said)


#: How often each call is sampled where nothing is said.
_ROUNDS = 11


def command(
    artifact: options.ArtifactDirectory,
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
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="How often each call is sampled; default 11.")
    ] = None,
    written: options.Output = None,
    memory_bits: Annotated[
        int | None,
        typer.Option("--memory-bits", help="Accelerator: width of the memory port; default: its."),
    ] = None,
    memory_latency: Annotated[
        int | None,
        typer.Option(
            "--memory-latency", help="Accelerator: cycles to the first beat; default 100."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Accelerator: write a trace for ui.perfetto.dev (JSON)."),
    ] = None,
    roofline: Annotated[
        Path | None,
        typer.Option("--roofline", help="Accelerator: plot the layers' roofline (.png, .svg)."),
    ] = None,
    device: options.Device = None,
    time_limit: options.TimeLimit = None,
    rpc: options.Rpc = None,
    key: options.Key = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, measure, print."""
    pictures = cycles.Config(memory_bits, memory_latency, trace, roofline)
    machine = options.DeviceOptions(device, time_limit, rpc, key)
    config = Config(artifact, inputs, batch, threads, rounds, written, pictures, machine)
    with output.clean_stdout(json):
        loaded = _load(config)
        if loaded.regions is None:
            profile = _profile(config, loaded)
        else:
            timed = cycles.profile(loaded, config.cycles, config.device)
    if loaded.regions is not None:
        _print_cycles(timed, json)
        return
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


def _print_cycles(timed: cycles.Result, json: bool) -> None:
    if json:
        output.print_json(timed.to_dict())
        return
    output.print_lines(f"{timed.model} on {timed.machine}")
    output.print_tables(cycles.tables(timed))
    output.print_counted(timed.counted)


def _load(config: Config) -> Artifact:
    from tvm_shiftadd.artifact import Artifact

    loaded = Artifact.load(config.artifact)
    if loaded.manifest.target.kind == CUDA:
        raise InputError(
            "profile times kernels of the CPU and counts cycles of the accelerator; those of a GPU "
            f"are timed by NVIDIA's nsys: nsys profile tvm-shiftadd bench {config.artifact}"
        )
    if loaded.regions is None and (config.cycles.said or config.device.choice() is not None):
        raise InputError(
            "--memory-bits, --memory-latency, --trace, --roofline, --device, --time-limit and "
            "--rpc are for artifacts of the accelerator; this one is for the CPU"
        )
    if loaded.regions is not None and config.for_cpu:
        raise InputError(
            "--input, --batch, --threads, --rounds and --output are for artifacts of the CPU; "
            "cycles of the accelerator do not depend on the data"
        )
    return loaded


def _profile(config: Config, artifact: Artifact) -> Profile:
    from tvm_shiftadd.bench import inputs, layers, results
    from tvm_shiftadd.target import runtime

    rounds = _ROUNDS if config.rounds is None else config.rounds
    if rounds < 1:
        raise InputError(f"expected --rounds to be at least 1, got {rounds}")
    if config.inputs is not None and config.batch is not None:
        raise InputError("--batch is for random inputs; the arrays of --input have a size")
    if config.written is not None:
        results.check(config.written)
    if config.inputs is None:
        feed = inputs.random_inputs(artifact, inputs.batch_size(artifact, config.batch))
    else:
        feed = feeds.read(artifact, config.inputs)
    said = artifact.manifest.target.attributes.get("num_threads")
    threads = config.threads or (said if isinstance(said, int) else runtime.available_cores())
    with output.progress() as progress:
        return layers.profile(artifact, feed, threads=threads, rounds=rounds, progress=progress)
