"""``tvm-shiftadd isa``: programs of the accelerator as text, the ISA's pages, and the checker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from vta_ext.config import Config as MachineConfig
    from vta_ext.program import Program

HELP = "Assemble, disassemble, check accelerator programs."

app = typer.Typer(help=HELP, rich_markup_mode=None, no_args_is_help=True)

#: A command's own lines end here, so that text goes to a file or to standard output as it is.
Out = Annotated[Path | None, typer.Option("-o", "--output", help="The file that is written.")]
Machine = Annotated[
    str | None,
    typer.Option("--config", help="The machine: a preset's name or a configuration's JSON file."),
]
ProgramFile = Annotated[Path, typer.Argument(help="A program: a .vta file, or its text.")]


@app.command(help="Make a program from its text.")
def asm(
    source: Annotated[Path, typer.Argument(help="The program as text.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The .vta file that is written.")],
    config: Machine = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read text, assemble, write."""
    program = _assemble(_read(source), source, config)
    data = program.to_bytes()
    target.write_bytes(data)
    _say({"output": str(target), "bytes": len(data), **_summary(program)}, json)


@app.command(help="Show a program as text.")
def disasm(
    source: Annotated[Path, typer.Argument(help="A .vta file.")],
    target: Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, disassemble, write or print."""
    from vta_ext import listing
    from vta_ext.program import Program

    program = Program.load(source)
    _deliver(listing.to_text(program), target, json, _summary(program))


@app.command(help="Write the instruction set: Markdown, C header, JSON.")
def doc(
    config: Machine = None,
    form: Annotated[str, typer.Option("--format", help="markdown, c or rtl.")] = "markdown",
    target: Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Generate, write or print. Without --config it is the machine that has every extension."""
    from vta_ext import presets
    from vta_ext.isa import generators

    machine = presets.SHIFT_ADDER if config is None else _machine(config)
    forms: dict[str, Callable[[MachineConfig], str]] = {
        "markdown": generators.markdown,
        "c": generators.c_header,
        "rtl": generators.rtl_json,
    }
    if form not in forms:
        raise InputError(f"expected --format {', '.join(forms)}, got {form!r}")
    _deliver(forms[form](machine), target, json, {"config": machine.hash, "format": form})


@app.command(help="Prove that a program is safe to run, or say why not.")
def check(
    source: ProgramFile,
    config: Machine = None,
    overflow: Annotated[
        bool,
        typer.Option("--overflow", help="Prove, too, that sums fit 32 bits for any input."),
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Check, print; 1 if there is a violation."""
    from vta_ext import checker

    program = _load(source, config)
    found = checker.check(program, {} if overflow else None)
    result = {
        **_summary(program),
        "safe": not found,
        "violations": [
            {"rule": v.rule, "position": v.position, "text": v.text, "message": v.message}
            for v in found
        ],
    }
    if json:
        output.print_json(result)
    elif found:
        output.print_lines(*(str(violation) for violation in found))
    else:
        output.print_lines(f"{source}: {len(program.instructions)} instructions, safe to run.")
    return 1 if found else 0


def _machine(name: str) -> MachineConfig:
    """The configuration of a preset or a JSON file. Raises InputError."""
    from vta_ext import config, presets

    if name in presets.PRESETS:
        return presets.preset(name).config
    if Path(name).exists():
        return config.load(name)
    raise InputError(
        f"expected --config with a JSON file or one of {', '.join(presets.PRESETS)}, got {name!r}"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _assemble(data: bytes, path: Path, config: str | None) -> Program:
    from vta_ext import listing

    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is neither a program nor text in UTF-8") from None
    try:
        return listing.from_text(text, None if config is None else _machine(config))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load(path: Path, config: str | None) -> Program:
    """A program from its file or its text."""
    from vta_ext.program import MAGIC, Program

    data = _read(path)
    return Program.load(path) if data.startswith(MAGIC) else _assemble(data, path, config)


def _summary(program: Program) -> dict[str, Any]:
    return {
        "config": program.config.hash,
        "instructions": len(program.instructions),
        "sections": len(program.sections),
        "dram_bytes": program.dram_bytes,
    }


def _deliver(text: str, target: Path | None, json: bool, summary: dict[str, Any]) -> None:
    """Write a text to a file and say so, or to standard output as it is."""
    import sys

    if target is not None:
        target.write_text(text, encoding="utf-8")
        _say({"output": str(target), **summary}, json)
    elif json:
        output.print_json({"text": text, **summary})
    else:
        sys.stdout.write(text)


def _say(result: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(result)
    else:
        output.print_lines(", ".join(f"{name} {value}" for name, value in result.items()))
