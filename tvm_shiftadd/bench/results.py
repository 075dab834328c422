"""Writing what was measured: a JSON file and a Markdown page, both with the machine named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_shiftadd import _json
from tvm_shiftadd._directory import whole_file
from tvm_shiftadd.errors import InputError


@dataclass(frozen=True)
class Table:
    """A table for people; the columns from number ``right`` on hold numbers. ``notes``: below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    right: int = 1
    notes: tuple[str, ...] = ()


def check(prefix: Path) -> None:
    """Raise InputError unless PREFIX.json and PREFIX.md can be written, before long work."""
    if not prefix.parent.is_dir() or prefix.is_dir() or not prefix.name:
        raise InputError(
            f"expected --output to begin the names of two files in an existing folder, got {prefix}"
        )


def write(
    prefix: Path, title: str, report: Mapping[str, Any], tables: Sequence[Table]
) -> tuple[Path, Path]:
    """Write PREFIX.json with ``report`` and PREFIX.md with the tables; returns both paths.

    ``report`` must hold the "machine", as ``Machine.to_dict`` gives it. Files that were there are
    replaced when both new ones are whole. Raises InputError where they cannot be written.
    """
    check(prefix)
    data, page = (prefix.with_name(prefix.name + ending) for ending in (".json", ".md"))
    encoded = _json.encode_indented(report), markdown(title, report["machine"], tables).encode()
    try:
        with whole_file(data) as json_file, whole_file(page) as page_file:
            for file, content in zip((json_file, page_file), encoded, strict=True):
                file.write(content)
                # A full disk says so here, before either takes its place.
                file.flush()
    except OSError as error:
        raise InputError(f"{prefix} cannot be written: {error.strerror or error}") from error
    return data, page


def markdown(title: str, machine: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The page: the machine, then each table with its notes."""
    parts = [f"# {title}", _machine(machine)]
    for table in tables:
        parts += [f"## {table.title}", _table(table), *table.notes]
    return "\n\n".join(parts) + "\n"


def text(value: object) -> str:
    """A value as the page shows it: a dash for nothing, four digits of a fraction."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    memory = machine["memory"]
    facts = [
        machine["processor"],
        f"{machine['cores']} cores",
        " ".join(machine["features"]) or "vector instructions not known",
        "" if memory is None else f"{memory / 2**30:.0f} GiB of memory",
        machine["system"],
        f"Python {machine['python']}",
        versions,
        machine["date"],
        "" if machine["load"] is None else f"load average {machine['load']} at the start",
    ]
    return "Measured on: " + "; ".join(fact for fact in facts if fact) + "."


def _table(table: Table) -> str:
    rule = [" --- " if i < table.right else " ---: " for i in range(len(table.columns))]
    rows = [[text(value).replace("|", r"\|") for value in row] for row in table.rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([*table.columns], *rows)]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])
