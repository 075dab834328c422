"""A Zynq board as a :class:`vta_ext.runtime.device.Device`, used on the board itself under PYNQ.

Registers are mapped into memory; programs lie in contiguous buffers, whose contents are written
back from the processor's cache before a run and thrown out of it after one.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError
from vta_ext.boards.lock import hold
from vta_ext.config import Config
from vta_ext.presets import MEMORY_BITS
from vta_ext.program import Program
from vta_ext.rtl.map import ALIGNMENT, COUNTERS, FAILED_BIT, IDENTITY, Register
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.placed import PlacedProgram, Watch, check_machine

#: The machine's cell in the block design, by which the overlay knows it.
CELL: Final = "vta"
#: Bytes of the registers' window.
WINDOW: Final = 4096
#: Addresses of the machine's memory port.
_ADDRESSES: Final = 1 << 32
#: Looks at a running machine whose cycles stand still, after which it has stopped.
_STANDSTILL: Final = 10_000
#: Held by the process that uses the board's logic, whatever the bitstream.
_LOCK: Final = Path(tempfile.gettempdir()) / "tvm-shiftadd-pynq.lock"


def open_pynq(
    config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS, address: str = ""
) -> PynqDevice:
    """This board with the overlay whose bitstream is the file ``address``.

    ``memory_bits`` is the bitstream's own. Raises DependencyError without PYNQ, InputError for a
    file that is not there or holds another design, DeviceError where the board is in use,
    ProgramError for a machine of another configuration.
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
    with _OPENING:
        machine = _MACHINES.get(path.resolve())
        if machine is None:
            machine = _MACHINES[path.resolve()] = Machine(pynq, path)
    return PynqDevice(machine, config, limit)


class Machine:
    """The machine of an overlay, which this process has loaded and holds until it is dropped.

    All devices of the overlay share it, and threads take turns. ``pynq``: the package. Raises
    InputError for a design without the machine, DeviceError where the board is in use or holds
    something else.
    """

    def __init__(self, pynq: Any, overlay: Path) -> None:
        #: Whoever has it may use memory and machine; threads take it one after the other.
        self.turn = threading.RLock()
        self._allocate = pynq.allocate
        held = _held()
        try:
            self._overlay = pynq.Overlay(str(overlay))
            try:
                base = self._overlay.ip_dict[CELL]["phys_addr"]
            except KeyError:
                known = ", ".join(self._overlay.ip_dict) or "nothing"
                raise InputError(
                    f"expected a design with the machine as {CELL!r}, but {overlay} has {known}"
                ) from None
            self._registers = pynq.MMIO(base, WINDOW)
            identity = self.read(Register.IDENTITY)
            if identity != IDENTITY:
                raise DeviceError(
                    f"expected the machine's identity {IDENTITY:#010x}, the register holds "
                    f"{identity:#010x}; load this project's bitstream"
                )
        except BaseException:
            held.close()
            raise
        weakref.finalize(self, held.close)

    def require(self, config: Config) -> None:
        """Raise ProgramError unless the machine has that configuration."""
        found = self.read(Register.HASH_HIGH) << 32 | self.read(Register.HASH_LOW)
        check_machine(f"{found:016x}", config)

    def read(self, register: int) -> int:
        """Read a register."""
        return int(self._registers.read(4 * register))

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

    def run(
        self, arena: int, instructions: int, count: int, most: int, limit: float | None
    ) -> dict[str, int]:
        """Run a program that is in memory; what was counted.

        Raises DeviceError after ``most`` cycles or ``limit`` seconds, where an access to memory is
        refused, or where the run was lost. A machine whose run did not end, or that has not the
        registers it was given, is loaded again, which is all that stops it.
        """
        with self.turn:
            given = (arena, instructions, count)
            for number, value in enumerate(given):
                self._registers.write(4 * (Register.ARENA + number), value)
            self._registers.write(4 * Register.CONTROL, 1)
            try:
                state = self._wait(most, limit)
                found = tuple(self.read(Register.ARENA + number) for number in range(len(given)))
                if found != given or not self.read(Register.CYCLES):
                    raise DeviceError(
                        "the board lost the run: something else has loaded a bitstream or used "
                        "the machine; end that, and run it again"
                    )
            except BaseException:
                self._overlay.download()
                raise
            if state >> FAILED_BIT & 1:
                raise DeviceError(
                    "an access of the machine to memory was refused; the checker says why"
                )
            return {
                name: self.read(Register.CYCLES + number)
                for number, (name, _) in enumerate(COUNTERS)
            }

    def _wait(self, most: int, limit: float | None) -> int:
        """Until the machine rests; the control register's last word."""
        watch = Watch(most, limit, _STANDSTILL)
        while (state := self.read(Register.CONTROL)) & 1:
            watch.look(self.read(Register.CYCLES))
        return state


def _held() -> IO[bytes]:
    """The file of whoever uses the board. Raises DeviceError where it is in use."""
    try:
        held = hold(_LOCK)
    except OSError as error:
        raise DeviceError(
            f"cannot use the board: {_LOCK} cannot be opened ({error.strerror})"
        ) from error
    if held is None:
        raise DeviceError(
            "the board is in use, by another process or with another bitstream; end that first"
        )
    return held


#: Machines in use by their bitstreams: a process loads each once.
_MACHINES: Final[weakref.WeakValueDictionary[Path, Machine]] = weakref.WeakValueDictionary()
_OPENING: Final = threading.Lock()


class PynqDevice:
    """The board's machine for programs of ``config``; ``limit``: seconds that a launch may take.

    Programs share the machine and have buffers of their own. Raises ProgramError for a machine of
    another configuration.
    """

    def __init__(self, machine: Machine, config: Config, limit: float | None = None) -> None:
        machine.require(config)
        self._machine, self._config, self._limit = machine, config, limit

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`; DeviceError where contiguous memory is full or out of reach."""
        program.require(self._config)
        return _Loaded(self._machine, program, self._limit)


class _Loaded(PlacedProgram):
    """A program in a buffer."""

    def __init__(self, machine: Machine, program: Program, limit: float | None) -> None:
        self._machine = machine
        super().__init__(program, limit, ALIGNMENT)

    def _take(self, size: int) -> None:
        self._buffer = self._machine.allocate(size)
        self._buffer[:] = 0

    def _put(self, offset: int, data: bytes) -> None:
        with self._machine.turn:
            self._buffer[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def _get(self, offset: int, size: int) -> bytes:
        with self._machine.turn:
            return bytes(self._buffer[offset : offset + size].tobytes())

    def launch(self) -> None:
        first = int(self._buffer.device_address)
        count, most = len(self.program.instructions), self._most
        with self._machine.turn:
            self._buffer.flush()
            try:
                self._counted = self._machine.run(
                    first, first + self._behind, count, most, self._limit
                )
            finally:
                self._buffer.invalidate()
