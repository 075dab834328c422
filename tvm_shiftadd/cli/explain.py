"""``tvm-shiftadd explain``: what becomes of every operator, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_shiftadd.cli import options, output

HELP = "List every operator: shift-add, adder or host, and why."


@dataclass(frozen=True)
class Config:
    """One call of ``explain``."""

    model: options.ModelChoice


def command(
    model: Annotated[Path, typer.Argument(help="An ONNX file or a checkpoint.")],
    shape: options.Shape = None,
    weights: options.Weights = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, explain, print."""
    config = Config(options.ModelChoice(model, tuple(shape or ()), weights))
    with output.clean_stdout(json):
        explanation = _explain(config)
    if json:
        output.print_json(explanation)
        return
    columns = ("name", "operator", "placement", "reason", "macs")
    rows = [[operator[column] for column in columns] for operator in explanation["operators"]]
    titles = ("name", "operator", "becomes", "reason", "MACs")
    output.print_table(config.model.path.name, titles, rows, right=4)
    share = 100 * explanation["shift_add_share"]
    output.print_lines(
        f"{share:.2f} % of the multiply-accumulates become shift-add.", *explanation["notes"]
    )


def _explain(config: Config) -> dict[str, Any]:
    from tvm_shiftadd import api

    return api.explain(config.model.load()).to_dict()
