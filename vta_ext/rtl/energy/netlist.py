"""Circuits in cells of a library: mapped by yosys and its ABC, read back as gates and nets."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tvm_shiftadd.errors import DependencyError, DeviceError
from vta_ext.rtl import tools
from vta_ext.rtl.energy.functions import Evaluate
from vta_ext.rtl.energy.liberty import Cell, Library, Pin

#: Nets of constants, before all others.
ZERO, ONE = 0, 1
_CONSTANTS: Final = {"0": ZERO, "x": ZERO, "z": ZERO, "1": ONE}


@dataclass(frozen=True)
class Gate:
    """``output`` is ``evaluate`` of the nets ``inputs``; ``pin``: the output of its cell."""

    evaluate: Evaluate
    inputs: tuple[int, ...]
    output: int
    pin: Pin


@dataclass(frozen=True)
class Register:
    """``output`` takes ``data`` at each rising edge of the clock."""

    data: int
    output: int
    pin: Pin
    clock: Pin


@dataclass(frozen=True)
class Netlist:
    """Nets are numbered; ``ports`` are those of the module, lowest bit first.

    loads: farad of the pins that each net drives. area: the sum over all cells.
    """

    nets: int
    ports: Mapping[str, tuple[int, ...]]
    gates: tuple[Gate, ...]
    registers: tuple[Register, ...]
    loads: tuple[float, ...]
    area: float


def native_yosys() -> str:
    """yosys itself on the PATH: the package's cannot start ABC for cells.

    Raises DependencyError that says how to get it.
    """
    found = shutil.which("yosys")
    if found is None:
        raise DependencyError(
            "mapping to cells needs yosys itself, which is not on the PATH (that of the extra rtl "
            "has no ABC for cells): install your system's package, for instance apt install yosys"
        )
    return found


def mapped(verilog: str, preparation: str, library: Path, cells: Library) -> Netlist:
    """The netlist of module ``top``; ``preparation``: yosys's commands before synthesis.

    Two yosys: the newer one of the package knows Booth's encoding, the system's has ABC. Raises
    DependencyError where one is missing, DeviceError where one fails.
    """
    generic, native = tools.find("yosys"), native_yosys()
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as name:
        folder = Path(name)
        (folder / "top.v").write_text(verilog)
        shutil.copyfile(library, folder / "cells.lib")
        _run(
            generic,
            f"read_verilog top.v; hierarchy -top top; proc; {preparation}"
            "synth -noabc -flatten -top top; opt -full; clean; write_verilog -noattr gates.v",
            folder,
        )
        _run(
            native,
            "read_verilog gates.v; synth -flatten -noabc -top top; dfflibmap -liberty cells.lib; "
            "abc -liberty cells.lib; opt_clean -purge; write_json mapped.json",
            folder,
        )
        module = json.loads((folder / "mapped.json").read_text())["modules"]["top"]
    return _netlist(module, cells)


def _run(tool: str, script: str, folder: Path) -> None:
    done = subprocess.run(
        [tool, "-q", "-p", script], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DeviceError(f"yosys failed: {(done.stderr or done.stdout).strip()[-1000:]}")


def _netlist(module: dict[str, Any], library: Library) -> Netlist:
    """The module of yosys's JSON; its bits are numbers from 2 on, or constants."""

    def net(bit: int | str) -> int:
        return _CONSTANTS[bit] if isinstance(bit, str) else bit

    gates: list[Gate] = []
    registers: list[Register] = []
    loads: dict[int, float] = {}
    area = 0.0
    for placed in module["cells"].values():
        cell = library.cells.get(placed["type"])
        if cell is None:
            raise DeviceError(
                f"yosys left a {placed['type']!r:.60}, which the cell library does not have"
            )
        area += cell.area
        nets = {name: net(bits[0]) for name, bits in placed["connections"].items() if bits}
        for pin in cell.pins.values():
            if not pin.output and pin.name in nets:
                loads[nets[pin.name]] = loads.get(nets[pin.name], 0.0) + pin.capacitance
        if cell.clock:
            registers.append(_register(cell, nets))
        else:
            gates += _gates(cell, nets)
    ports = {
        name: tuple(net(bit) for bit in port["bits"]) for name, port in module["ports"].items()
    }
    used = {ONE, *loads, *(gate.output for gate in gates), *(r.output for r in registers)}
    count = 1 + max(used | {bit for bits in ports.values() for bit in bits})
    return Netlist(
        nets=count,
        ports=ports,
        gates=tuple(gates),
        registers=tuple(registers),
        loads=tuple(loads.get(number, 0.0) for number in range(count)),
        area=area,
    )


def _register(cell: Cell, nets: Mapping[str, int]) -> Register:
    outputs = [pin for pin in cell.pins.values() if pin.output and pin.name in nets]
    if len(outputs) != 1 or outputs[0].function is not None:
        raise DeviceError(f"register {cell.name} has another output than one of its state")
    return Register(nets[cell.data], nets[outputs[0].name], outputs[0], cell.pins[cell.clock])


def _gates(cell: Cell, nets: Mapping[str, int]) -> list[Gate]:
    """A gate for each output of a cell."""
    found = []
    for pin in cell.pins.values():
        if pin.output and pin.name in nets:
            if pin.function is None:
                raise DeviceError(f"cell {cell.name} has no function that can be simulated")
            inputs = tuple(nets[name] for name in pin.function.pins)
            found.append(Gate(pin.function.evaluate, inputs, nets[pin.name], pin))
    return found
