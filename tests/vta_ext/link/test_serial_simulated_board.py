"""The board's whole system, Verilated, on a pseudo-terminal, by the code that drives a real one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
pytest.importorskip("serial", reason="no pyserial: pip install 'tvm-shiftadd[boards]'")
pytest.importorskip("pty", reason="this system has no pseudo-terminals")

from benchmarks.rtl import equal
from tests.relay_passes.onnx_networks import converted
from tests.vta_ext.kernels import blocked_gemm, vector_add
from tests.vta_ext.offloading import dialect_module
from tvm_shiftadd.errors import DependencyError, DeviceError
from vta_ext.boards import BOARDS
from vta_ext.boards.simulated import RATE, SimulatedBoard
from vta_ext.builder import ProgramBuilder
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Tokens
from vta_ext.link.device import SerialDevice, Session
from vta_ext.link.host import Link, Patience
from vta_ext.link.port import Port
from vta_ext.offload import offload
from vta_ext.rtl.map import Register
from vta_ext.runtime.drivers import open_device

SMALL = BOARDS["ulx3s-85f-small"]
#: The same with an SDRAM of 8 MiB.
SDRAM = replace(SMALL, memory_bits=16, block_memory=0, sdram=8 << 20)

pytestmark = pytest.mark.rtl


@pytest.fixture(scope="module", params=[SMALL, SDRAM], ids=["block memory", "sdram"])
def board(request: pytest.FixtureRequest) -> Iterator[SimulatedBoard]:
    try:
        found = SimulatedBoard(request.param)
    except DependencyError as error:
        pytest.skip(str(error))
    yield found
    found.close()


class DisturbedPort(Port):
    """A port on which every so many writes and reads something goes wrong, from a seed."""

    def __init__(self, name: str, every: int) -> None:
        super().__init__(name, RATE)
        self._every, self._random = every, random.Random(every)
        self.faults = 0

    def write(self, data: bytes) -> None:
        super().write(self._disturbed(data))

    def read(self, seconds: float) -> bytes:
        found = super().read(seconds)
        return self._disturbed(found) if found else found

    def _disturbed(self, data: bytes) -> bytes:
        draw = self._random
        if draw.randrange(self._every):
            return data
        self.faults += 1
        at = draw.randrange(len(data))
        return draw.choice(
            [
                data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
                data[:at],
                data[:at] + data[at + 1 :],
                data[: at + 1] + data[at:],
                data[:at] + draw.randbytes(5) + data[at:],
                b"",
            ]
        )


def test_programs_and_a_network(board: SimulatedBoard) -> None:
    """By name, as a user opens it; outputs as the functional simulator has them."""
    device = open_device(f"serial:{board.port},{RATE}", SMALL.config)
    assert isinstance(device, SerialDevice)
    for case in (blocked_gemm(SMALL.config, "shift", 4, 3, 2), vector_add(SMALL.config)):
        assert equal(case.program, device, 2)
    made = converted("residual")
    for region in offload(dialect_module(made.model, made.plan), SMALL.config).regions:
        assert equal(region.compiled.program, device, 1)


def test_a_disturbed_line(board: SimulatedBoard) -> None:
    """A third of the transfers is damaged: commands are sent again, results are the same."""
    port = DisturbedPort(board.port, 3)
    link = Link(port, "it", baud=RATE, patience=Patience(0.05, 30))
    device = SerialDevice(Session(link), SMALL.config)
    assert equal(blocked_gemm(SMALL.config, "shift", 20, 3, 2).program, device, 2)
    assert port.faults > 3 and link.repeated > 2
    port.close()


def test_a_machine_that_waits_for_ever(board: SimulatedBoard) -> None:
    """It is reset in the midst of a run, and runs the next program as ever."""
    port = Port(board.port, RATE)
    device = SerialDevice(Session(Link(port, baud=RATE)), SMALL.config)
    waiting = ProgramBuilder(SMALL.config)
    waiting.output("y", 64)
    waiting.append(isa.finish(Tokens(pop_prev=True)))
    stuck = device.load(waiting.build())
    stuck._most = 2000
    good = vector_add(SMALL.config).program
    assert equal(good, device, 1)
    with pytest.raises(DeviceError, match="did not finish in many times"):
        stuck.launch()
    assert equal(good, device, 1)
    # Another host finds it in the midst of a run.
    stuck._most = 1 << 40
    link = Link(port, baud=RATE)
    link.write_registers(Register.ARENA, stuck._arena, stuck._arena + stuck._behind, 1)
    link.write_registers(Register.CONTROL, 1)
    with pytest.raises(DeviceError, match="refused to read memory: its memory is in use"):
        link.read(0, 4)
    assert equal(good, SerialDevice(Session(Link(port, baud=RATE)), SMALL.config), 1)
    port.close()


def test_a_line_that_is_cut(board: SimulatedBoard) -> None:
    """One sentence, after its tries; the line works again as soon as it is back."""
    port = DisturbedPort(board.port, 1 << 60)
    link = Link(port, "the board", baud=RATE)
    device = SerialDevice(Session(link), SMALL.config)
    port._disturbed = lambda data: b""  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="the board was asked 6 times and sent nothing"):
        device.load(vector_add(SMALL.config).program)
    port._disturbed = lambda data: data  # type: ignore[method-assign]
    assert equal(vector_add(SMALL.config).program, device, 1)
    port.close()
