"""What commands print: one JSON object, or tables for people; progress on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.errors import ShiftAddError

if TYPE_CHECKING:
    from rich.console import Console

    from tvm_shiftadd.bench.results import Table

#: Told the phase, how much of it is done, and the total (0: not known).
Progress = Callable[[str, int, int], None]

#: Columns where the output is not a terminal, so that names are not cut at 80.
_PIPE_WIDTH = 140


def print_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object and a line end to standard output."""
    from tvm_shiftadd import _json

    try:
        sys.stdout.write(_json.encode(value).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would try once more, and complain, when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ShiftAddError(
            f"the work is done, but standard output took no result: {error.strerror}"
        ) from error


@contextmanager
def clean_stdout(wanted: bool) -> Iterator[None]:
    """Send what libraries print to standard error while work is done, also from native code."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:
        # Standard output is closed: nothing can get onto it.
        yield
        return
    os.dup2(2, 1)
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        os.dup2(saved, 1)
        os.close(saved)


def console(error: bool = False) -> Console:
    """A rich console on standard output, or on standard error."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: int = 1
) -> None:
    """Print a table; the columns from number ``right`` on hold numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number >= right else "left", overflow="fold")
    for row in rows:
        # Text, because a layer's name may look like rich's markup.
        table.add_row(*(Text(cell(value)) for value in row))
    console().print(table)


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables of measurements with their notes."""
    for table in tables:
        print_table(table.title, table.columns, table.rows, table.right)
        print_lines(*table.notes)


def print_counted(counted: Mapping[str, int]) -> None:
    """Print what a device counted, in all and a launch; nothing where it counted nothing."""
    launches = counted.get("launches", 0)
    if launches:
        rows = [[name.replace("_", " "), n, n // launches] for name, n in counted.items()]
        print_table("On the device", ["", "in all", "a launch"], rows)


def print_lines(*lines: str) -> None:
    """Print text as it is: brackets in it are not rich's markup, and paths are not wrapped."""
    shown = console()
    for line in lines:
        shown.print(line, markup=False, soft_wrap=True)


def cell(value: object) -> str:
    """A value as a table shows it: thousands separated, a dash for nothing, two decimals."""
    from tvm_shiftadd.bench import results

    return f"{value:,.2f}" if isinstance(value, float) else results.text(value)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar for each phase on standard error; nothing where that is not a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = console(error=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total or None)
            bars.update(tasks[phase], completed=done, total=total or None)

        yield tell
