"""What a row of the matrix unit costs, and the serial bridge: cells of an ECP5 by yosys.

Every variant has the same registers (inputs, weights, products, each level of the tree but the
first, a 32-bit accumulator) and the same flow; a multiplier's look-up tables come from yosys's
Booth encoding, which is the smaller one of what it offers.

    python -m vta_ext.rtl.area
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_shiftadd.errors import DeviceError
from vta_ext.rtl import tools

if TYPE_CHECKING:
    from amaranth.lib import wiring


@dataclass(frozen=True)
class Area:
    """Cells of an ECP5. ``luts``: four-input look-up tables, each half of a carry cell as one."""

    luts: int
    registers: int
    multipliers: int


def row_area(modes: tuple[str, ...], log_block: int = 4) -> Area:
    """The area of one row of these modes; see :func:`area`."""
    from vta_ext.rtl.rows import AccumulatingRow, preparation

    return area(AccumulatingRow(modes, log_block), preparation(modes))


def area(component: wiring.Component, steps: str = "") -> Area:
    """The area of a component; ``steps``: yosys's commands before synthesis.

    Raises DependencyError where yosys is missing and DeviceError where it fails.
    """
    from vta_ext.rtl.rows import to_verilog

    tool = tools.find("yosys")
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as name:
        folder = Path(name)
        (folder / "top.v").write_text(to_verilog(component))
        done = subprocess.run(
            [tool, "-q", "-p", script(steps)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DeviceError(f"yosys failed: {(done.stderr or done.stdout)[-1000:]}")
        return counted((folder / "cells.json").read_text())


def script(steps: str) -> str:
    """yosys's commands from ``top.v`` to ``cells.json``, with ``steps`` before synthesis."""
    return (
        f"read_verilog top.v; hierarchy -top top; proc; {steps}"
        "synth_ecp5 -nodsp -nowidelut -top top; tee -q -o cells.json stat -json"
    )


def counted(text: str) -> Area:
    """The area that is in ``cells.json``."""
    cells = json.loads(text)["design"]["num_cells_by_type"]
    return Area(
        luts=cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0),
        registers=cells.get("TRELLIS_FF", 0),
        multipliers=cells.get("MULT18X18D", 0),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the areas of rows of 16 elements, beside the multiplier's, and the bridge's."""
    parser = argparse.ArgumentParser(description="Print what rows of the matrix unit cost.")
    parser.parse_args(arguments)
    with tools.explained(parser):
        tools.require("amaranth")
        tools.find("yosys")
        _print()


def _print() -> None:
    from vta_ext.rtl.bridge import Bridge
    from vta_ext.rtl.rows import VARIANTS

    print(f"{'row of 16':16}{'LUT':>7}{'of multiply':>13}{'registers':>11}{'DSP':>5}")
    booth: Area | None = None
    for modes in VARIANTS:
        found = row_area(modes)
        booth = booth or found
        print(
            f"{'+'.join(modes):16}{found.luts:7}{found.luts / booth.luts:13.2f}"
            f"{found.registers:11}{found.multipliers:5}",
            flush=True,
        )
    bridge = area(Bridge(80_000_000, 1 << 16))
    print(f"{'serial bridge':16}{bridge.luts:7}{'':13}{bridge.registers:11}{bridge.multipliers:5}")


if __name__ == "__main__":
    main()
