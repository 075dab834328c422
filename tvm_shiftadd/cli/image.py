"""``tvm-shiftadd image``: an artifact as one file that the C runtime runs on bare metal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

HELP = "Make an artifact an image for the C runtime on bare metal."


@dataclass(frozen=True)
class Config:
    """One call of ``image``."""

    artifact: Path
    target: Path
    header: Path | None


def command(
    artifact: Annotated[Path, typer.Argument(help="An artifact of the accelerator.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The image that is written.")],
    header: Annotated[
        Path | None,
        typer.Option("--header", help="Also write a C header with its sizes and numbers."),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, make, write, print."""
    found = _make(Config(artifact, target, header))
    if json:
        output.print_json(found)
    else:
        output.print_lines(", ".join(f"{name} {value}" for name, value in found.items()))


def _make(config: Config) -> dict[str, Any]:
    from tvm_shiftadd.artifact import Artifact
    from vta_ext.bare.make import c_header, make

    loaded = Artifact.load(config.artifact)
    if loaded.regions is None:
        raise InputError("the artifact is for the CPU alone; compile the model with --target vta")
    inputs, outputs = ([one.name for one in some] for some in (loaded.inputs, loaded.outputs))
    named = make(loaded.regions, inputs, outputs)
    data = named.image.to_bytes()
    config.target.write_bytes(data)
    if config.header is not None:
        config.header.write_text(c_header(named, config.header.stem), encoding="utf-8")
    return {
        "output": str(config.target),
        "bytes": len(data),
        "crc": f"{named.image.crc:08x}",
        "arena_bytes": named.image.arena_bytes,
        "instructions": named.image.count,
        "configuration": named.image.hash,
    }
