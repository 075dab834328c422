"""``tvm-shiftadd compile``: a model becomes an artifact directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact

HELP = "Convert a model and compile it into a directory."


@dataclass(frozen=True)
class Config:
    """One call of ``compile``."""

    model: options.ModelChoice
    directory: Path
    target: str
    calib: Path | None
    calib_limit: int | None
    preprocess: str | None
    terms: options.TermChoice
    dump_ir: Path | None
    database: Path | None


def command(
    model: Annotated[Path, typer.Argument(help="An ONNX file or a checkpoint.")],
    directory: Annotated[Path, typer.Option("-o", "--output", help="Where the artifact goes.")],
    target: options.Target = "cpu",
    calib: options.Calib = None,
    calib_limit: options.CalibLimit = None,
    preprocess: options.Spec = None,
    terms: options.Terms = "2",
    budget: options.Budget = None,
    max_drop: options.MaxDrop = None,
    grain: options.Grain = None,
    frontier: options.Frontier = None,
    shape: options.Shape = None,
    weights: options.Weights = None,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", help="Write the module after each phase here.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--db", help="A database that tune has made; default: one that is shipped."),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Parse, compile, save, print."""
    config = Config(
        options.ModelChoice(model, tuple(shape or ()), weights),
        directory,
        target,
        calib,
        calib_limit,
        preprocess,
        options.TermChoice(options.terms_of(terms), budget, max_drop, grain, frontier),
        dump_ir,
        database,
    )
    with output.clean_stdout(json):
        artifact = _compile(config)
        if config.terms.frontier is not None:
            _write_frontier(config.terms.frontier, artifact)
    summary = _summary(config, artifact)
    if json:
        output.print_json(summary)
        return
    shown = {key: value for key, value in summary.items() if key != "noisy_layers"}
    rows = [[key.replace("_", " "), value] for key, value in shown.items()]
    output.print_table("Compiled", ["", ""], rows)
    if summary["noisy_layers"]:
        names = ", ".join(summary["noisy_layers"])
        output.print_lines(
            f"Little is left of the signal of {names}: more --terms or more calibration images may "
            "help; the report says what did the harm."
        )
    output.print_lines(f"Next: tvm-shiftadd report {config.directory}")


def _compile(config: Config) -> Artifact:
    from tvm_shiftadd.artifact import check_replaceable
    from tvm_shiftadd.data import Preprocess, open_dataset

    # Cheap checks first: a minute of calibration must not end in "that directory is taken".
    check_replaceable(config.directory)
    if config.dump_ir is not None:
        _check_dump(config.dump_ir, config.directory)
    config.terms.check()
    preprocess = Preprocess.parse(config.preprocess)
    if config.calib is None:
        raise InputError("compile needs images to calibrate on; pass --calib FILE")
    calibration = open_dataset(config.calib, preprocess).subset(limit=config.calib_limit)
    from tvm_shiftadd import api

    with output.progress() as progress:
        artifact = api.compile(
            config.model.load(),
            target=config.target,
            calibration=calibration,
            **config.terms.arguments(),
            dump_ir=config.dump_ir,
            database=config.database,
            progress=progress,
        )
        artifact.save(config.directory)
    return artifact


def _check_dump(folder: Path, artifact: Path) -> None:
    """Refuse a folder that would mix two compilations, or be in the artifact's way."""
    if artifact.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InputError(f"--dump-ir {folder} is in the artifact {artifact}; choose another folder")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if os.path.lexists(folder):
        raise InputError(
            f"--dump-ir needs a new or an empty folder, got {folder}, which is neither; "
            "choose another"
        )


def _write_frontier(path: Path, artifact: Artifact) -> None:
    from tvm_shiftadd.cli import frontier

    frontier.write(path, artifact.report["conversion"]["allocation"])


def _summary(config: Config, artifact: Artifact) -> dict[str, Any]:
    costs = artifact.report.get("costs", {})
    keys = (
        "terms_per_weight",
        "weight_bytes",
        "weight_bytes_float32",
        "multiplications",
        "shift_add_share",
    )
    return {
        "artifact": str(config.directory),
        "source": artifact.manifest.source.name,
        "target": artifact.manifest.target.kind,
        **_machine(artifact),
        "terms": config.terms.terms,
        **{key: costs.get(key) for key in keys},
        "tuned_kernels": sum(kernel["tuned"] for kernel in artifact.report.get("kernels", [])),
        "noisy_layers": artifact.report.get("conversion", {}).get("noisy", []),
    }


def _machine(artifact: Artifact) -> dict[str, Any]:
    """Of an accelerator's artifact: the machine, how many programs, and what runs there."""
    attributes = artifact.manifest.target.attributes
    if "machine" not in attributes:
        return {}
    return {
        "machine": attributes["machine"],
        "configuration": attributes["configuration"],
        "programs": len(artifact.regions.regions),
    }
