"""``tvm-shiftadd image``: an artifact as one file that the C runtime runs on bare metal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_shiftadd._directory import whole_file
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
    if header is not None and header.resolve() == target.resolve():
        raise InputError(f"the image and its header would both be {target}; name two files")
    found = _make(Config(artifact, target, header))
    if json:
        output.print_json(found)
    else:
        output.print_lines(", ".join(f"{name} {value}" for name, value in found.items()))


def _make(config: Config) -> dict[str, Any]:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.target.accelerator import kind_name
    from vta_ext.bare.make import c_header, make

    loaded = Artifact.load(config.artifact)
    if loaded.regions is None:
        where = kind_name(loaded.manifest.target.kind)
        raise InputError(
            f"the artifact is for the {where} alone; compile the model with --target vta"
        )
    inputs, outputs = ([one.name for one in some] for some in (loaded.inputs, loaded.outputs))
    named = make(loaded.regions, inputs, outputs)
    data = named.image.to_bytes()
    contents = {config.target: data}
    if config.header is not None:
        contents[config.header] = c_header(named, config.header.stem).encode()
    _write(contents)
    return {
        "output": str(config.target),
        "bytes": len(data),
        "crc": f"{named.image.crc:08x}",
        "arena_bytes": named.image.arena_bytes,
        "instructions": named.image.count,
        "configuration": named.image.hash,
    }


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write all files or none: an image and the header of another one would fit no program."""
    for target in contents:
        if target.is_dir():
            raise InputError(f"{target} is a directory; name a file")
    try:
        with ExitStack() as files:
            for target, data in contents.items():
                file = files.enter_context(whole_file(target))
                file.write(data)
                # A full disk shows now, before any file is in its place.
                file.flush()
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
