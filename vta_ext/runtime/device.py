"""What a device must be able to do, and the simulators as devices."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from tvm_shiftadd.errors import DeviceError
from vta_ext.config import Config
from vta_ext.presets import MEMORY_BITS
from vta_ext.program import Program
from vta_ext.sim.functional import FunctionalSimulator
from vta_ext.sim.timing import TimingParameters, simulate


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
        """Run the program and wait until it has finished.

        Raises DeviceError where it does not finish within the device's time limit; the device has
        given it up then and takes the next launch.
        """

    def counters(self) -> Mapping[str, int]:
        """What the device counted in the last launch, ``cycles`` for one; empty if it cannot."""


class Device(Protocol):
    """A machine that programs of its configuration can be loaded onto, several at a time."""

    @property
    def config(self) -> Config:
        """The machine's configuration."""

    def load(self, program: Program) -> LoadedProgram:
        """Give a program memory; ProgramError for one of another configuration."""


def patience(program: Program) -> int:
    """Cycles after which a program has surely stopped to move: many times what it may need."""
    return 100_000 + 64 * simulate(program).cycles


class SimulatorDevice:
    """The functional simulator as a :class:`Device`; ``limit``: seconds a launch may take.

    Its memory takes no time, whatever the width of the port.
    """

    def __init__(
        self, config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS
    ) -> None:
        self._config, self._limit = config, limit

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`."""
        program.require(self._config)
        return _Simulated(program, self._limit, {})


class TimingDevice(SimulatorDevice):
    """The functional simulator, which counts the cycles that the timing model gives a launch.

    Raises InputError for a memory port that is no whole number of bytes.
    """

    def __init__(
        self, config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS
    ) -> None:
        super().__init__(config, limit, memory_bits)
        self._parameters = TimingParameters(memory_bits=memory_bits)

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`."""
        program.require(self._config)
        report = simulate(program, self._parameters)
        counted = {"cycles": report.cycles, "gemm_micro_ops": report.gemm_micro_ops()}
        return _Simulated(program, self._limit, counted)


class _Simulated:
    """A program in a simulator of its own; ``counted``: what no data can change."""

    def __init__(self, program: Program, limit: float | None, counted: Mapping[str, int]) -> None:
        self._program, self._limit, self._counted = program, limit, counted
        self._simulator = FunctionalSimulator(program.config, program.dram_bytes)
        self._simulator.place(program)

    def write(self, offset: int, data: bytes) -> None:
        self._simulator.write(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        return self._simulator.read(offset, size)

    def counters(self) -> Mapping[str, int]:
        return self._counted

    def launch(self) -> None:
        limit = self._limit
        if limit is None:
            self._simulator.run(self._program.instructions)
            return
        deadline = time.monotonic() + limit

        def watch(position: int, _instruction: Any, _machine: Any) -> None:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"the simulator stopped the program after {limit:g} s, at instruction "
                    f"{position} of {len(self._program.instructions)}; allow more time"
                )

        self._simulator.run(self._program.instructions, watch)
