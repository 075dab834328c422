"""Machines that a tracker of TVM's RPC lends, one candidate at a time.

TVM's RPC has no passwords: whoever reaches a tracker or a server can run code there. Keep both on
one machine or on a network of one's own.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tvm import rpc

from tvm_shiftadd.errors import CompileError, DependencyError, DeviceError, InputError
from tvm_shiftadd.target import link

#: Seconds in which a tracker must answer, and attempts to get a server of it.
_ANSWER, _ATTEMPTS = 5.0, 3
#: Seconds that an attempt waits for a server that others have, and that all take at most.
_PATIENCE: Final = 20.0
WAITING: Final = _ATTEMPTS * (_PATIENCE + _ANSWER)
_LIBRARY = "candidate.so"


def servers(host: str, port: int, key: str) -> int:
    """How many servers a tracker has for a key. Raises InputError where there is no tracker."""
    try:
        with _tracker(host, port, _ANSWER) as connected:
            summary = connected.summary()
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"expected a tracker at {host}:{port}, got no answer; start one with python -m "
            "tvm.exec.rpc_tracker"
        ) from error
    found = [item for item in summary["server_info"] if item["key"] == f"server:{key}"]
    if not found:
        raise InputError(
            f"the tracker at {host}:{port} has no server for the key {key!r}; start one with "
            f"python -m tvm.exec.rpc_server --tracker {host}:{port} --key {key}"
        )
    return len(found)


@contextmanager
def session(tracker: Mapping[str, Any], seconds: float) -> Iterator[Any]:
    """A server of a tracker ("host", "port", "key"), given back afterwards.

    After ``seconds`` the server ends what still runs. Raises DeviceError where the tracker is gone
    or has none to lend.
    """
    host, port, key = str(tracker["host"]), int(tracker["port"]), str(tracker["key"])
    try:
        with _tracker(host, port, _PATIENCE) as connected:
            lent = connected.request(key, session_timeout=seconds, max_retry=_ATTEMPTS)
    except (RuntimeError, OSError) as error:
        raise DeviceError(
            f"the tracker at {host}:{port} is gone or has lent no server for the key {key!r}; see "
            "that both run, and give the same command again"
        ) from error
    try:
        yield lent
    finally:
        # The server takes back what a session has when the last reference to it goes.
        del lent


@contextmanager
def _tracker(host: str, port: int, seconds: float) -> Iterator[Any]:
    """A tracker that is waited for so long each time; OSError or RuntimeError without an answer."""
    # TVM's own attempts to reach one go on for a minute.
    socket.create_connection((host, port), timeout=_ANSWER).close()
    before = socket.getdefaulttimeout()
    # Its sockets have no other way to get one.
    socket.setdefaulttimeout(seconds)
    try:
        connected = rpc.connect_tracker(host, port)
        try:
            yield connected
        finally:
            connected.close()
    finally:
        socket.setdefaulttimeout(before)


def load(lent: Any, executable: Any, triple: str = "") -> Any:
    """A compiled module, sent to a server and loaded there; ``triple`` is its target's ``mtriple``.

    Raises DependencyError where it cannot be linked, CompileError where a cross linker fails, and
    OSError where the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as folder:
        path = Path(folder) / _LIBRARY
        try:
            link.export_library(executable, str(path), triple)
        except (RuntimeError, TypeError, CompileError) as error:
            # The linker has words of its own for that; without a compiler TVM calls None.
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error
            if isinstance(error, CompileError):
                raise
            raise DependencyError(
                "linking a candidate needs a C++ compiler (g++ or clang++ on the PATH)"
            ) from error
        lent.upload(str(path))
    return lent.load_module(_LIBRARY)
