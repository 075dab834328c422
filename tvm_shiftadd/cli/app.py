"""The list of commands, and what becomes of an error: one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tvm_shiftadd import __version__
from tvm_shiftadd.cli import compile, demo, doctor, eval, explain, options, report, run
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


for _module in (compile, run, eval, explain, report, doctor, demo):
    app.command(_module.__name__.rpartition(".")[2], help=_module.HELP)(_module.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.

    Messages go to standard error, one sentence each; a traceback only with ``--debug``.
    """
    options.reset()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _invoke(given)
    except typer.Exit as done:
        return int(done.exit_code)
    except _UsageError as error:
        text = error.format_message().rstrip(".").replace("\n", " ")
        return _say(f"{text}; see {_NAME} --help", WRONG_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away, as head does; Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ShiftAddError as error:
        return _say(str(error), WRONG_INPUT if isinstance(error, InputError) else FAILED)
    except MemoryError:
        return _say("not enough memory; use a smaller model, fewer images or batches", FAILED)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        code = WRONG_INPUT if error.errno == errno.ENOSPC else FAILED
        return _say(f"{error.strerror or error}{place}", code)
    except Exception as error:
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
