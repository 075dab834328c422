"""What drivers of hardware share: programs in memory that it reads, and runs that may not end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from tvm_shiftadd.errors import DeviceError, ProgramError
from vta_ext.config import Config
from vta_ext.isa.codec import codec
from vta_ext.program import Program
from vta_ext.runtime.device import patience

#: Values of a counter register.
_WRAP: Final = 1 << 32


def check_machine(found: str, config: Config) -> None:
    """Raise ProgramError unless the machine, whose configuration's hash is ``found``, fits."""
    if found != config.hash:
        raise ProgramError(
            f"the board's machine has configuration {found}, the program is for {config.hash}; "
            "compile it for that machine, or load another bitstream"
        )


class PlacedProgram(ABC):
    """A program in memory that hardware reads: its arena, behind it the instructions.

    limit: seconds that a launch may take; alignment: bytes of which the instructions' place is a
    multiple. A subclass has what its memory needs before it calls this.
    """

    def __init__(self, program: Program, limit: float | None, alignment: int) -> None:
        self.program, self._limit = program, limit
        code = codec(program.config).encode_all(program.instructions)
        #: Where the instructions are, in bytes from the arena on.
        self._behind = -(-program.dram_bytes // alignment) * alignment
        # A beat may read beyond the last instruction.
        self._take(self._behind + len(code) + alignment)
        self._put(self._behind, code)
        for section in program.sections:
            if section.data is not None:
                self._put(section.offset, section.data)
        self._counted: dict[str, int] = {}

    @abstractmethod
    def _take(self, size: int) -> None:
        """Get ``size`` bytes of memory for arena and instructions."""

    @abstractmethod
    def _put(self, offset: int, data: bytes) -> None:
        """Copy bytes to that memory."""

    @abstractmethod
    def _get(self, offset: int, size: int) -> bytes:
        """Copy bytes from it."""

    @abstractmethod
    def launch(self) -> None:
        """See :class:`vta_ext.runtime.device.LoadedProgram`."""

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes to the arena; ProgramError outside it."""
        self._check(offset, len(data))
        self._put(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes from the arena; ProgramError outside it."""
        self._check(offset, size)
        return self._get(offset, size)

    def counters(self) -> Mapping[str, int]:
        """What the registers counted in the last launch; see COUNTERS."""
        return self._counted

    @cached_property
    def _most(self) -> int:
        """Cycles after which a launch is given up."""
        return patience(self.program)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.program.dram_bytes:
            raise ProgramError(
                f"bytes {offset} to {offset + size - 1} are outside the "
                f"{self.program.dram_bytes} bytes of DRAM"
            )


class Watch:
    """Gives up a run: after ``most`` cycles, after ``limit`` seconds, or once it stands still.

    standstill: looks between which no cycle passes, after which a machine has stopped.
    """

    def __init__(self, most: int, limit: float | None, standstill: int) -> None:
        self._most, self._limit, self._standstill = most, limit, standstill
        self._deadline = None if limit is None else time.monotonic() + limit
        self._passed = self._last = self._still = 0

    def look(self, cycles: int) -> None:
        """A look at the counter of cycles of a machine that runs; DeviceError to give it up."""
        self._still = self._still + 1 if cycles == self._last else 0
        # The counter has 32 bits, a run may have more cycles.
        self._passed += (cycles - self._last) % _WRAP
        self._last = cycles
        problem = ""
        if self._passed > self._most or self._still > self._standstill:
            problem = "in many times the cycles it needs; the checker says why"
        elif self._deadline is not None and time.monotonic() > self._deadline:
            problem = f"within {self._limit:g} s; allow more time"
        if problem:
            raise DeviceError(f"the machine did not finish {problem}")
