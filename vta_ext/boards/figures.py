"""The figures of the hardware that tools give, measured and put into the documentation.

python -m vta_ext.boards.figures --output build/figures --docs docs

A table stands in its page between two marks and is written as soon as it is there. What was
finished in the folder before, for the same design and tools, is not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import InputError
from vta_ext.boards import BOARDS, BOOTH, DSP, Board, board, flow
from vta_ext.boards.stages import Stage, Workshop
from vta_ext.rtl import area, tools

#: Tables that stand in pages; and all there are, of which the others are printed.
PAGES: Final = {"cells": "boards.md", "rows": "rtl.md", "energy": "rtl.md"}
TABLES: Final = (*PAGES, "routed")
_KINDS: Final = {"": "", BOOTH: "Booth multipliers", DSP: "multipliers of DSPs"}


def filled(text: str, name: str, table: str) -> str:
    """A page with ``table`` between the marks of that name. Raises InputError without marks."""
    begin, end = f"<!-- figures: {name} -->\n", "<!-- end of figures -->"
    if text.count(begin) != 1:
        raise InputError(f"expected the line {begin.strip()!r} once in the page")
    head, rest = text.split(begin)
    if end not in rest:
        raise InputError(f"expected the line {end!r} after {begin.strip()!r}")
    return f"{head}{begin}\n{table.strip()}\n\n{rest[rest.index(end) :]}"


def cells(folder: Path, names: Sequence[str], tell: flow.Tell) -> str:
    """Machines beside their baselines, after synthesis; see :func:`vta_ext.boards.flow.count`."""
    lines = ["| machine | LUT | of Booth's | LUT as memory | FF | DSP | BRAM |", "|" + "---|" * 7]
    for name in names:
        own = board(name)
        found = {
            kind: flow.count(made, folder / made.name, _told_of(made.name, tell))[0]
            for kind in _KINDS
            for made in (own.multiplying(kind) if kind else own,)
        }
        base = _tables(found[BOOTH])
        lines += [_cells_line(own, kind, used, base) for kind, used in found.items()]
    return "\n".join(lines)


def _told_of(name: str, tell: flow.Tell) -> flow.Tell:
    """``tell`` for one of several machines."""
    return lambda what, done, count: tell(f"{name}: {what}", done, count)


def _tables(used: Mapping[str, float]) -> float:
    return used["LUT"] + used["LUT as memory"]


def _cells_line(own: Board, kind: str, used: Mapping[str, float], base: float) -> str:
    what = _KINDS[kind] or f"{' and '.join(own.config.gemm_modes)} units"
    memory = next(value for name, value in used.items() if name.startswith("BRAM"))
    return (
        f"| `{own.name}`: {own.config.block} x {own.config.block} {what} | {used['LUT']:,.0f} "
        f"| {_tables(used) / base:.2f} | {used['LUT as memory']:,.0f} | {used['FF']:,.0f} "
        f"| {used['DSP']:,.0f} | {memory:,g} |"
    )


def routed(folder: Path, names: Sequence[str], tell: flow.Tell) -> str:
    """Systems after placement and routing, and how long that took."""
    lines = ["| system | LUT | FF | DSP | BRAM | MHz | wanted | minutes |", "|" + "---|" * 8]
    for name in names:
        made = board(name)
        if not made.routed:
            raise InputError(f"{name} is not placed here; leave it out of --route")
        report = flow.build(made, folder / name, False, tell)
        used = " | ".join(
            f"{report.resources[kind].used:,.0f} of {report.resources[kind].available or 0:,}"
            for kind in ("LUT", "FF", "DSP", "BRAM")
        )
        minutes = sum(stage.seconds for stage in report.stages) / 60
        lines.append(
            f"| `{name}` | {used} | {report.fmax_mhz} | {report.target_mhz} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def rows(folder: Path, tell: flow.Tell) -> str:
    """Rows of the matrix unit beside the multiplier's; see :mod:`vta_ext.rtl.area`."""
    from vta_ext.rtl.rows import VARIANTS, AccumulatingRow, preparation, to_verilog

    lines = ["| row | LUT | of the multiplier | registers |", "|" + "---|" * 4]
    first: area.Area | None = None
    for number, modes in enumerate(VARIANTS):
        tell("row of " + " and ".join(modes), number, len(VARIANTS))
        with Workshop(folder / ("row-" + "-".join(modes))) as workshop:
            workshop.write("top.v", to_verilog(AccumulatingRow(modes)))
            script = area.script(preparation(modes))
            workshop.run(
                Stage("synthesis", "yosys", ("-q", "-p", script), ("top.v",), ("cells.json",))
            )
            found = area.counted((workshop.folder / "cells.json").read_text(encoding="utf-8"))
        first = first or found
        name = " and ".join(modes) + (" (Booth)" if modes == ("multiply",) else "")
        share = found.luts / first.luts
        lines.append(f"| {name} | {found.luts:,} | {share:.2f} | {found.registers:,} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and print it or put it into pages."""
    parser = argparse.ArgumentParser(description="Measure the hardware's figures with the tools.")
    parser.add_argument("--output", type=Path, default=Path("build/figures"), help="a folder")
    parser.add_argument("--docs", type=Path, help="the folder of the pages; printed by default")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["cells", "rows"])
    parser.add_argument("--boards", nargs="+", choices=list(BOARDS), default=list(BOARDS))
    parser.add_argument("--route", nargs="+", choices=list(BOARDS), default=["ulx3s-85f-small"])
    parser.add_argument("--liberty", type=Path, help="cells, for table energy")
    parser.add_argument("--weights", type=Path, help="weights.safetensors of a CPU artifact")
    given = parser.parse_args(arguments)
    with tools.explained(parser):
        if "energy" in given.tables and given.liberty is None:
            raise InputError("table energy needs --liberty FILE")
        tools.require("amaranth")
        for name in given.tables:
            _put(name, _measured(name, given), given.docs)


def _measured(name: str, given: argparse.Namespace) -> str:
    def tell(stage: str, done: int, count: int) -> None:
        print(f"{name}: {stage} ({done} of {count})", file=sys.stderr, flush=True)

    def energy() -> str:
        from vta_ext.rtl.energy.measure import table

        return "\n".join(table(given.liberty, given.weights))

    measures: dict[str, Callable[[], str]] = {
        "cells": lambda: cells(given.output, given.boards, tell),
        "routed": lambda: routed(given.output, given.route, tell),
        "rows": lambda: rows(given.output, tell),
        "energy": energy,
    }
    return measures[name]()


def _put(name: str, table: str, docs: Path | None) -> None:
    if docs is None or name not in PAGES:
        print(table, flush=True)
        return
    page = docs / PAGES[name]
    page.write_text(filled(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")
    print(f"table {name} is in {page}", flush=True)


if __name__ == "__main__":
    main()
