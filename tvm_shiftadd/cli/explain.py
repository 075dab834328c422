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

    model: Path


def command(
    model: Annotated[Path, typer.Argument(help="The model: an ONNX file.")],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, explain, print."""
    config = Config(model)
    with output.clean_stdout(json):
        explanation = _explain(config)
    if json:
        output.print_json(explanation)
        return
    columns = ("name", "operator", "placement", "reason", "macs")
    rows = [[operator[column] for column in columns] for operator in explanation["operators"]]
    titles = ("name", "operator", "becomes", "reason", "MACs")
    output.print_table(config.model.name, titles, rows, right=4)
    share = 100 * explanation["shift_add_share"]
    output.print_lines(
        f"{share:.2f} % of the multiply-accumulates become shift-add.", *explanation["notes"]
    )


def _explain(config: Config) -> dict[str, Any]:
    from tvm_shiftadd import api

    return api.explain(api.load(config.model)).to_dict()
