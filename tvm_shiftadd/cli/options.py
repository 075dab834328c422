"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvm_shiftadd.errors import InputError

_debug = False


def reset() -> None:
    """Forget the ``--debug`` of an earlier call in the same process."""
    _set_debug(False)


def debug() -> bool:
    """Whether ``--debug`` was given."""
    return _debug


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = value
    return value


def terms_of(text: str) -> int:
    """K of ``--terms``; raises :class:`InputError` unless it is 1, 2 or 3."""
    if text in ("1", "2", "3"):
        return int(text)
    if text == "auto":
        raise InputError("--terms auto is not there yet; choose 1, 2 or 3")
    raise InputError(f"expected --terms 1, 2 or 3, got {text!r}")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_set_debug, is_eager=True, help="Show the traceback of an error."
    ),
]
Target = Annotated[str, typer.Option("--target", help="cpu, cpu:generic or a target's JSON file.")]
Terms = Annotated[str, typer.Option("--terms", help="Most terms of a weight: 1, 2 or 3.")]
Spec = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="JSON file or text with any of scale, mean, std, bgr, grey, resize, reshape, "
        "label_offset, batch.",
    ),
]
Calib = Annotated[
    Path | None,
    typer.Option("--calib", help="Images to calibrate on: .npz, idx .gz, .zip or a folder."),
]
CalibLimit = Annotated[
    int | None, typer.Option("--calib-limit", help="Calibrate on the first N images only.")
]
