"""A device of another process or machine, over TVM's RPC: the client's side.

The host's part of a network runs here; programs, inputs and results travel. What a server offers is
listed in :mod:`vta_ext.runtime.server`.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

from tvm_shiftadd.errors import DeviceError, InputError, ProgramError, ShiftAddError
from vta_ext.config import Config
from vta_ext.program import Program
from vta_ext.runtime.device import LoadedProgram

#: Names of the functions that a server offers begin so.
PREFIX: Final = "vta_ext.device."
#: First bytes of an answer: a result, or the class of an error, then its sentence.
ANSWERS: Final[Mapping[bytes, type[ShiftAddError] | None]] = {
    b"+": None,
    b"P": ProgramError,
    b"D": DeviceError,
    b"I": InputError,
}
#: Seconds that taking a connection and the greeting may each take, on either side.
PATIENCE: Final = 10.0
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_key(key: str) -> str:
    """The key itself; InputError unless it is 1 to 128 letters, digits, dots, dashes or such."""
    if not _KEY.fullmatch(key):
        raise InputError(
            "expected a key of 1 to 128 letters, digits or _ . - as the server printed it, got "
            + ("none; pass --key" if not key else "another form")
        )
    return key


def address_of(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT"; InputError for another form."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(f"expected HOST:PORT with a port from 1 to 65535, got {text!r:.80}")
    return host.strip("[]"), int(port)


def receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Exactly so many bytes, all of them before ``deadline`` on the monotonic clock.

    A socket's own time limit is for each call alone, so that a peer which sends a byte now and then
    could go on for ever. Raises OSError: TimeoutError at the deadline, another where the peer goes.
    """
    data = b""
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer took too long")
        connection.settimeout(left)
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the peer closed the connection")
        data += piece
    return data


def connect(address: str, key: str, config: Config, limit: float | None = None) -> RemoteDevice:
    """The device of the server at ``address``.

    ``limit``: seconds that a launch may take, at most the server's own. Raises InputError for a
    malformed address or key, DeviceError where no server answers in time or the key is another, and
    ProgramError where its machine has another configuration.
    """
    from tvm import rpc

    host, port = address_of(address)
    check_key(key)
    refused = f"the server at {address} refused: "
    other = "it speaks no TVM RPC, or has too many clients"
    try:
        with _connection(host, port, address) as connection:
            reason = None if _greet(connection, key) else "it has another key"
    except TimeoutError as error:
        raise DeviceError(
            f"the server at {address} did not answer within {PATIENCE:g} s; see that it is one of "
            "tvm-shiftadd serve and not stopped"
        ) from error
    except (OSError, ValueError) as error:
        raise DeviceError(refused + other) from error
    if reason is not None:
        raise DeviceError(refused + reason)
    try:
        session = rpc.connect(host, port, key)
    except Exception as error:
        raise DeviceError(refused + other) from error
    return RemoteDevice(_Session(session, address), config, limit)


def _connection(host: str, port: int, address: str) -> socket.socket:
    """A connection of our own, beside TVM's; DeviceError where there is none to be had."""
    try:
        return socket.create_connection((host, port), PATIENCE)
    except OSError as error:
        raise DeviceError(
            f"no server answers at {address} ({error.strerror or error}); start one with "
            "tvm-shiftadd serve"
        ) from error


def _greet(connection: socket.socket, key: str) -> bool:
    """Greet as TVM does, but with a deadline: TVM waits for the answer for ever.

    False where the server has another key; OSError or ValueError where it is no such server.
    """
    from tvm.rpc import base

    deadline = time.monotonic() + PATIENCE
    words = f"client:{key}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(words)) + words)
    (code,) = struct.unpack("<i", receive(connection, 4, deadline))
    if code not in (base.RPC_CODE_SUCCESS, base.RPC_CODE_MISMATCH):
        raise ValueError(f"an answer of TVM's RPC was expected, not {code:#x}")
    return bool(code == base.RPC_CODE_SUCCESS)


class _Session:
    """A connection to a server."""

    def __init__(self, session: Any, address: str) -> None:
        self._session, self._address = session, address

    def ask(self, name: str, *arguments: int | float | str | bytes) -> bytes:
        """Call a function; the error that it answers with is raised, DeviceError if it is gone."""
        try:
            answer = bytes(self._session.get_function(PREFIX + name)(*arguments))
        except Exception as error:
            raise DeviceError(
                f"the server at {self._address} broke off during {name}; see what it printed, and "
                "connect again"
            ) from error
        kind = ANSWERS.get(answer[:1], DeviceError)
        if kind is None:
            return answer[1:]
        raise kind(f"the server at {self._address}: {answer[1:].decode(errors='replace')}")


class RemoteDevice:
    """A server's device as a :class:`vta_ext.runtime.device.Device`."""

    def __init__(self, session: _Session, config: Config, limit: float | None) -> None:
        self._session, self._config = session, config
        session.ask("open", config.hash, limit or 0.0)

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self._config

    def load(self, program: Program) -> LoadedProgram:
        """See :class:`vta_ext.runtime.device.Device`."""
        program.require(self._config)
        return _Remote(self._session, int(self._session.ask("load", program.to_bytes())))


class _Remote:
    """A program on the server, which keeps it for as long as the connection lasts."""

    def __init__(self, session: _Session, number: int) -> None:
        self._session, self._number = session, number

    def write(self, offset: int, data: bytes) -> None:
        self._session.ask("write", self._number, offset, data)

    def read(self, offset: int, size: int) -> bytes:
        return self._session.ask("read", self._number, offset, size)

    def launch(self) -> None:
        self._session.ask("launch", self._number)

    def counters(self) -> Mapping[str, int]:
        found = json.loads(self._session.ask("counters", self._number))
        return {str(name): int(count) for name, count in found.items()}
