"""What a row of the matrix unit costs, and the serial bridge: cells of an ECP5 by yosys.

Every variant has the same registers (inputs, weights, products, each level of the tree, a 32-bit
accumulator) and the same flow; a multiplier's look-up tables come from yosys's Booth encoding,
which is the smaller one of what it offers.

    python -m vta_ext.rtl.area
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import DeviceError
from vta_ext.rtl import tools
from vta_ext.rtl.bridge import Bridge
from vta_ext.rtl.elements import INPUT_BITS
from vta_ext.rtl.matrix import Row


class AccumulatingRow(wiring.Component):
    """A row with registers in front of it and an accumulator behind it, for synthesis alone."""

    def __init__(self, modes: tuple[str, ...], log_block: int = 4) -> None:
        self.row = Row(modes, log_block, 4 if modes == ("shift",) else 8)
        super().__init__(
            {
                "inputs": In(INPUT_BITS << log_block),
                "weights": In(self.row.bits << log_block),
                "select": In(len(self.row.select)),
                "clear": In(1),
                "acc": Out(signed(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.row = row = self.row
        inputs = Signal.like(self.inputs, reset_less=True)
        weights = Signal.like(self.weights, reset_less=True)
        m.d.sync += [inputs.eq(self.inputs), weights.eq(self.weights)]
        m.d.comb += [row.inputs.eq(inputs), row.weights.eq(weights), row.select.eq(self.select)]
        m.d.sync += self.acc.eq(Mux(self.clear, 0, self.acc) + row.total + row.carry)
        return m


@dataclass(frozen=True)
class Area:
    """Cells of an ECP5. ``luts``: four-input look-up tables, each half of a carry cell as one."""

    luts: int
    registers: int
    multipliers: int


def find_yosys() -> str:
    """The command; see :func:`vta_ext.rtl.tools.find`."""
    return tools.find("yosys")


def row_area(modes: tuple[str, ...], log_block: int = 4) -> Area:
    """The area of one row of these modes; see :func:`area`."""
    booth = "booth; opt; " if "multiply" in modes else ""
    return area(AccumulatingRow(modes, log_block), f"flatten; opt; wreduce; {booth}")


def area(component: wiring.Component, steps: str = "") -> Area:
    """The area of a component; ``steps``: yosys's commands before synthesis.

    Raises DependencyError where yosys is missing and DeviceError where it fails.
    """
    tool = find_yosys()
    text = verilog.convert(component, name="top", strip_internal_attrs=True, emit_src=False)
    script = (
        f"read_verilog top.v; hierarchy -top top; proc; {steps}"
        "synth_ecp5 -nodsp -nowidelut -top top; tee -q -o cells.json stat -json"
    )
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as name:
        folder = Path(name)
        (folder / "top.v").write_text(text)
        done = subprocess.run(
            [tool, "-q", "-p", script], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DeviceError(f"yosys failed: {(done.stderr or done.stdout)[-1000:]}")
        cells = json.loads((folder / "cells.json").read_text())["design"]["num_cells_by_type"]
    return Area(
        luts=cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0),
        registers=cells.get("TRELLIS_FF", 0),
        multipliers=cells.get("MULT18X18D", 0),
    )


def main() -> None:
    """Print the areas of rows of 16 elements, beside the multiplier's, and the bridge's."""
    booth = row_area(("multiply",))
    print(f"{'row of 16':16}{'LUT':>7}{'of multiply':>13}{'registers':>11}{'DSP':>5}")
    for modes in (("multiply",), ("shift",), ("adder",), ("shift", "adder")):
        found = booth if modes == ("multiply",) else row_area(modes)
        share = found.luts / booth.luts
        print(
            f"{'+'.join(modes):16}{found.luts:7}{share:13.2f}{found.registers:11}"
            f"{found.multipliers:5}",
            flush=True,
        )
    bridge = area(Bridge(80_000_000, 1 << 16))
    print(f"{'serial bridge':16}{bridge.luts:7}{'':13}{bridge.registers:11}{bridge.multipliers:5}")


if __name__ == "__main__":
    main()
