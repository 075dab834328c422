"""The Verilated machine as a :class:`vta_ext.runtime.device.Device`."""

from __future__ import annotations

from typing import Final

import numpy as np

from vta_ext.config import Config
from vta_ext.isa.schema import Module
from vta_ext.program import Program
from vta_ext.rtl.simulation import UNITS, Memory, Simulation
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.placed import PlacedProgram
from vta_ext.sim.report import Step, TimingReport

#: Instructions and arenas begin at multiples of this many bytes.
ALIGNMENT: Final = 4096


class RtlDevice:
    """The Verilated machine as a device; ``limit``: seconds that a launch may take.

    Programs share the machine and have memories of their own. Raises DependencyError, which names
    the command that helps, where a tool is missing.
    """

    def __init__(
        self,
        config: Config,
        limit: float | None = None,
        memory_bits: int = 64,
        memory: Memory | None = None,
    ) -> None:
        self._config, self._limit = config, limit
        self._simulation = Simulation(config, memory_bits, memory)

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    @property
    def simulation(self) -> Simulation:
        """The machine, for its counters."""
        return self._simulation

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`vta_ext.runtime.device.Device`."""
        return self.place(program)

    def place(self, program: Program) -> RtlProgram:
        """The same, with what only hardware can tell."""
        program.require(self._config)
        return RtlProgram(program, self._simulation, self._limit)


class RtlProgram(PlacedProgram):
    """A program and its memory."""

    def __init__(
        self, program: Program, simulation: Simulation, limit: float | None = None
    ) -> None:
        self._simulation = simulation
        super().__init__(program, limit, ALIGNMENT)

    def _take(self, size: int) -> None:
        self.dram = np.zeros(size, np.uint8)

    def _put(self, offset: int, data: bytes) -> None:
        self.dram[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def _get(self, offset: int, size: int) -> bytes:
        return self.dram[offset : offset + size].tobytes()

    def launch(self, trace: bool = False) -> None:
        """Run the program; ``trace``: note when it does what.

        Raises DeviceError if it does not end, and ProgramError where it must not be started.
        """
        self._simulation.attach(self.dram)
        count = len(self.program.instructions)
        self._simulation.run(self._behind, count, self._most, self._limit, trace)
        self._counted = self._simulation.counters()

    def timing(self) -> TimingReport:
        """The last run, which must have been traced, as the timing model reports one."""
        steps = _steps(self.program, self._simulation.events())
        counters = self._counted
        return TimingReport(
            program=self.program,
            cycles=counters["cycles"],
            steps=steps,
            bytes={},
            bus_busy=counters["read_beats"] + counters["write_beats"],
            memory_bits=self._simulation.memory_bits,
        )


def _steps(program: Program, events: list[tuple[int, Module, bool]]) -> tuple[Step, ...]:
    """Instructions by module: the n-th start and the n-th end of a module are its n-th one's."""
    times: dict[tuple[Module, bool], list[int]] = {}
    for cycle, module, ends in events:
        times.setdefault((module, ends), []).append(cycle)
    places = dict.fromkeys(UNITS, 0)
    steps = []
    for position, instruction in enumerate(program.instructions):
        module = instruction.module
        number = places[module]
        places[module] += 1
        start, end = times[module, False][number], times[module, True][number]
        steps.append(Step(position, module, start, end))
    return tuple(sorted(steps, key=lambda step: (step.start, step.position)))
