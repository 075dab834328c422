"""What a device must be able to do, and the functional simulator as one."""

from __future__ import annotations

from typing import Protocol

from vta_ext.config import Config
from vta_ext.program import Program
from vta_ext.sim.functional import FunctionalSimulator


class LoadedProgram(Protocol):
    """A program with an arena of its own in a device's memory, constants in place.

    Offsets count bytes from the start of the arena; ProgramError outside it. The arena keeps what
    was written, and errors leave it usable.
    """

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes to the arena."""

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes from the arena."""

    def launch(self) -> None:
        """Run the program and wait until it has finished."""


class Device(Protocol):
    """A machine that programs of its configuration can be loaded onto, several at a time."""

    @property
    def config(self) -> Config:
        """The machine's configuration."""

    def load(self, program: Program) -> LoadedProgram:
        """Give a program memory; ProgramError for one of another configuration."""


class SimulatorDevice:
    """The functional simulator as a :class:`Device`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`."""
        program.require(self._config)
        return _Simulated(program)


class _Simulated:
    """A program in a simulator of its own."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._simulator = FunctionalSimulator(program.config, program.dram_bytes)
        self._simulator.place(program)

    def write(self, offset: int, data: bytes) -> None:
        self._simulator.write(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        return self._simulator.read(offset, size)

    def launch(self) -> None:
        self._simulator.run(self._program.instructions)
