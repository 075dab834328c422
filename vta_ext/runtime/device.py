"""What a device must be able to do, and the functional simulator as one."""

from __future__ import annotations

from typing import Protocol

from vta_ext.config import Config
from vta_ext.program import Program
from vta_ext.sim.functional import FunctionalSimulator


class Device(Protocol):
    """A machine with an arena of DRAM. Addresses count from the arena's start.

    A device keeps what was written until it is written again. Errors leave it usable.
    """

    @property
    def config(self) -> Config:
        """The machine's configuration."""

    def reserve(self, size: int) -> None:
        """Make the arena at least ``size`` bytes; what it held is lost where it has to grow."""

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes to the arena."""

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes from the arena."""

    def launch(self, program: Program) -> None:
        """Run a program whose constants are in the arena, and wait until it has finished.

        Raises ProgramError for a program of another configuration.
        """


class SimulatorDevice:
    """The functional simulator as a :class:`Device`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._simulator = FunctionalSimulator(config, 0)

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def reserve(self, size: int) -> None:
        """See :class:`Device`."""
        if size > len(self._simulator.machine.dram):
            self._simulator = FunctionalSimulator(self._config, size)

    def write(self, offset: int, data: bytes) -> None:
        """See :class:`Device`; ProgramError outside the arena."""
        self._simulator.write(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        """See :class:`Device`; ProgramError outside the arena."""
        return self._simulator.read(offset, size)

    def launch(self, program: Program) -> None:
        """See :class:`Device`."""
        program.require(self._config)
        self._simulator.run(program.instructions)
