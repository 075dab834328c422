"""A board on a serial line as a :class:`vta_ext.runtime.device.Device`."""

from __future__ import annotations

import threading
import weakref
from typing import Final

from tvm_shiftadd.errors import DeviceError
from vta_ext.config import Config
from vta_ext.link.host import Link
from vta_ext.link.memory import Places
from vta_ext.link.port import Port, parse
from vta_ext.presets import MEMORY_BITS
from vta_ext.program import Program
from vta_ext.rtl.map import ALIGNMENT, COUNTERS, Register
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.placed import PlacedProgram, Watch, check_machine

#: Looks at a running machine whose cycles stand still, after which it has stopped.
_STANDSTILL: Final = 100


class Session:
    """A board that this process has opened: its link, its memory, its machine.

    All devices of one port share it, and threads take turns. Errors are those of the link.
    """

    def __init__(self, link: Link, port: Port | None = None) -> None:
        self.board, self.places = link.board, Places(link.board.memory_bytes, ALIGNMENT)
        self._link, self._port = link, port
        # What an earlier host has left behind may still be running.
        self._rests = False
        self._turn = threading.RLock()

    @property
    def lost(self) -> bool:
        """Whether its port is gone, so that it must be opened again."""
        return self._port is not None and self._port.lost

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to memory."""
        with self._turn:
            self._rest().write(address, data)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        with self._turn:
            return self._rest().read(address, size)

    def _rest(self) -> Link:
        """The link, once the machine rests: one that may not be doing so is reset."""
        if not self._rests:
            self._link.reset()
            self._rests = True
        return self._link

    def run(
        self, arena: int, instructions: int, count: int, most: int, limit: float | None
    ) -> dict[str, int]:
        """Run a program that is in memory; what was counted.

        Raises DeviceError after ``most`` cycles or ``limit`` seconds, and where the run was lost.
        Whatever ends a run early, the machine is reset before it is used again.
        """
        with self._turn:
            link = self._rest()
            given = (arena, instructions, count)
            link.write_registers(Register.ARENA, *given)
            self._rests = False
            link.write_registers(Register.CONTROL, 1)
            self._wait(link, given, most, limit)
            self._rests = True
            counts = link.read_registers(Register.CYCLES, len(COUNTERS))
        return {name: count for (name, _), count in zip(COUNTERS, counts, strict=True)}

    def _wait(
        self, link: Link, given: tuple[int, int, int], most: int, limit: float | None
    ) -> None:
        """Until the run ``given`` has ended. Each look takes as long as a frame each way."""
        watch = Watch(most, limit, _STANDSTILL)
        while True:
            running, *found, _, cycles = link.read_registers(
                Register.CONTROL, Register.CYCLES - Register.CONTROL + 1
            )
            if not running:
                if tuple(found) != given or not cycles:
                    raise DeviceError(
                        "the board lost the run: it was reset, configured anew or without power; "
                        "open it again and load the programs again"
                    )
                return
            watch.look(cycles)


#: Open sessions by port and rate, while a device uses them: a port has one, and so has its memory.
_SESSIONS: Final[weakref.WeakValueDictionary[tuple[str, int], Session]] = (
    weakref.WeakValueDictionary()
)
_OPENING: Final = threading.Lock()


def open_serial(
    config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS, address: str = ""
) -> SerialDevice:
    """The board at ``address``, "PORT[,BAUD]".

    ``memory_bits`` is the board's own. Raises InputError for a malformed address, DependencyError
    where pyserial is missing, DeviceError where no board answers and ProgramError where its
    machine is of another configuration.
    """
    name, baud = parse(address)
    with _OPENING:
        session = _SESSIONS.get((name, baud))
        if session is None or session.lost:
            port = Port(name, baud)
            try:
                session = Session(Link(port, f"the board at {name}", baud=baud), port)
            except BaseException:
                port.close()
                raise
            _SESSIONS[name, baud] = session
    return SerialDevice(session, config, limit)


class SerialDevice:
    """The board of a session; ``limit``: seconds that a launch may take.

    Programs share the machine; each has its own part of the board's memory, which is free again
    when the program is dropped. Raises ProgramError for a machine of another configuration.
    """

    def __init__(self, session: Session, config: Config, limit: float | None = None) -> None:
        check_machine(session.board.configuration, config)
        self._session, self._config, self._limit = session, config, limit

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`Device`; DeviceError where the board's memory is full, or the link fails."""
        program.require(self._config)
        return _Loaded(self._session, program, self._limit)


class _Loaded(PlacedProgram):
    """A program in the board's memory."""

    def __init__(self, session: Session, program: Program, limit: float | None) -> None:
        self._session = session
        super().__init__(program, limit, ALIGNMENT)

    def _take(self, size: int) -> None:
        self._arena = self._session.places.take(size)
        weakref.finalize(self, self._session.places.give, self._arena)

    def _put(self, offset: int, data: bytes) -> None:
        self._session.write(self._arena + offset, data)

    def _get(self, offset: int, size: int) -> bytes:
        return self._session.read(self._arena + offset, size)

    def launch(self) -> None:
        count = len(self.program.instructions)
        self._counted = self._session.run(
            self._arena, self._arena + self._behind, count, self._most, self._limit
        )
