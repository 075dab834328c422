"""What a server does with what clients send, and with drivers that hang."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm.rpc.base import RPC_CODE_MISMATCH, RPC_MAGIC

from tests.vta_ext import kernels
from tvm_shiftadd.errors import DeviceError, InputError
from vta_ext.isa import instruction as isa
from vta_ext.presets import SHIFT, SMALL
from vta_ext.program import Program
from vta_ext.runtime import rpc, server
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.server import Served


@pytest.fixture
def functions() -> dict[str, Any]:
    """A connection's functions, without the connection."""
    served = Served(lambda limit: SimulatorDevice(SHIFT, limit), 10.0)
    return {name.removeprefix(rpc.PREFIX): call for name, call in served.functions().items()}


def test_a_program_from_load_to_result(functions: dict[str, Any]) -> None:
    case = kernels.residual_pool(SHIFT)
    assert functions["open"](SHIFT.hash, 0.0) == b"+"
    assert functions["load"](case.program.to_bytes()) == b"+0"
    for name, values in case.inputs.items():
        assert functions["write"](0, case.program.section(name).offset, values.tobytes()) == b"+"
    assert functions["launch"](0) == b"+"
    for name, values in case.expected.items():
        section = case.program.section(name)
        answer = functions["read"](0, section.offset, section.size)
        assert answer[:1] == b"+"
        np.testing.assert_array_equal(np.frombuffer(answer[1:], values.dtype), values.ravel())
    assert functions["counters"](0) == b"+{}"


def test_what_is_refused(functions: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program = kernels.residual_pool(SHIFT).program
    data = program.to_bytes()
    assert functions["load"](data).startswith(b"Inothing was opened")
    assert functions["open"](SMALL.hash, 0.0).startswith(b"Pits machine has configuration")
    assert functions["load"](data).startswith(b"Inothing was opened")
    assert functions["open"](SHIFT.hash, 0.0) == b"+"
    for wrong in (b"", data[:-1], data[:-1] + b"x"):
        assert functions["load"](wrong)[:1] == b"P"
    unsafe = Program(SHIFT, (isa.store(sram_base=0, dram_base=0, x_size=1), isa.finish()))
    assert functions["load"](unsafe.to_bytes()).startswith(b"Pthe program is not safe to run")
    assert functions["load"](kernels.residual_pool(SMALL).program.to_bytes())[:1] == b"P"
    assert functions["load"](data) == b"+0"
    assert functions["read"](0, 0, 1 << 60).startswith(b"Pbytes 0 to")
    assert functions["launch"](1).startswith(b"Ithere is no program 1")
    monkeypatch.setattr(server, "MAX_PROGRAMS", 1)
    assert functions["load"](data).startswith(b"D1 programs of")
    monkeypatch.setattr(server, "MAX_PROGRAMS", 9)
    monkeypatch.setattr(server, "MAX_BYTES", program.dram_bytes)
    assert functions["load"](data).startswith(b"D1 programs of")


@given(
    name=st.sampled_from(["open", "load", "write", "read", "launch", "counters"]),
    arguments=st.lists(
        st.one_of(st.integers(), st.floats(), st.text(), st.binary(), st.none()), max_size=4
    ),
)
def test_nonsense_gets_an_answer(name: str, arguments: list[Any]) -> None:
    served = Served(lambda limit: SimulatorDevice(SHIFT, limit), 10.0)
    functions = served.functions()
    assert functions[rpc.PREFIX + "open"](SHIFT.hash, 0.0) == b"+"
    assert functions[rpc.PREFIX + name](*arguments)[:1] in (b"P", b"D", b"I", b"+")


def test_addresses_and_keys() -> None:
    assert rpc.address_of("localhost:80") == ("localhost", 80)
    assert rpc.address_of("[::1]:80") == ("::1", 80)
    for text in ("", "host", "host:", ":80", "host:0", "host:65536", "host:x", "host:²"):
        with pytest.raises(InputError, match="expected HOST:PORT"):
            rpc.address_of(text)
    for key in ("", "a b", "a\n", "x" * 129):
        with pytest.raises(InputError, match="expected a key"):
            rpc.check_key(key)


def test_a_greeting_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a byte now and then is not waited for again after each."""
    here, there = socket.socketpair()
    with here, there:
        words = b"client:secret"
        greeting = struct.pack("<ii", RPC_MAGIC, len(words)) + words
        there.sendall(greeting)
        assert server._shake_hands(here, "secret")
        clock = iter([0.0, 4.0, 8.0, 12.0])
        # Not the clock of the whole process, which other threads read.
        for module in (rpc, server):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        dripping = Dripping(here)
        there.sendall(greeting)
        with pytest.raises(TimeoutError, match="took too long"):
            server._shake_hands(dripping, "secret")  # type: ignore[arg-type]
        assert dripping.received == 2


def test_servers_that_say_nothing_or_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, where TVM's own client would wait for ever."""
    monkeypatch.setattr(rpc, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(DeviceError, match=r"did not answer within 0\.2 s"):
            rpc.connect(address, "secret", SHIFT)
    monkeypatch.undo()
    for answer, says in (
        (struct.pack("<i", RPC_CODE_MISMATCH), "refused: it has another key"),
        (b"HTTP/1.1 400 Bad Request", "refused: it speaks no TVM RPC"),
        (b"", "refused: it speaks no TVM RPC"),
    ):
        here, there = socket.socketpair()
        with there, monkeypatch.context() as patch:
            there.sendall(answer)
            there.shutdown(socket.SHUT_WR)
            patch.setattr(rpc, "_connection", lambda *_, here=here: here)
            with pytest.raises(DeviceError, match=says):
                rpc.connect("127.0.0.1:1", "secret", SHIFT)


class Dripping:
    """A connection whose bytes come one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.received = connection, 0

    def settimeout(self, seconds: float) -> None:
        self.connection.settimeout(seconds)

    def recv(self, count: int) -> bytes:
        self.received += 1
        return self.connection.recv(1)


class Hanging(SimulatorDevice):
    """Its driver never comes back."""

    def load(self, program: Program) -> Any:
        return self

    def write(self, offset: int, data: bytes) -> None:
        """Take it."""

    def counters(self) -> Mapping[str, int]:
        return {}

    def launch(self) -> None:
        time.sleep(60)


def serve_hanging() -> None:
    """One client at a time."""
    server._GRACE = 0.2  # type: ignore[misc]
    server.MAX_CLIENTS = 1  # type: ignore[misc]
    server.serve(
        lambda limit: Hanging(SHIFT, limit),
        key="secret",
        limit=0.2,
        ready=lambda port: print(port, flush=True),
    )


@pytest.fixture
def hanging() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server whose driver hangs, and its address."""
    code = "from tests.vta_ext.test_device_server import serve_hanging as s; s()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process, f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def test_a_driver_that_hangs_ends_its_connection_only(
    hanging: tuple[subprocess.Popen[str], str],
) -> None:
    program = kernels.residual_pool(SHIFT).program
    for _ in range(2):
        loaded = rpc.connect(hanging[1], "secret", SHIFT).load(program)
        with pytest.raises(DeviceError, match="broke off during launch"):
            loaded.launch()


def test_asking_first_takes_no_other_clients_place(
    hanging: tuple[subprocess.Popen[str], str],
) -> None:
    """As many clients as there may be, and no more."""
    program = kernels.residual_pool(SHIFT).program
    device = rpc.connect(hanging[1], "secret", SHIFT)
    with pytest.raises(DeviceError, match="has too many clients"):
        rpc.connect(hanging[1], "secret", SHIFT)
    device.load(program).write(0, b"x")


def test_connections_end_with_the_server(hanging: tuple[subprocess.Popen[str], str]) -> None:
    """SIGTERM, as service managers send it: no process of a connection outlives the server."""
    process, address = hanging
    loaded = rpc.connect(address, "secret", SHIFT).load(kernels.residual_pool(SHIFT).program)
    loaded.write(0, b"x")
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(DeviceError, match="broke off during write"):
        loaded.write(0, b"x")
