"""A device for other processes and machines, over TVM's RPC: the server's side.

Each connection is served by a process of its own. That process has none of TVM's functions but
those of the device, so a client can ask for no others by name. Programs are proved safe before they
are loaded.

TVM's protocol itself trusts its client with the memory of that process. So the key is a secret,
connections are taken from this machine only unless an address is named, and a server is for people
who may run programs on its machine.
"""

from __future__ import annotations

import hmac
import json
import multiprocessing
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

import tvm_ffi
from tvm import rpc

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError, ProgramError
from vta_ext import checker
from vta_ext.program import Program
from vta_ext.runtime.device import Device, LoadedProgram
from vta_ext.runtime.rpc import ANSWERS, PATIENCE, PREFIX, check_key, receive
from vta_ext.sigterm import ended_by_sigterm

#: Told what happens, for a log.
Log = Callable[[str], None]

#: Programs that one connection may have loaded, and the bytes of their arenas together.
MAX_PROGRAMS: Final = 256
MAX_BYTES: Final = 1 << 31
#: Connections at a time; further ones are refused.
MAX_CLIENTS: Final = 16
#: The longest key that TVM's handshake may bring.
_MAX_KEY: Final = 1024
#: TVM's functions that remove functions by name, and that begin the server's side of a connection.
_REMOVE: Final = "ffi.FunctionRemoveGlobal"
_KEPT: Final = "rpc.LocalSession"
#: Seconds after its limit that a launch which does not return ends its connection.
_GRACE: Final = 5.0
#: Seconds that a client waits for the end of another one's connection where all are taken.
_ENDING: Final = 2.0
#: A process that has what this one has; None where the system cannot fork.
_Fork: Any = (
    multiprocessing.get_context("fork").Process
    if "fork" in multiprocessing.get_all_start_methods()
    else None
)


class Served:
    """The functions of a device that one connection uses; each returns an answer's bytes."""

    def __init__(self, make: Callable[[float], Device], limit: float) -> None:
        self._make, self._limit = make, limit
        self._device: Device | None = None
        self._programs: dict[int, tuple[Program, LoadedProgram]] = {}

    def functions(self) -> dict[str, Callable[..., bytes]]:
        """By name, as clients ask for them."""
        names = ("open", "load", "write", "read", "launch", "counters")
        return {PREFIX + name: _answering(getattr(self, name)) for name in names}

    def open(self, configuration: str, limit: float) -> bytes:
        """Begin: the client's configuration must be the device's."""
        limit = min(limit, self._limit) if limit > 0 else self._limit
        device = self._make(limit)
        if configuration != device.config.hash:
            raise ProgramError(
                f"its machine has configuration {device.config.hash}, the artifact is for "
                f"{configuration!s:.40}; compile the model for that machine"
            )
        self._device, self._limit = device, limit
        return b""

    def load(self, data: bytes) -> bytes:
        """Check a program and load it; its number."""
        if self._device is None:
            raise InputError("nothing was opened yet")
        program = Program.from_bytes(bytes(data))
        program.require(self._device.config)
        used = sum(loaded.dram_bytes for loaded, _ in self._programs.values())
        if len(self._programs) >= MAX_PROGRAMS or used + program.dram_bytes > MAX_BYTES:
            raise DeviceError(
                f"{len(self._programs)} programs of {used} bytes are loaded, and there is no room "
                f"for {program.dram_bytes} bytes; connect again"
            )
        checker.require(program)
        number = len(self._programs)
        self._programs[number] = program, self._device.load(program)
        return str(number).encode()

    def write(self, number: int, offset: int, data: bytes) -> bytes:
        """Copy bytes to a program's arena."""
        self._loaded(number).write(int(offset), bytes(data))
        return b""

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Copy bytes from a program's arena."""
        return self._loaded(number).read(int(offset), int(size))

    def launch(self, number: int) -> bytes:
        """Run a program; a driver that does not come back ends the connection."""
        loaded = self._loaded(number)
        watch = threading.Timer(self._limit + _GRACE, os._exit, (1,))
        watch.daemon = True
        watch.start()
        try:
            loaded.launch()
        finally:
            watch.cancel()
        return b""

    def counters(self, number: int) -> bytes:
        """What the device counted in the last launch, as JSON."""
        return json.dumps(dict(self._loaded(number).counters())).encode()

    def _loaded(self, number: int) -> LoadedProgram:
        if number not in self._programs:
            raise InputError(f"there is no program {number!s:.20}")
        return self._programs[number][1]


def _answering(function: Callable[..., bytes]) -> Callable[..., bytes]:
    """The same with errors as answers: TVM would hand on but their text."""
    marks = {kind: mark for mark, kind in ANSWERS.items() if kind is not None}

    def call(*arguments: Any) -> bytes:
        try:
            return b"+" + function(*arguments)
        except Exception as error:
            mark = next((m for kind, m in marks.items() if isinstance(error, kind)), b"D")
            known = mark != b"D" or isinstance(error, DeviceError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            return mark + text.encode()

    return call


def serve(
    make: Callable[[float], Device],
    *,
    key: str,
    host: str = "127.0.0.1",
    port: int = 0,
    limit: float = 60.0,
    log: Log = lambda text: None,
    ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until interrupted; SIGTERM ends it by SystemExit. Its connections end with it.

    ``make`` makes the device of a connection, given the seconds that a launch may take; ``limit``
    is the most a client may ask for. ``port`` 0 takes a free one; ``ready`` is told which. Raises
    InputError for an unusable address, DependencyError where the system cannot fork.
    """
    if _Fork is None:
        raise DependencyError(f"serving a device needs a system that can fork, not {sys.platform}")
    check_key(key)
    make(limit)  # says at once if the device cannot be had
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen at {host}:{port}: {error}; choose another") from error
    with listening, ended_by_sigterm(), _sessions() as sessions:
        ready(listening.getsockname()[1])
        while True:
            connection, address = listening.accept()
            with connection:
                if not _has_room(sessions):
                    log(f"{address[0]}: refused, {len(sessions)} clients are connected")
                    continue
                client = _Client(connection, address[0], key, Served(make, limit), log)
                session = _Fork(target=client.serve, args=(listening,), daemon=True)
                session.start()
                sessions.append(session)


def _has_room(sessions: list[BaseProcess]) -> bool:
    """Whether there may be one more; those that have ended are taken out.

    A client asks first, on a connection of its own whose process may still be about to end.
    """
    sessions[:] = [session for session in sessions if session.is_alive()]
    if len(sessions) >= MAX_CLIENTS:
        ending = wait([session.sentinel for session in sessions], _ENDING)
        for session in sessions:
            if session.sentinel in ending:
                session.join(_ENDING)  # what is about to end is alive still
        sessions[:] = [session for session in sessions if session.is_alive()]
    return len(sessions) < MAX_CLIENTS


@contextmanager
def _sessions() -> Iterator[list[BaseProcess]]:
    """Processes that end with the block."""
    sessions: list[BaseProcess] = []
    try:
        yield sessions
    finally:
        for session in sessions:
            session.terminate()
        for session in sessions:
            session.join(_GRACE)


@dataclass(frozen=True)
class _Client:
    """One connection; ``serve`` runs in a process of its own."""

    connection: socket.socket
    name: str
    key: str
    served: Served
    log: Log

    def serve(self, listening: socket.socket) -> None:
        """Greet, then answer until the client goes."""
        listening.close()
        # Ctrl-C is for the server, which then ends its processes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The server's own handler would wait for native code to come back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            if not _shake_hands(self.connection, self.key):
                self.log(f"{self.name}: refused, another key or no TVM RPC")
                return
            self.connection.settimeout(None)
            # A client greets twice: first it asks whether it would be served, and goes.
            if not self.connection.recv(1, socket.MSG_PEEK):
                return
        except OSError:
            return
        self.log(f"{self.name}: connected")
        _answer(self.connection, self.served)
        self.log(f"{self.name}: done")


def _answer(connection: socket.socket, served: Served) -> None:
    """TVM's loop, with no function left in this process but those served."""
    loop = rpc._ffi_api.ServerLoop
    remove = tvm_ffi.get_global_func(_REMOVE)
    for name, function in served.functions().items():
        tvm_ffi.register_global_func(name, function)
    for name in tvm_ffi.registry.list_global_func_names():
        if name != _KEPT and not name.startswith(PREFIX):
            remove(name)
    loop(connection.fileno())


def _shake_hands(connection: socket.socket, key: str) -> bool:
    """TVM's greeting: a number, the length of the client's key, the key and options.

    Raises OSError, TimeoutError for one, where all of it has not come in time.
    """
    base, deadline = rpc.base, time.monotonic() + PATIENCE
    magic, length = struct.unpack("<ii", receive(connection, 8, deadline))
    if magic != base.RPC_MAGIC or not 0 <= length <= _MAX_KEY:
        return False
    given = receive(connection, length, deadline).split(b" ")[0]
    if not hmac.compare_digest(given, f"client:{key}".encode()):
        connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
        return False
    answer = f"server:{key}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(answer)) + answer)
    return True
