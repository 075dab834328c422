"""Machines of a tracker: none that answers, none to lend, and what is built for whom."""

from __future__ import annotations

import contextlib
import platform
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import tvm
from tvm.rpc import base

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError
from tvm_shiftadd.target import CPUTarget
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.topi.schedules.shapes import conv_shape
from tvm_shiftadd.tune import cpu_worker, remote


@contextlib.contextmanager
def listening(hello: bytes) -> Iterator[dict[str, Any]]:
    """Something at a port that says hello to everybody, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, taken = server.getsockname()[1], []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(hello)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield {"host": "127.0.0.1", "port": port, "key": "tests"}
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ANSWER", "_PATIENCE"):
        monkeypatch.setattr(remote, name, 0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("hello", [b"", struct.pack("<i", base.RPC_TRACKER_MAGIC), b"HTTP"])
def test_a_tracker_that_does_not_answer_is_not_waited_for(hello: bytes) -> None:
    before = socket.getdefaulttimeout()
    with listening(hello) as tracker:
        with pytest.raises(DeviceError, match="has lent no server for the key 'tests'") as caught:
            remote.session(tracker, 1.0).__enter__()
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="got no answer"):
            remote.servers(tracker["host"], tracker["port"], "tests")
    assert socket.getdefaulttimeout() == before


def test_a_tracker_that_is_gone_is_an_error() -> None:
    with listening(b"") as tracker:
        pass
    with pytest.raises(DeviceError, match=f":{tracker['port']} is gone"):
        remote.session(tracker, 1.0).__enter__()


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RuntimeError("g++: not found"), DependencyError, r"needs a C\+\+ compiler"),
        (TypeError("expected str, not NoneType"), DependencyError, r"needs a C\+\+ compiler"),
        (RuntimeError("ld: final link failed: No space left on device"), OSError, "No space left"),
    ],
)
def test_what_keeps_a_candidate_from_being_linked(
    error: Exception, kind: type[Exception], says: str
) -> None:
    class Executable:
        def export_library(self, path: str) -> None:
            raise error

    with pytest.raises(kind, match=says):
        remote.load(None, Executable())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="builds kernels for x86-64")
def test_weights_are_packed_by_this_machine_whatever_the_target_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel runs there, what prepares its weights here."""
    target, sent, built = CPUTarget(mcpu="znver5", num_threads=1), [], []
    compile_ = tvm.compile

    def spied(mod: Any, target: Any) -> Any:
        built.append(str(tvm.target.Target(target).attrs.get("mcpu", "")))
        return compile_(mod, target=target)

    def load(lent: Any, executable: Any, triple: str) -> Any:
        sent.append(executable)
        return {"main": lambda *tensors: None}

    @contextlib.contextmanager
    def session(tracker: Any, seconds: float) -> Iterator[Any]:
        assert (tracker, seconds) == ({"host": "there"}, 7.0)
        yield SimpleNamespace(cpu=tvm.cpu)

    monkeypatch.setattr(tvm, "compile", spied)
    monkeypatch.setattr(remote, "load", load)
    monkeypatch.setattr(remote, "session", session)
    shape = conv_shape((3, 3, 16), 16, 2, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    work = Workload("conv", shape, 16)
    config = {"target": asdict(target), "threads": 1, "tracker": {"host": "there"}, "timeout": 7.0}
    request = {"job": "verify", "workload": work.to_dict(), "parameters": {}}
    answer = cpu_worker.serve(config)(request)
    assert len(sent) == 1 and built == ["znver5", ""]
    assert "results are wrong" in answer["error"], "nothing has run there"
