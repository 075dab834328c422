"""``deploy ARTIFACT`` and the hardware's counters, on boards that are simulated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import digits
from tests.end_to_end.digits import said
from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import DependencyError
from vta_ext.boards import BOARDS
from vta_ext.config import Config
from vta_ext.link import device as serial_link
from vta_ext.runtime.device import LoadedProgram, TimingDevice

BOARD = BOARDS["ulx3s-85f-small"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and artifacts for the board, ``small``, and the CPU, ``cpu``."""
    folder = tmp_path_factory.mktemp("digits")
    digits.compile_into(folder, small=f"vta:{BOARD.name}", cpu="cpu")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serial ports are the timing simulator; which ones were opened."""
    found: list[str] = []

    def open_serial(
        config: Config, limit: float | None = None, memory_bits: int = 64, address: str = ""
    ) -> TimingDevice:
        found.append(address)
        return TimingDevice(config, limit, memory_bits)

    monkeypatch.setattr(serial_link, "open_serial", open_serial)
    return found


def test_a_random_image_on_a_serial_port(
    place: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    deploy = ["deploy", place / "small", "--board", BOARD.name, "--port", "/dev/ttyUSB7,9600"]
    found = said(capsys, *deploy)
    assert opened == ["/dev/ttyUSB7,9600"]
    assert (found["device"], found["images"], found["equal"]) == (
        "serial:/dev/ttyUSB7,9600",
        1,
        True,
    )
    cycles = said(capsys, "profile", place / "small")["cycles"]
    assert found["counted"] == {"launches": 1, "cycles": cycles} | {
        "gemm_micro_ops": found["counted"]["gemm_micro_ops"]
    }
    assert found["milliseconds"] == pytest.approx(cycles / BOARD.clock_mhz / 1000)
    assert 4096 < found["program_bytes"] < BOARD.memory
    assert main([*map(str, deploy), "--input", str(place / "x.npz")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "5 images run in" in text and "results equal to the simulator's" in text
    assert f"ms an image on the accelerator at {BOARD.clock_mhz} MHz" in text
    assert "launches 5" in " ".join(text.replace("│", " ").split())


def test_a_server(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-m", "tvm_shiftadd.cli", "serve", BOARD.name, "--device", "timing"]
    process = subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        server = json.loads(process.stdout.readline())
        there = ["--rpc", server["address"], "--key", server["key"]]
        found = said(capsys, "deploy", place / "small", "--board", BOARD.name, *there)
        counted = said(capsys, "profile", place / "small", *there)["device"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()
    assert found["device"] == server["address"]
    assert counted == found["counted"]


def test_a_board_that_computes_something_else(
    place: Path,
    opened: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = TimingDevice.load

    def broken(self: TimingDevice, program: Any) -> LoadedProgram:
        loaded = load(self, program)
        read = loaded.read
        loaded.read = lambda offset, size: bytes(byte ^ 64 for byte in read(offset, size))  # type: ignore[method-assign]
        return loaded

    monkeypatch.setattr(TimingDevice, "load", broken)
    arguments = ["deploy", place / "small", "--board", BOARD.name, "--port", "p"]
    assert main([*map(str, arguments), "--input", str(place / "x.npz"), "--json"]) == 1
    error = capsys.readouterr().err
    assert "computes something else than the functional simulator: 50 of 50 values" in error
    assert "bitstream" in error


def test_what_is_refused(
    place: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    small, here = place / "small", ["--port", "p"]
    cases = [
        ([small, "--board", BOARD.name], "say where the board is, with one of --port"),
        ([small, "--board", BOARD.name, *here, "--rpc", "h:1"], "with one of --port"),
        ([small, "--board", BOARD.name, *here, "--key", "k"], "--key is for --rpc"),
        ([small, "--board", "ulx3s-85f", *here], "compile it with --target vta:ulx3s-85f"),
        ([place / "cpu", "--board", BOARD.name, *here], "is made for cpu, not for the machine of"),
        ([place / "none", "--board", BOARD.name, *here], "is not an artifact directory"),
        ([small, "--board", "pynq", *here], "pynq has no serial link: on the board run"),
        ([small, "--board", BOARD.name, "--stage", "report"], "--stage: for deploy without an"),
        (["--board", BOARD.name, *here, "--input", "x"], "--port, --input: for deploy with an"),
        (["--board", BOARD.name, "--key", "k"], "--key: for deploy with an ARTIFACT"),
        ([small, "--board", BOARD.name, *here, "--time-limit", "0"], "a time limit of more than"),
    ]
    for arguments, words in cases:
        assert main(["deploy", *map(str, arguments)]) in (1, 2)
        error = " ".join(capsys.readouterr().err.split())
        assert words in error, (arguments, error)
    assert not opened
    assert main(["profile", str(place / "cpu"), "--device", "sim"]) == 2
    assert "--device, --time-limit and --rpc are for artifacts" in capsys.readouterr().err


def test_counters_beside_the_timing_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "profile", place / "small", "--device", "timing")
    assert found["device"]["cycles"] == found["cycles"]
    assert "device" not in said(capsys, "profile", place / "small")
    assert main(["profile", str(place / "small"), "--device", "timing"]) == 0
    assert "On the device" in capsys.readouterr().out


@pytest.fixture
def simulated() -> Iterator[Any]:
    """The board's whole system, Verilated, behind a pseudo-terminal."""
    pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
    pytest.importorskip("serial", reason="no pyserial: pip install 'tvm-shiftadd[boards]'")
    pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    from vta_ext.boards.simulated import SimulatedBoard

    try:
        board = SimulatedBoard(BOARD)
    except DependencyError as error:
        pytest.skip(str(error))
    yield board
    board.close()


@pytest.mark.rtl
def test_the_hardware_counts(
    place: Path, simulated: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cycles of the Verilated machine, alone and in its board, beside the timing model's."""
    from vta_ext.boards.simulated import RATE
    from vta_ext.rtl.map import COUNTERS

    port = f"{simulated.port},{RATE}"
    deployed = said(capsys, "deploy", place / "small", "--board", BOARD.name, "--port", port)[
        "counted"
    ]
    model = said(capsys, "profile", place / "small", "--device", "rtl")
    assert set(deployed) == set(model["device"]) == {"launches", *(name for name, _ in COUNTERS)}
    for counted in (deployed, model["device"]):
        assert counted["cycles"] == pytest.approx(model["cycles"], rel=0.3)
        assert counted["gemm_micro_ops"] == deployed["gemm_micro_ops"]
