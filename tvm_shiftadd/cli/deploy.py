"""``tvm-shiftadd deploy``: what the accelerator takes on a board, and the board's bitstream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from vta_ext.boards.flow import Report

HELP = "Build the accelerator for a board: a report, or a bitstream."

STAGES = ("report", "bitstream")


def command(
    board: Annotated[str, typer.Option(help="ulx3s-85f, ulx3s-85f-small, pynq or ultra96.")],
    stage: Annotated[
        str, typer.Option(help="report, or bitstream: the report and the file for the FPGA.")
    ] = "report",
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder of results and logs; finished stages in it are reused."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the placement; 1 by default.", min=0)
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Check the words, run the tools, print; minutes for a board that is placed and routed."""
    from vta_ext import boards
    from vta_ext.boards import flow

    chosen = boards.board(board)
    if stage not in STAGES:
        raise InputError(f"expected --stage {' or '.join(STAGES)}, got {stage!r}")
    target = folder or Path("build") / chosen.name
    with output.clean_stdout(json), output.progress() as progress:
        report = flow.build(chosen, target, stage == "bitstream", progress, seed)
    if json:
        output.print_json({**report.to_dict(), "folder": str(target)})
    else:
        _print(report, target)
    return 0


def _print(report: Report, folder: Path) -> None:
    rows: list[list[object]] = []
    for name, resource in report.resources.items():
        used = int(resource.used) if resource.used == int(resource.used) else resource.used
        share = 100 * resource.used / resource.available if resource.available else None
        rows.append([name, used, resource.available, None if share is None else f"{share:.1f}"])
    title = f"{report.board}: {report.machine} on {report.part}"
    output.print_table(title, ["", "used", "available", "%"], rows)
    if report.fmax_mhz is None:
        output.print_lines("Cells after synthesis; nothing was placed or routed.")
    else:
        verdict = "met" if report.met else "NOT met"
        output.print_lines(
            f"{report.fmax_mhz} MHz after routing; the board's {report.target_mhz} MHz: {verdict}."
        )
    for done in report.stages:
        how = "reused from an earlier run of" if done.reused else "took"
        output.print_lines(f"{done.name} {how} {done.seconds:.0f} s ({done.version})")
    made = f"{report.bitstream}, report and logs" if report.bitstream else "report and logs"
    output.print_lines(f"In {folder}: {made}.")
