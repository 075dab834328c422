"""A board on a serial line as a :class:`vta_ext.runtime.device.Device`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from typing import Final

from tvm_shiftadd.errors import DeviceError, ProgramError
from vta_ext.config import Config
from vta_ext.isa.codec import codec
from vta_ext.link.host import Link
from vta_ext.link.memory import Places
from vta_ext.link.port import Port, parse
from vta_ext.presets import MEMORY_BITS
from vta_ext.program import Program
from vta_ext.rtl.map import ALIGNMENT, COUNTERS, Register
from vta_ext.runtime.device import LoadedProgram, patience

#: Looks at a running machine whose cycles stand still, after which it has stopped.
_STANDSTILL: Final = 100


def open_serial(
    config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS, address: str = ""
) -> SerialDevice:
    """The board at ``address``, "PORT[,BAUD]".

    ``memory_bits`` is the board's own. Raises InputError for a malformed address, DependencyError
    where pyserial is missing, DeviceError where no board answers and ProgramError where its
    machine is of another configuration.
    """
    name, baud = parse(address)
    return SerialDevice(Link(Port(name, baud), f"the board at {name}", baud=baud), config, limit)


class SerialDevice:
    """The board behind a link; ``limit``: seconds that a launch may take.

    Programs share the machine; each has its own part of the board's memory, which is free again
    when the program is dropped. Raises DeviceError where the board does not answer, ProgramError
    where its machine is of another configuration.
    """

    def __init__(self, link: Link, config: Config, limit: float | None = None) -> None:
        self._link, self._config, self._limit = link, config, limit
        if link.board.configuration != config.hash:
            raise ProgramError(
                f"the board's machine has configuration {link.board.configuration}, the program "
                f"is for {config.hash}; compile it for that machine, or load another bitstream"
            )
        self.places = Places(link.board.memory_bytes, ALIGNMENT)
        # What an earlier host has left behind may still be running.
        self._rests = False

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`; DeviceError where the board's memory is full, or the link fails."""
        program.require(self._config)
        return _Loaded(self, program)

    def resting(self) -> Link:
        """The link, once the machine rests: one that may not be doing so is reset."""
        if not self._rests:
            self._link.reset()
            self._rests = True
        return self._link

    def run(self, arena: int, instructions: int, count: int, most: int) -> dict[str, int]:
        """Run a program that is in memory; what was counted.

        Raises DeviceError after ``most`` cycles or the time limit, or where the link fails.
        Whatever ends this early, the machine is reset before it is used again.
        """
        link = self.resting()
        link.write_registers(Register.ARENA, arena, instructions, count)
        self._rests = False
        link.write_registers(Register.CONTROL, 1)
        self._wait(link, most)
        self._rests = True
        counts = link.read_registers(Register.CYCLES, len(COUNTERS))
        return {name: count for (name, _), count in zip(COUNTERS, counts, strict=True)}

    def _wait(self, link: Link, most: int) -> None:
        """Until the machine rests. Each look takes as long as a frame each way."""
        deadline = None if self._limit is None else time.monotonic() + self._limit
        last, still = -1, 0
        while True:
            running, *_, cycles = link.read_registers(
                Register.CONTROL, Register.CYCLES - Register.CONTROL + 1
            )
            if not running:
                return
            still = still + 1 if cycles == last else 0
            last = cycles
            problem = ""
            if cycles > most or still > _STANDSTILL:
                problem = "in many times the cycles it needs; the checker says why"
            elif deadline is not None and time.monotonic() > deadline:
                problem = f"within {self._limit:g} s; allow more time"
            if problem:
                raise DeviceError(f"the machine did not finish {problem}")


class _Loaded:
    """A program in the board's memory: its arena, behind it the instructions."""

    def __init__(self, device: SerialDevice, program: Program) -> None:
        self._device, self._program = device, program
        code = codec(program.config).encode_all(program.instructions)
        behind = -(-program.dram_bytes // ALIGNMENT) * ALIGNMENT
        # A beat may read beyond the last instruction.
        self._arena = device.places.take(behind + len(code) + ALIGNMENT)
        weakref.finalize(self, device.places.give, self._arena)
        self._instructions = self._arena + behind
        link = device.resting()
        link.write(self._instructions, code)
        for section in program.sections:
            if section.data is not None:
                link.write(self._arena + section.offset, section.data)
        self._most = 0
        self._counted: dict[str, int] = {}

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self._device.resting().write(self._arena + offset, data)

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        return self._device.resting().read(self._arena + offset, size)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self._program.dram_bytes:
            raise ProgramError(
                f"bytes {offset} to {offset + size - 1} are outside the "
                f"{self._program.dram_bytes} bytes of DRAM"
            )

    def counters(self) -> Mapping[str, int]:
        return self._counted

    def launch(self) -> None:
        if not self._most:
            self._most = patience(self._program)
        count = len(self._program.instructions)
        self._counted = self._device.run(self._arena, self._instructions, count, self._most)
