"""``tvm-shiftadd deploy``: a board's bitstream, what it takes, and artifacts onto the board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_shiftadd.cli import options, output, upload
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from vta_ext.boards import Board
    from vta_ext.boards.flow import Report

HELP = "Build the accelerator for a board, or run an artifact there."

STAGES = ("report", "bitstream")


def command(
    artifact: Annotated[
        Path | None,
        typer.Argument(
            help="An artifact to send to the board and run there, compared with the simulator; "
            "without one the board's hardware is built."
        ),
    ] = None,
    *,
    board: Annotated[
        str, typer.Option(help="ulx3s-85f, ulx3s-85f-sdram, ulx3s-85f-small, pynq or ultra96.")
    ],
    stage: Annotated[
        str | None,
        typer.Option(
            help="report (the default), or bitstream: the report and the file for the FPGA."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder of results and logs; finished stages in it are reused."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the placement; 1 by default.", min=0)
    ] = None,
    port: Annotated[
        str | None,
        typer.Option("--port", help="DEVICE[,BAUD]: the serial port that the board is at."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--input", help=".npz with an array for each input; default: random."),
    ] = None,
    time_limit: options.TimeLimit = None,
    rpc: options.Rpc = None,
    key: options.Key = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Check the words; build, minutes for a board that is placed and routed, or upload; print."""
    from vta_ext import boards

    chosen = boards.board(board)
    building = {"--stage": stage, "--output": folder, "--seed": seed}
    running = {"--port": port, "--input": inputs, "--time-limit": time_limit}
    running |= {"--rpc": rpc, "--key": key}
    wrong, whose = (running, "with") if artifact is None else (building, "without")
    said = [name for name, value in wrong.items() if value is not None]
    if said:
        raise InputError(f"{', '.join(said)}: for deploy {whose} an ARTIFACT")
    if artifact is None:
        _build(chosen, stage or STAGES[0], folder, seed, json)
    else:
        _upload(chosen, upload.Config(artifact, inputs, port, time_limit, rpc, key), json)
    return 0


def _upload(board: Board, config: upload.Config, json: bool) -> None:
    with output.clean_stdout(json):
        result = upload.upload(board, config)
    if json:
        output.print_json(result.to_dict())
        return
    each, plural = result.milliseconds, "s" * (result.images > 1)
    output.print_lines(
        f"{result.model} on {result.board} at {result.device}: {result.program_bytes:,} bytes sent "
        f"in {result.upload_seconds:.1f} s, {result.images} image{plural} run in "
        f"{result.run_seconds:.1f} s with their transfers; results equal to the simulator's."
    )
    if each is not None:
        output.print_lines(f"{each:.3f} ms an image on the accelerator at {result.clock_mhz} MHz.")
    output.print_counted(result.counted)


def _build(chosen: Board, stage: str, folder: Path | None, seed: int | None, json: bool) -> None:
    from vta_ext.boards import flow

    if stage not in STAGES:
        raise InputError(f"expected --stage {' or '.join(STAGES)}, got {stage!r}")
    target = folder or Path("build") / chosen.name
    with output.clean_stdout(json), output.progress() as progress:
        report = flow.build(chosen, target, stage == "bitstream", progress, seed)
    if json:
        output.print_json({**report.to_dict(), "folder": str(target)})
    else:
        _print(report, target)


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
