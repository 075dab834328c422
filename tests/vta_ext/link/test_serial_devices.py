"""Boards on serial lines as devices: programs, errors, ports."""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from tests.vta_ext import kernels
from tests.vta_ext.link.far_side import Line, SoftwareBoard
from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import DependencyError, DeviceError, InputError, ProgramError
from vta_ext.link import device as serial_device
from vta_ext.link.device import SerialDevice, Session
from vta_ext.link.frames import BAUD
from vta_ext.link.host import Link
from vta_ext.link.memory import Places
from vta_ext.link.port import Port, parse
from vta_ext.presets import SMALL
from vta_ext.runtime import placed
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.drivers import open_device

NO_PYSERIAL = "no pyserial: pip install 'tvm-shiftadd[boards]'"


def opened(board: SoftwareBoard, line: Line | None = None, **more: float | None) -> SerialDevice:
    line = line or Line(board)
    return SerialDevice(Session(Link(line, clock=line.clock)), board.config, **more)


def check(loaded: LoadedProgram, case: kernels.Case) -> None:
    for name, values in case.inputs.items():
        loaded.write(case.program.section(name).offset, values.tobytes())
    loaded.launch()
    for name, values in case.expected.items():
        section = case.program.section(name)
        found = np.frombuffer(loaded.read(section.offset, section.size), values.dtype)
        np.testing.assert_array_equal(found, values.ravel())


def test_programs_share_a_board() -> None:
    board = SoftwareBoard(TINY)
    board.memory[:] = np.random.default_rng(1).bytes(len(board.memory))
    device = opened(board)
    cases = [kernels.blocked_gemm(TINY, "shift", 4, 3, 2), kernels.vector_add(TINY, 6)]
    loaded = [device.load(case.program) for case in cases]
    for _ in range(2):
        for one, case in zip(loaded, cases, strict=True):
            check(one, case)
            assert one.counters()["cycles"] == 1234
    # The constants were sent once: inputs, registers and a start are all that a launch needs.
    board.done.clear()
    check(loaded[1], cases[1])
    assert len(board.done) == len(cases[1].inputs) + 2


def test_memory_is_free_again() -> None:
    board = SoftwareBoard(TINY, 2048)
    device = opened(board)
    case = kernels.vector_add(TINY, 6)
    first = device.load(case.program)
    with pytest.raises(DeviceError, match="of the board's memory, which has 2048 and"):
        for _ in range(9):
            first = [first, device.load(case.program)]
    del first
    check(device.load(case.program), case)


def test_places() -> None:
    places = Places(1024, 256)
    one, two, three = places.take(100), places.take(257), places.take(1)
    assert (one, two, three) == (0, 256, 768)
    with pytest.raises(DeviceError, match=r"needs 257 bytes .* has 1024 and 358 of them in use"):
        places.take(257)
    places.give(two)
    assert places.take(512) == 256
    assert Places(512, 256).take(512) == 0


def test_a_machine_that_does_not_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up and reset, by cycles, by time and by standing still; then the device goes on.

    The counter of cycles has 32 bits, and passes zero here before the limit.
    """
    board = SoftwareBoard(TINY)
    case = kernels.vector_add(TINY, 6)
    monkeypatch.setattr(placed, "patience", lambda program: 1 << 33)
    for reason, limit, pace in (
        ("in many times the cycles", None, 1 << 31),
        ("within 1e-06 s", 1e-6, 1000),
        ("in many times the cycles", None, 0),
    ):
        loaded = opened(board, limit=limit).load(case.program)
        resets, board.hangs, board.pace = board.resets, True, pace
        with pytest.raises(DeviceError, match=f"did not finish {reason}"):
            loaded.launch()
        board.hangs = False
        check(opened(board).load(case.program), case)
        if limit is None:
            check(loaded, case)
        assert board.resets > resets


def test_a_lost_run_is_no_finished_one() -> None:
    """A board that is configured anew during a run rests, too."""
    board = SoftwareBoard(TINY)
    case, line = kernels.vector_add(TINY, 6), Line(board)
    loaded = opened(board, line).load(case.program)
    board.hangs = True

    def anew(data: bytes) -> bytes:
        line.board = SoftwareBoard(TINY)
        line.board.memory[:] = board.memory
        return data

    # Reset, arena and start, with their answers; then the first look.
    line.faults = iter([bytes] * 6 + [anew])
    with pytest.raises(DeviceError, match="the board lost the run"):
        loaded.launch()
    assert line.board is not board
    check(loaded, case)


def test_a_line_that_breaks_during_a_run() -> None:
    """Whatever the machine was doing when the line came back, it is reset before the next use."""
    board = SoftwareBoard(TINY)
    case, line = kernels.vector_add(TINY, 6), Line(board)
    loaded = opened(board, line).load(case.program)
    board.hangs = True
    line.faults = iter([bytes] * 6 + [lambda d: b""] * 100)
    with pytest.raises(DeviceError, match="asked 6 times and sent nothing"):
        loaded.launch()
    assert board.registers[3] == 1
    line.faults, board.hangs = iter(()), False
    check(loaded, case)


def test_what_is_refused() -> None:
    board = SoftwareBoard(SMALL)
    case = kernels.vector_add(TINY, 6)
    line = Line(board)
    with pytest.raises(ProgramError, match=f"has configuration {SMALL.hash}, the program is for"):
        SerialDevice(Session(Link(line, clock=line.clock)), TINY)
    device = opened(board)
    with pytest.raises(ProgramError, match="compile it for this device"):
        device.load(case.program)
    loaded = opened(SoftwareBoard(TINY)).load(case.program)
    with pytest.raises(ProgramError, match="outside the"):
        loaded.write(case.program.dram_bytes - 1, b"12")
    with pytest.raises(ProgramError, match="outside the"):
        loaded.read(-1, 1)


class FakePort(Line):
    """A line that counts how often it was opened."""

    opened: ClassVar[list[tuple[str, int]]] = []
    lost = False

    def __init__(self, name: str, baud: int) -> None:
        super().__init__(SoftwareBoard(TINY))
        self.opened.append((name, baud))


def test_a_port_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of one port share its memory; it is opened again when it was given up or lost."""
    monkeypatch.setattr(serial_device, "Port", FakePort)
    monkeypatch.setattr(FakePort, "opened", [])
    case = kernels.vector_add(TINY, 6)
    devices = [open_device("serial:a", TINY) for _ in range(2)]
    loaded = [device.load(case.program) for device in devices]
    for one in loaded:
        one.write(0, bytes(8))
    for one in (*loaded, loaded[0]):
        check(one, case)
    assert FakePort.opened == [("a", BAUD)]
    open_device("serial:b", TINY)
    assert FakePort.opened.pop() == ("b", BAUD)
    with monkeypatch.context() as lost:
        lost.setattr(FakePort, "lost", True)
        devices.append(open_device("serial:a", TINY))
    assert len(FakePort.opened) == 2
    devices.clear()
    loaded.clear()
    del one
    open_device("serial:a", TINY)
    assert len(FakePort.opened) == 3


def test_threads_take_turns() -> None:
    """Launches of several threads do not come between each other's commands."""
    board = SoftwareBoard(TINY)
    device, case = opened(board), kernels.vector_add(TINY, 6)
    loaded = [device.load(case.program) for _ in range(4)]
    for one in loaded:
        for name, values in case.inputs.items():
            one.write(case.program.section(name).offset, values.tobytes())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: loaded[number % 4].launch(), range(40)))
    assert board.runs == 40
    for one in loaded:
        check(one, case)


def test_names_of_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("/dev/ttyUSB0") == ("/dev/ttyUSB0", BAUD)
    assert parse("COM3,115200") == ("COM3", 115200)
    assert parse("/dev/serial/by-id/a,b,9600") == ("/dev/serial/by-id/a,b", 9600)
    with pytest.raises(
        InputError, match=r"expected serial:PORT or serial:PORT,BAUD, .* serial:ttyS0,0"
    ):
        parse("ttyS0,0")
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        serial_device, "Port", lambda *named: asked.append(named) or Line(SoftwareBoard(TINY))
    )
    assert open_device("serial:/dev/ttyUSB7,9600", TINY, limit=5).config == TINY
    assert asked == [("/dev/ttyUSB7", 9600)]
    with pytest.raises(InputError, match=r"expected the device serial:PORT\[,BAUD\], got serial$"):
        open_device("serial", TINY)
    with pytest.raises(InputError, match="expected the device sim, got sim:x"):
        open_device("sim:x", TINY)


def test_ports_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "serial", None)
        with pytest.raises(DependencyError, match=r"pip install 'tvm-shiftadd\[boards\]'"):
            open_device("serial:ttyUSB0", TINY)
    pytest.importorskip("serial", reason=NO_PYSERIAL)
    with pytest.raises(DeviceError, match=r"cannot open the serial port .*missing"):
        Port(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="no serial port nonsense://x"):
        Port("nonsense://x")


def test_a_port_whose_board_is_silent_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that another try, or another process, can have it, whoever keeps the error."""
    made: list[Silent] = []
    monkeypatch.setattr(serial_device, "Port", lambda *named: made.append(Silent()) or made[-1])
    with pytest.raises(DeviceError):
        open_device("serial:a", TINY)
    assert made[0].closed


class Silent:
    """A port that is lost as soon as it is used."""

    closed = False

    def write(self, data: bytes) -> None:
        raise DeviceError("lost")

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("problem", [OSError("gone"), RuntimeError("unforeseen")])
def test_a_port_that_cannot_be_prepared_is_closed(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = pytest.importorskip("serial", reason=NO_PYSERIAL)
    port = serial.serial_for_url("loop://")

    def fail() -> None:
        raise problem

    monkeypatch.setattr(port, "reset_input_buffer", fail)
    monkeypatch.setattr(serial, "serial_for_url", lambda *_, **__: port)
    with pytest.raises((DeviceError, RuntimeError)):
        Port("loop://")
    assert not port.is_open


def test_a_port_without_low_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyserial knows that mode on Linux only."""
    serial = pytest.importorskip("serial", reason=NO_PYSERIAL)
    port = serial.serial_for_url("loop://")

    def unknown(mode: bool) -> None:
        raise NotImplementedError

    monkeypatch.setattr(port, "set_low_latency_mode", unknown, raising=False)
    monkeypatch.setattr(serial, "serial_for_url", lambda *_, **__: port)
    with contextlib.closing(Port("loop://")) as found:
        found.write(b"1")
        assert found.read(1) == b"1"


def test_a_port_is_bytes_both_ways_until_it_is_lost() -> None:
    """The loop of pyserial, then what it raises when closed."""
    pytest.importorskip("serial", reason=NO_PYSERIAL)
    port = Port("loop://")
    port.write(b"123")
    assert port.read(1) == b"123"
    assert port.read(0.01) == b""
    port.close()
    for use in (lambda: port.write(b"1"), lambda: port.read(1)):
        with pytest.raises(DeviceError, match="serial port loop:// is lost"):
            use()
