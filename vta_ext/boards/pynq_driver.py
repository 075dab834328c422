"""A Zynq board as a :class:`vta_ext.runtime.device.Device`, used on the board itself under PYNQ.

Registers are mapped into memory; programs lie in contiguous buffers, whose contents are written
back from the processor's cache before a run and thrown out of it after one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError, ProgramError
from vta_ext.config import Config
from vta_ext.isa.codec import codec
from vta_ext.presets import MEMORY_BITS
from vta_ext.program import Program
from vta_ext.rtl.map import ALIGNMENT, COUNTERS, FAILED_BIT, IDENTITY, Register
from vta_ext.runtime.device import LoadedProgram, patience

#: The machine's cell in the block design, by which the overlay knows it.
CELL: Final = "vta"
#: Bytes of the registers' window.
WINDOW: Final = 4096
#: Addresses of the machine's memory port.
_ADDRESSES: Final = 1 << 32
#: Looks at a running machine whose cycles stand still, after which it has stopped.
_STANDSTILL: Final = 10_000


def open_pynq(
    config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS, address: str = ""
) -> PynqDevice:
    """This board with the overlay whose bitstream is the file ``address``.

    ``memory_bits`` is the bitstream's own. Raises DependencyError without PYNQ, InputError for a
    file that is not there or holds another design, ProgramError for a machine of another
    configuration.
    """
    try:
        pynq = import_module("pynq")
    except ImportError as error:
        raise DependencyError(
            "the device pynq needs PYNQ, which runs on the board alone: install PYNQ's image, "
            "and tvm-shiftadd on it"
        ) from error
    path = Path(address)
    for needed in (path, path.with_suffix(".hwh")):
        if not needed.is_file():
            raise InputError(
                f"expected an overlay's bitstream with its .hwh file beside it, found no {needed}"
            )
    return PynqDevice(pynq, path, config, limit)


class PynqDevice:
    """The machine of an overlay; ``limit``: seconds that a launch may take.

    Programs share the machine and have buffers of their own. ``pynq``: the package.
    """

    def __init__(
        self, pynq: Any, overlay: Path, config: Config, limit: float | None = None
    ) -> None:
        self._config, self._limit, self._allocate = config, limit, pynq.allocate
        self._overlay = pynq.Overlay(str(overlay))
        try:
            base = self._overlay.ip_dict[CELL]["phys_addr"]
        except KeyError:
            known = ", ".join(self._overlay.ip_dict) or "nothing"
            raise InputError(
                f"expected a design with the machine as {CELL!r}, but {overlay} has {known}"
            ) from None
        self._registers = pynq.MMIO(base, WINDOW)
        self._identify()

    def _identify(self) -> None:
        identity = self.read(Register.IDENTITY)
        if identity != IDENTITY:
            raise DeviceError(
                f"expected the machine's identity {IDENTITY:#010x}, the register holds "
                f"{identity:#010x}; load this project's bitstream"
            )
        found = self.read(Register.HASH_HIGH) << 32 | self.read(Register.HASH_LOW)
        if found != int(self._config.hash, 16):
            raise ProgramError(
                f"the board's machine has configuration {found:016x}, the program is for "
                f"{self._config.hash}; compile it for that machine, or load another bitstream"
            )

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def read(self, register: int) -> int:
        """Read a register."""
        return int(self._registers.read(4 * register))

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`; DeviceError where contiguous memory is full or out of reach."""
        program.require(self._config)
        return _Loaded(self, program)

    def allocate(self, size: int) -> Any:
        """A contiguous buffer of bytes that the machine can reach."""
        try:
            buffer = self._allocate(shape=(size,), dtype="u1")
        except (MemoryError, RuntimeError) as error:
            raise DeviceError(
                f"the board has no contiguous memory of {size} bytes left ({error}); drop other "
                "programs, or give the kernel more with cma="
            ) from error
        first = int(buffer.device_address)
        if first % ALIGNMENT or first + size > _ADDRESSES:
            raise DeviceError(
                f"expected memory at a multiple of {ALIGNMENT} below {_ADDRESSES:#x}, got "
                f"{size} bytes at {first:#x}"
            )
        return buffer

    def run(self, arena: int, instructions: int, count: int, most: int) -> dict[str, int]:
        """Run a program that is in memory; what was counted.

        Raises DeviceError after ``most`` cycles or the time limit, or where an access to memory is
        refused. A machine that does not end is loaded again, which is all that stops it.
        """
        for register, value in (
            (Register.ARENA, arena),
            (Register.INSTRUCTIONS, instructions),
            (Register.COUNT, count),
            (Register.CONTROL, 1),
        ):
            self._registers.write(4 * register, value)
        try:
            state = self._wait(most)
        except BaseException:
            self._overlay.download()
            raise
        if state >> FAILED_BIT & 1:
            raise DeviceError(
                "an access of the machine to memory was refused; the checker says why"
            )
        return {
            name: self.read(Register.CYCLES + number) for number, (name, _) in enumerate(COUNTERS)
        }

    def _wait(self, most: int) -> int:
        """Until the machine rests; the control register's last word."""
        deadline = None if self._limit is None else time.monotonic() + self._limit
        last, still = -1, 0
        while True:
            state = self.read(Register.CONTROL)
            if not state & 1:
                return state
            cycles = self.read(Register.CYCLES)
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
    """A program in a buffer: its arena, behind it the instructions."""

    def __init__(self, device: PynqDevice, program: Program) -> None:
        self._device, self._program = device, program
        code = codec(program.config).encode_all(program.instructions)
        self._behind = -(-program.dram_bytes // ALIGNMENT) * ALIGNMENT
        # A beat may read beyond the last instruction.
        self._buffer = device.allocate(self._behind + len(code) + ALIGNMENT)
        self._buffer[:] = 0
        self._put(self._behind, code)
        for section in program.sections:
            if section.data is not None:
                self._put(section.offset, section.data)
        self._most = 0
        self._counted: dict[str, int] = {}

    def _put(self, offset: int, data: bytes) -> None:
        self._buffer[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self._put(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        return bytes(self._buffer[offset : offset + size].tobytes())

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
        first = int(self._buffer.device_address)
        count = len(self._program.instructions)
        self._buffer.flush()
        try:
            self._counted = self._device.run(first, first + self._behind, count, self._most)
        finally:
            self._buffer.invalidate()
