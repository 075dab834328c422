"""Machines that a tracker of TVM's RPC lends, one candidate at a time.

TVM's RPC has no passwords: whoever reaches a tracker or a server can run code there. Keep both on
one machine or on a network of one's own.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvm import rpc

from tvm_shiftadd.errors import DependencyError, InputError

#: Seconds in which a tracker must answer, that a server may be held, and attempts to get one.
_ANSWER, _SESSION, _ATTEMPTS = 5.0, 60, 3
_LIBRARY = "candidate.so"


def servers(host: str, port: int, key: str) -> int:
    """How many servers a tracker has for a key. Raises InputError where there is no tracker."""
    try:
        # TVM's own attempts go on for a minute.
        socket.create_connection((host, port), timeout=_ANSWER).close()
        summary = rpc.connect_tracker(host, port).summary()
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
def session(tracker: Mapping[str, Any]) -> Iterator[Any]:
    """A server of a tracker ("host", "port", "key"), given back afterwards."""
    connected = rpc.connect_tracker(str(tracker["host"]), int(tracker["port"]))
    lent = connected.request(str(tracker["key"]), session_timeout=_SESSION, max_retry=_ATTEMPTS)
    try:
        yield lent
    finally:
        # The server takes back what a session has when the last reference to it goes.
        del lent


def load(lent: Any, executable: Any) -> Any:
    """A compiled module, sent to a server and loaded there."""
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as folder:
        path = Path(folder) / _LIBRARY
        try:
            executable.export_library(str(path))
        except RuntimeError as error:
            raise DependencyError(
                "linking a candidate needs a C++ compiler (g++ or clang++ on the PATH)"
            ) from error
        lent.upload(str(path))
    return lent.load_module(_LIBRARY)
