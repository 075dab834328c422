"""The list of commands, and what becomes of an error: one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from tvm_shiftadd import __version__
from tvm_shiftadd.cli import (
    bench,
    compile,
    demo,
    deploy,
    doctor,
    eval,
    explain,
    image,
    isa,
    options,
    profile,
    report,
    run,
    serve,
    tune,
)
from tvm_shiftadd.errors import InputError, ShiftAddError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_NAME = "tvm-shiftadd"

#: Typer's own errors about usage; it does not export their common base.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name=_NAME,
    help="Compile trained networks to shift-and-add form.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{_NAME} {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


_COMMANDS = (
    *(compile, run, eval, tune, bench, profile, explain, report),
    *(image, serve, deploy, doctor, demo),
)
for _module in _COMMANDS:
    app.command(_module.__name__.rpartition(".")[2], help=_module.HELP)(_module.command)
app.add_typer(isa.app, name="isa")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :func:`tvm_shiftadd.cli.main`."""
    options.reset()
    _open_missing_streams()
    with _noticed_interrupt() as interrupted:
        try:
            return _invoke(list(sys.argv[1:] if arguments is None else arguments))
        except typer.Exit as done:
            return int(done.exit_code)
        except BaseException as error:
            if interrupted or isinstance(error, (KeyboardInterrupt, typer.Abort)):
                return _say("interrupted", INTERRUPTED)
            if not isinstance(error, Exception):
                raise
            return _explain(error)


def _open_missing_streams() -> None:
    """Where a standard stream was closed (``>&-``), write to nowhere.

    Otherwise the next file that is opened would take its place.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


@contextmanager
def _noticed_interrupt() -> Iterator[list[int]]:
    """Note Ctrl-C in the list besides raising it.

    An exception that crosses TVM's native code may come back as another one, or without a word.
    """
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(error: Exception) -> int:
    """Print one sentence and return the exit code."""
    if isinstance(error, _UsageError):
        text: str = error.format_message()
        return _say(f"{text.rstrip('.')}; see {_NAME} --help", WRONG_INPUT)
    if isinstance(error, ShiftAddError):
        return _say(str(error), WRONG_INPUT if isinstance(error, InputError) else FAILED)
    if isinstance(error, BrokenPipeError):
        # The reader went away, as head does; Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, MemoryError):
        return _say("not enough memory; use a smaller model, fewer images or batches", FAILED)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        code = WRONG_INPUT if error.errno == errno.ENOSPC else FAILED
        return _say(f"{error.strerror or error}{place}", code)
    words = str(error).strip().splitlines() or ["no message"]
    hint = "run again with --debug and report it"
    return _say(f"internal error, {type(error).__name__}: {words[0]}; {hint}", FAILED)


def _invoke(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    if not arguments:
        arguments = ["--help"]
    with command.make_context(_NAME, arguments) as context:
        result = command.invoke(context)
    sys.stdout.flush()
    return result if isinstance(result, int) else DONE


def _say(message: str, code: int) -> int:
    if options.debug():
        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
