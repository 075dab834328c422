"""How often each net of a netlist changes: gates simulated with a delay of one, many lanes at once.

A net is an integer with a bit for each lane. With delays of one, gates whose inputs come at
different times change more than once a cycle, as real ones do: glitches, which only a simulation of
the placed circuit would tell exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vta_ext.rtl.energy.netlist import ONE, ZERO, Gate, Netlist


@dataclass(frozen=True)
class Activity:
    """Changes of each net, over all cycles and lanes: between ends of cycles, and all there are."""

    settled: tuple[int, ...]
    all: tuple[int, ...]


class Simulator:
    """A netlist and its state, all of it zero at first; ``lanes``: copies side by side."""

    def __init__(self, netlist: Netlist, lanes: int) -> None:
        self.netlist, self.mask = netlist, (1 << lanes) - 1
        self.values = [0] * netlist.nets
        self.values[ONE] = self.mask
        self._readers: list[list[Gate]] = [[] for _ in range(netlist.nets)]
        for gate in netlist.gates:
            for number in set(gate.inputs):
                self._readers[number].append(gate)
        self._changes = [0] * netlist.nets
        self._settle({gate.output: gate for gate in netlist.gates}.values())

    def port(self, name: str) -> list[int]:
        """The bits of a port, lowest first."""
        return [self.values[number] for number in self.netlist.ports[name]]

    def cycle(self, ports: Mapping[str, Sequence[int]]) -> None:
        """An edge of the clock; at the same time the bits of input ports become ``ports``."""
        registers = self.netlist.registers
        new = [(register.output, self.values[register.data]) for register in registers]
        for name, bits in ports.items():
            new += zip(self.netlist.ports[name], bits, strict=True)
        self._settle(self._applied(new))

    def measure(self, stimuli: Iterable[Mapping[str, Sequence[int]]]) -> Activity:
        """What changes in cycles with these inputs."""
        self._changes = [0] * self.netlist.nets
        settled = [0] * self.netlist.nets
        for ports in stimuli:
            before = list(self.values)
            self.cycle(ports)
            for number, (old, now) in enumerate(zip(before, self.values, strict=True)):
                if old != now:
                    settled[number] += (old ^ now).bit_count()
        return Activity(tuple(settled), tuple(self._changes))

    def _settle(self, dirty: Iterable[Gate]) -> None:
        """Let these gates, and all that follow from them, take their values, a step at a time."""
        values, mask = self.values, self.mask
        while dirty:
            new = [
                (gate.output, gate.evaluate([values[n] for n in gate.inputs], mask))
                for gate in dirty
            ]
            dirty = self._applied(new)

    def _applied(self, new: Iterable[tuple[int, int]]) -> list[Gate]:
        """Set nets; the gates that see a change."""
        dirty: dict[int, Gate] = {}
        for number, value in new:
            change = self.values[number] ^ value
            if change and number not in (ZERO, ONE):
                self.values[number] = value
                self._changes[number] += change.bit_count()
                for gate in self._readers[number]:
                    dirty[gate.output] = gate
        return list(dirty.values())
