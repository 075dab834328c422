"""Energy of a row: its netlist is simulated, its sums are checked, its changes are added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvm_shiftadd.errors import DeviceError
from vta_ext.rtl.energy import operands
from vta_ext.rtl.energy.activity import Activity, Simulator
from vta_ext.rtl.energy.liberty import Library, load
from vta_ext.rtl.energy.netlist import Netlist, mapped
from vta_ext.rtl.energy.operands import Operands
from vta_ext.rtl.rows import VARIANTS, AccumulatingRow, preparation, to_verilog


@dataclass(frozen=True)
class Energy:
    """Joule: of nets' loads, of the cells themselves, and of the clock with its pins."""

    switching: float
    internal: float
    clock: float

    @property
    def total(self) -> float:
        return self.switching + self.internal + self.clock


@dataclass(frozen=True)
class RowEnergy:
    """Of one multiplication or what stands for it, with its share of the row.

    area: of the whole row, in the library's unit. settled: without glitches; whole: with those of
    gates that all take equally long.
    """

    modes: tuple[str, ...]
    mode: str
    area: float
    settled: Energy
    whole: Energy


def row_energies(
    modes: tuple[str, ...], path: Path, library: Library, given: Operands
) -> list[RowEnergy]:
    """The row of these modes, of as many elements as there are operands, in each of them.

    Raises DependencyError or DeviceError where tools are missing or fail, DeviceError too where the
    netlist's sums are wrong.
    """
    lanes, cycles, block = given.inputs.shape
    row = AccumulatingRow(modes, block.bit_length() - 1)
    netlist = mapped(to_verilog(row), preparation(modes), path, library)
    found = []
    for select, mode in enumerate(modes):
        activity = simulate(netlist, row, select, mode, given)
        done = lanes * cycles * block
        found.append(
            RowEnergy(
                modes,
                mode,
                netlist.area,
                _energy(netlist, library, activity.settled, lanes * cycles, done),
                _energy(netlist, library, activity.all, lanes * cycles, done),
            )
        )
    return found


def simulate(
    netlist: Netlist, row: AccumulatingRow, select: int, mode: str, given: Operands
) -> Activity:
    """What changes while the row adds up ``given``; raises DeviceError if a sum is wrong."""
    lanes, cycles, _ = given.inputs.shape
    bits, values = operands.as_mode(given.weights, mode)
    sums = operands.expected(given.inputs, values, mode)
    simulator = Simulator(netlist, lanes)

    def ports(cycle: int) -> dict[str, list[int]]:
        # The pipeline is filled with the first cycles, which come again.
        at = cycle % cycles
        return operands.stimulus(
            given.inputs[:, at], bits[:, at], row.row.bits, select, simulator.mask
        )

    def accumulators() -> operands.Ints:
        return operands.number(simulator.port("acc"), lanes)

    for cycle in range(row.latency):
        simulator.cycle(ports(cycle))
    before = accumulators()
    activity = simulator.measure(ports(row.latency + cycle) for cycle in range(cycles))
    if (accumulators() - before != sums.sum(1)).any():
        raise DeviceError(
            f"the netlist's sums are wrong in mode {mode}; is the cell library sound?"
        )
    return activity


def _energy(
    netlist: Netlist, library: Library, changes: tuple[int, ...], cycles: int, done: int
) -> Energy:
    """Half of C V^2 for each change of a net, and what its driver takes itself."""
    half = library.volts**2 / 2
    (clock,) = netlist.ports["clk"]
    nets = sum(netlist.loads[n] * count for n, count in enumerate(changes) if n != clock)
    drivers = [(gate.pin, gate.output) for gate in netlist.gates]
    drivers += [(register.pin, register.output) for register in netlist.registers]
    cells = sum(pin.internal * changes[output] for pin, output in drivers)
    edges = 2 * cycles
    pins = sum(register.clock.internal for register in netlist.registers)
    return Energy(
        switching=half * nets / done,
        internal=cells / done,
        clock=edges * (half * netlist.loads[clock] + pins) / done,
    )


def table(
    path: Path,
    weights: Path | None = None,
    lanes: int = 256,
    cycles: int = 64,
    reuse: int = 16,
    block: int = 16,
) -> Iterator[str]:
    """All rows beside the multiplier's, in Markdown: the library, then a table line by line.

    block: elements of a row, a power of two; with 1 it is one element and its accumulator. weights:
    of an artifact, see :func:`operands.weights_of`. Raises InputError for files that are not what
    they should be, and what :func:`row_energies` does.
    """
    library = load(path)
    blocks = None if weights is None else operands.weights_of(weights, block)
    fed = operands.draw(lanes, cycles, block, reuse, blocks)
    yield f"{library.name}, {library.volts:g} V; femtojoule a product, in a row of {block}:\n"
    yield "| row | area | of multiply | clock | data | all | of multiply | data with glitches " + (
        "| all | of multiply |"
    )
    yield "|" + "---|" * 10
    first: RowEnergy | None = None
    for modes in VARIANTS:
        for found in row_energies(modes, path, library, fed):
            first = first or found
            yield _line(found, first)


def _line(found: RowEnergy, first: RowEnergy) -> str:
    name = found.mode if len(found.modes) == 1 else f"{' and '.join(found.modes)}: {found.mode}"
    columns = [f"{found.area:,.0f}", f"{found.area / first.area:.2f}"]
    columns.append(f"{1e15 * found.settled.clock:,.0f}")
    for one, base in ((found.settled, first.settled), (found.whole, first.whole)):
        columns += [f"{1e15 * (one.total - one.clock):,.0f}", f"{1e15 * one.total:,.0f}"]
        columns.append(f"{one.total / base.total:.2f}")
    return f"| {name} | {' | '.join(columns)} |"
