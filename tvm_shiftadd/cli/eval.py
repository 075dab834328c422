"""``tvm-shiftadd eval``: accuracy in float and in shift-add form on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_shiftadd.cli import allocation, options, output
from tvm_shiftadd.errors import InputError

HELP = "Measure a model, or an artifact, on labelled images."


@dataclass(frozen=True)
class Config:
    """One call of ``eval``."""

    model: options.ModelChoice
    data: Path
    preprocess: str | None
    calib: Path | None
    calib_limit: int | None
    target: str
    terms: options.TermChoice
    skip: int
    limit: int | None
    device: options.DeviceOptions


def command(
    model: options.ModelOrArtifact,
    data: Annotated[Path, typer.Option("--data", help="Labelled images to measure.")],
    preprocess: options.Spec = None,
    calib: options.Calib = None,
    calib_limit: options.CalibLimit = None,
    target: options.Target = "cpu",
    terms: options.Terms = "2",
    budget: options.Budget = None,
    max_drop: options.MaxDrop = None,
    grain: options.Grain = None,
    frontier: options.Frontier = None,
    shape: options.Shape = None,
    weights: options.Weights = None,
    skip: Annotated[int, typer.Option("--skip", help="Leave out the first N images.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Measure N images only, in file order.")
    ] = None,
    device: options.Device = None,
    time_limit: options.TimeLimit = None,
    rpc: options.Rpc = None,
    key: options.Key = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Parse, evaluate, print."""
    config = Config(
        options.ModelChoice(model, tuple(shape or ()), weights),
        data,
        preprocess,
        calib,
        calib_limit,
        target,
        options.TermChoice(options.terms_of(terms), budget, max_drop, grain, frontier),
        skip,
        limit,
        options.DeviceOptions(device, time_limit, rpc, key),
    )
    with output.clean_stdout(json):
        result = _evaluate(config)
        if config.terms.frontier is not None:
            _write_frontier(config.terms.frontier, result)
    if json:
        output.print_json(result)
    else:
        _print(config, result)


def _evaluate(config: Config) -> dict[str, Any]:
    from tvm_shiftadd.data import Preprocess, open_dataset

    path = config.model.path
    config.model.check_exists()
    if path.is_dir():
        config.model.refuse_for_artifact()
    config.terms.check()
    device = config.device.choice()
    preprocess = Preprocess.parse(config.preprocess)
    data = open_dataset(config.data, preprocess).subset(config.skip, config.limit)
    calibration = None
    if config.calib is not None:
        calibration = open_dataset(config.calib, preprocess).subset(limit=config.calib_limit)
    from tvm_shiftadd import api

    with output.progress() as progress:
        evaluation = api.evaluate(
            path if path.is_dir() else config.model.load(),
            data,
            calibration=calibration,
            target=config.target,
            **config.terms.arguments(),
            device=device,
            progress=progress,
        )
    return evaluation.to_dict()


def _write_frontier(path: Path, result: dict[str, Any]) -> None:
    from tvm_shiftadd.cli import frontier

    if result.get("allocation") is None:
        raise InputError("an artifact keeps no float network to try other budgets on; give a model")
    frontier.write(path, result["allocation"])


def _print(config: Config, result: dict[str, Any]) -> None:
    rows = [
        ["top-1, float", result["float"]["top1"], "%"],
        ["top-1, shift-add", result["shiftadd"]["top1"], "%"],
        ["both name the same class", result.get("agreement"), "%"],
        ["terms per weight", result.get("terms_per_weight"), ""],
        ["weights, packed", result.get("weight_bytes"), "bytes"],
        ["multiplications of data left", result.get("multiplications"), "per inference"],
    ]
    title = f"{config.model.path.name} on {result['n']:,} images"
    output.print_table(title, ["", "value", "unit"], rows)
    output.print_counted(result.get("device", {}))
    if result.get("allocation") is not None:
        allocation.show(result["allocation"])
