"""``tvm-shiftadd bench``: time of a whole network beside other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from tvm_shiftadd.bench.networks import Comparison, Task

HELP = "Time a model, or an artifact, beside other runtimes."


_CPU_ONLY = (
    "bench measures time on the CPU, where the accelerator is only simulated; profile gives its "
    "cycles"
)


@dataclass(frozen=True)
class Config:
    """One call of ``bench``."""

    model: options.ModelChoice
    onnx: Path | None
    calib: Path | None
    calib_limit: int | None
    preprocess: str | None
    terms: options.TermChoice
    target: str
    batch: int | None
    peers: str | None
    threads: int | None
    rounds: int
    written: Path | None


def command(
    model: options.ModelOrArtifact,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="An artifact's float network, for the peers.")
    ] = None,
    calib: options.Calib = None,
    calib_limit: options.CalibLimit = None,
    preprocess: options.Spec = None,
    terms: options.Terms = "2",
    budget: options.Budget = None,
    max_drop: options.MaxDrop = None,
    grain: options.Grain = None,
    target: options.Target = "cpu",
    shape: options.Shape = None,
    weights: options.Weights = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Images a run; default 1.")] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            "--peers",
            help="Which of onnxruntime, onnxruntime-int8, onnxruntime-int8-qop, openvino, "
            "openvino-int8, torch, torch-compiled, torch-int8, torch-sums, tvm, separated by "
            "commas, or all, or none; default: those of onnxruntime and openvino.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of every participant; default: 1, then all."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often each has its turn.")] = 11,
    written: options.Output = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Parse, compile if need be, measure, print."""
    config = Config(
        options.ModelChoice(model, tuple(shape or ()), weights),
        onnx,
        calib,
        calib_limit,
        preprocess,
        options.TermChoice(options.terms_of(terms), budget, max_drop, grain),
        target,
        batch,
        peers,
        threads,
        rounds,
        written,
    )
    with output.clean_stdout(json):
        comparison = _bench(config)
    report = comparison.to_dict()
    if config.written is not None:
        from tvm_shiftadd.bench import results

        title = f"{comparison.model}, batch {comparison.batch}"
        results.write(config.written, title, report, comparison.tables())
    if json:
        output.print_json(report)
        return
    output.print_lines(
        f"{comparison.model}, batch {comparison.batch}, {comparison.inputs}",
        comparison.machine.line,
    )
    output.print_tables(comparison.tables())


def _bench(config: Config) -> Comparison:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.bench import networks, peers, results
    from tvm_shiftadd.target import AcceleratorTarget, host, link, parse, runtime

    config.model.check_exists()
    if config.rounds < 1:
        raise InputError(f"expected --rounds to be at least 1, got {config.rounds}")
    target = parse(config.target)
    simulated = isinstance(target, AcceleratorTarget)
    if config.model.path.is_dir():
        simulated = Artifact.load(config.model.path).regions is not None
    if simulated:
        raise InputError(_CPU_ONLY)
    if not config.model.path.is_dir():
        link.check_native(host(target).mtriple)
    if config.written is not None:
        results.check(config.written)
    names, asked = peers.choose(config.peers)
    threads = {1, runtime.available_cores()} if config.threads is None else {config.threads}
    # TVM cannot raise the number later, and a wrong one is to be refused before minutes of work.
    runtime.set_num_threads(max(threads))
    with output.progress() as progress:
        return networks.bench(
            _task(config, progress),
            names=names,
            asked=asked,
            threads=tuple(threads),
            rounds=config.rounds,
            progress=progress,
        )


def _task(config: Config, progress: Any) -> Task:
    from tvm_shiftadd import api
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.bench import inputs
    from tvm_shiftadd.data import Preprocess, open_dataset

    path = config.model.path
    data = None
    if config.calib is not None:
        preprocess = Preprocess.parse(config.preprocess)
        data = open_dataset(config.calib, preprocess).subset(limit=config.calib_limit)
    if path.is_dir():
        config.model.refuse_for_artifact()
        model = None if config.onnx is None else api.load(config.onnx)
        artifact, onnx = Artifact.load(path), config.onnx
    else:
        config.terms.check()
        model = config.model.load()
        said = config.terms.arguments()
        if data is None and isinstance(config.terms.terms, int):
            said = {"options": inputs.plain_options(config.terms.terms)}
        artifact = api.compile(
            model,
            target=config.target,
            calibration=inputs.random_calibration(model.graph) if data is None else data,
            **said,
            progress=progress,
        )
        onnx = path if path.suffix == ".onnx" else config.onnx
    return inputs.task(artifact, model=model, onnx=onnx, data=data, batch=config.batch)
