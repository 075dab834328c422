"""``tvm-shiftadd tune``: the parameters of a network's kernels, found by measuring."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError, ModelError

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.target import Target
    from tvm_shiftadd.tune.run import Result
    from tvm_shiftadd.tune.task import Report, Trial

HELP = "Find the fastest parameters of a network's kernels by measuring."

#: Trials between two lines of progress where standard error is no terminal.
_EVERY = 25


@dataclass(frozen=True)
class Config:
    """One call of ``tune``."""

    model: options.ModelChoice
    database: Path
    trials: int
    target: str
    terms: int | str
    threads: int | None
    timeout: float
    tracker: dict[str, Any] | None


def command(
    model: Annotated[Path, typer.Argument(help="An artifact, an ONNX file or a checkpoint.")],
    database: Annotated[Path, typer.Option("--db", help="The database: a file, made if missing.")],
    trials: Annotated[
        int, typer.Option("--trials", help="Candidates of this network in the database in the end.")
    ] = 256,
    target: options.Target = "cpu",
    terms: options.Terms = "2",
    shape: options.Shape = None,
    weights: options.Weights = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of a run; default: the target's.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds after which a candidate has failed.")
    ] = 30.0,
    tracker: Annotated[
        str | None,
        typer.Option("--tracker", help="HOST:PORT of a tracker of TVM's RPC: measure there."),
    ] = None,
    key: Annotated[
        str, typer.Option("--tracker-key", help="The key of the tracker's servers to use.")
    ] = "shiftadd",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Parse, tune, print."""
    if trials < 1 or timeout <= 0:
        raise InputError(f"expected --trials and --timeout above 0, got {trials} and {timeout:g}")
    config = Config(
        options.ModelChoice(model, tuple(shape or ()), weights),
        database,
        trials,
        target,
        options.terms_of(terms),
        threads,
        timeout,
        None if tracker is None else _tracker(tracker, key),
    )
    with output.clean_stdout(json):
        result = _tune(config)
    if json:
        output.print_json(_summary(config, result))
        return
    _print(config, result)


def _tracker(text: str, key: str) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"expected --tracker HOST:PORT, such as localhost:9190, got {text!r}")
    return {"host": host, "port": int(port), "key": key}


def _tune(config: Config) -> Result:
    from tvm_shiftadd.target import CPUTarget, CUDATarget, parse
    from tvm_shiftadd.tune import accelerator, cpu, cuda, model
    from tvm_shiftadd.tune.run import tune

    path = config.model.path
    if not path.exists():
        raise ModelError(f"{path} does not exist; give an artifact, an ONNX file or a checkpoint")
    artifact = _artifact(config.model) if path.is_dir() else None
    target = _target_of(artifact) if artifact else parse(config.target)
    if isinstance(target, CPUTarget):
        tunable, listed = cpu.tunable(target, config.threads, config.tracker), "kernels"
    elif isinstance(target, CUDATarget):
        _refuse_for_others(config, "a GPU, whose kernels are measured on the one that is here")
        tunable, listed = cuda.tunable(target), "kernels"
    else:
        _refuse_for_others(config, "an accelerator, whose cycles are counted by its timing model")
        tunable, listed = accelerator.tunable(target), "accelerator_kernels"
    if not model.available():
        _say(
            "xgboost is not installed: candidates are tried at random; pip install "
            "'tvm-shiftadd[tune]'"
        )
    with _shown(config.trials, tunable.space.unit) as report:
        return tune(
            tunable,
            config.database,
            lambda: _kernels(artifact or _compiled(config, target), listed, path),
            trials=config.trials,
            timeout=config.timeout,
            report=report,
        )


def _artifact(model: options.ModelChoice) -> Artifact:
    from tvm_shiftadd.artifact import Artifact

    model.refuse_for_artifact()
    return Artifact.load(model.path)


def _target_of(artifact: Artifact) -> Target:
    """What an artifact was compiled for. InputError where no target names its machine."""
    from tvm_shiftadd.target import AcceleratorTarget, parse
    from tvm_shiftadd.target.accelerator import BACKENDS, backend
    from tvm_shiftadd.target.gpu import CUDA

    described = artifact.manifest.target
    attributes = described.asked
    if described.kind in BACKENDS:
        machine = backend(described.kind).machine_of(attributes)
        return AcceleratorTarget(described.kind, machine)
    if described.kind == CUDA:
        own = {name: attributes.get(name, "") for name in ("arch", "kernels")}
        return parse({"kind": CUDA} | own)
    return parse(attributes or "cpu")


def _refuse_for_others(config: Config, kind: str) -> None:
    """Raise InputError for options that are those of processors."""
    if config.threads or config.tracker:
        raise InputError(f"expected no --threads and no --tracker for {kind}")


def _compiled(config: Config, target: Target) -> Artifact:
    """A model's artifact for random inputs, converted as for any others.

    What its kernels have to do is nearly the same for all: inputs decide which layers have factors
    of their own, which is part of a workload.
    """
    from tvm_shiftadd import api
    from tvm_shiftadd.bench import inputs

    model = config.model.load()
    calibration = inputs.random_calibration(model.graph)
    return api.compile(model, target=target, calibration=calibration, terms=config.terms)


def _kernels(artifact: Artifact, listed: str, path: Path) -> Sequence[Mapping[str, Any]]:
    kernels = artifact.report.get(listed)
    if not kernels:
        raise InputError(
            f"expected an artifact whose report lists kernels to tune, got {path}; compile the "
            "model again"
        )
    return list(kernels)


# Progress.


@contextmanager
def _shown(trials: int, unit: str) -> Iterator[Report]:
    """Progress with the best so far on standard error: a bar, or a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    shown = output.console(error=True)
    columns = (
        MofNCompleteColumn(),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    best: dict[str, float | None] = {}
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        bar = bars.add_task("", total=trials)

        def tell(trial: Trial) -> None:
            text = _so_far(trial, unit)
            bars.update(bar, completed=trial.done, total=trial.trials, description=text)
            if trial.error:
                _say(f"failed: {trial.task} {_brief(trial.parameters)}: {trial.error}")
            known, best[trial.task] = best.get(trial.task), trial.best
            news = trial.best != known or trial.done % _EVERY == 0 or trial.done == trial.trials
            if news and not shown.is_terminal:
                _say(f"{trial.done}/{trial.trials} {text}")

        yield tell


def _so_far(trial: Trial, unit: str) -> str:
    if trial.best is None:
        return f"{trial.task}: nothing yet"
    times = "" if trial.rule is None else f", {trial.rule / trial.best:.2f} times the rule's speed"
    return f"{trial.task}: best {_amount(trial.best, unit)}{times}"


def _amount(value: float | None, unit: str) -> str | None:
    if value is None:
        return None
    if unit == "cycles":
        return f"{value:,.0f} cycles"
    return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def _brief(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# Results.


def _summary(config: Config, result: Result) -> dict[str, Any]:
    return {
        "model": str(config.model.path),
        "database": str(config.database),
        "unit": result.unit,
        "rule": result.total("rule"),
        "best": result.total("best"),
        "workloads": [asdict(outcome) for outcome in result.outcomes],
        "failures": [
            {"workload": r.workload, "parameters": r.parameters, "error": r.error}
            for r in result.failures
        ],
    }


def _print(config: Config, result: Result) -> None:
    rows = [
        [
            outcome.task,
            outcome.layers,
            f"{outcome.tried} of {outcome.candidates}",
            outcome.failed,
            _amount(outcome.rule, result.unit),
            _amount(outcome.best, result.unit),
            outcome.rule / outcome.best if outcome.rule and outcome.best else None,
        ]
        for outcome in result.outcomes
    ]
    head = ["kernel", "layers", "tried", "failed", "by rule", "best", "speed-up"]
    output.print_table("Tuned", head, rows)
    rule, best = result.total("rule"), result.total("best")
    if best:
        by_rule, tuned = _amount(rule, result.unit), _amount(best, result.unit)
        output.print_lines(f"All kernels together: {by_rule} by rule, {tuned} tuned.")
    output.print_lines(f"Next: tvm-shiftadd compile ... --db {config.database}")
