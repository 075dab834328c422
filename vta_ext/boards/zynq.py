"""A Zynq board's project for Vivado: Verilog, and Tcl that packages it and makes the bitstream.

python -m vta_ext.boards.zynq --board pynq --output project

Vivado is not among this project's tools: what is written here was checked, and never run in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import InputError
from vta_ext import presets
from vta_ext.boards import board
from vta_ext.boards import zynq_tcl as tcl
from vta_ext.rtl import tools


@dataclass(frozen=True)
class Zynq:
    """What a board's project needs beyond :class:`vta_ext.boards.Board`."""

    processor: tcl.Processor
    #: The preset whose register_base the registers have.
    preset: str
    #: Bytes of DRAM from address 0 on.
    dram_bytes: int


BOARDS: Final = {
    "pynq": Zynq(tcl.ZYNQ_7000, "pynq", 512 << 20),
    "ultra96": Zynq(tcl.ULTRASCALE, "ultra96", 2 << 30),
}


def write(name: str, folder: Path, clock_mhz: int | None = None) -> tuple[Path, ...]:
    """Write vta_axi.v, package.tcl and design.tcl of a board into ``folder``.

    ``clock_mhz``: of the machine, the board's by default. Raises InputError for another board or a
    clock that is not positive, DependencyError without Amaranth, OSError for an unusable folder.
    """
    if name not in BOARDS:
        raise InputError(f"expected one of the boards {', '.join(BOARDS)}, got {name!r}")
    zynq, known = BOARDS[name], board(name)
    clock = known.clock_mhz if clock_mhz is None else clock_mhz
    if clock < 1:
        raise InputError(f"expected a clock of 1 MHz or more, got {clock}")
    tools.require("amaranth")
    from vta_ext.boards.zynq_wrapper import to_verilog

    base = presets.preset(zynq.preset).register_base
    assert base is not None
    files = {
        f"{tcl.TOP}.v": to_verilog(known.config, known.memory_bits),
        "package.tcl": tcl.package(known.part),
        "design.tcl": tcl.design(
            zynq.processor, known.part, clock, known.memory_bits, base, zynq.dram_bytes
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return tuple(folder / file for file in files)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a board's project."""
    parser = argparse.ArgumentParser(description="Write a Zynq board's project for Vivado.")
    parser.add_argument("--board", choices=list(BOARDS), required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--clock", type=int, help="MHz of the machine; the board's by default")
    given = parser.parse_args(arguments)
    with tools.explained(parser):
        for path in write(given.board, given.output, given.clock):
            print(path)


if __name__ == "__main__":
    main()
