"""The PYNQ driver's own code, with PYNQ replaced by a machine and a memory of this process."""

from __future__ import annotations

import fcntl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.rtl import equal, programs
from tests.relay_passes.onnx_networks import converted
from tests.vta_ext.kernels import Case, blocked_gemm, vector_add
from tests.vta_ext.offloading import dialect_module
from tests.vta_ext.programs import TINY
from tests.vta_ext.zynq.fake_pynq import MEMORY, FunctionalMachine, install
from tvm_shiftadd.errors import DependencyError, DeviceError, InputError, ProgramError
from vta_ext import presets
from vta_ext.boards import pynq_driver
from vta_ext.config import Config
from vta_ext.offload import offload
from vta_ext.rtl.map import COUNTERS
from vta_ext.runtime import placed
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.drivers import open_device


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for a bitstream and its description; the fake reads neither."""
    monkeypatch.setattr(pynq_driver, "_LOCK", tmp_path / "lock")
    for name in ("vta.bit", "vta.hwh"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "vta.bit"


@pytest.fixture
def memory() -> NDArray[np.uint8]:
    return np.zeros(MEMORY + (4 << 20), np.uint8)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, memory: NDArray[np.uint8]) -> FunctionalMachine:
    made = FunctionalMachine(TINY, memory)
    install(monkeypatch, made, memory)
    return made


def run(loaded: LoadedProgram, case: Case) -> None:
    """Twice, with other inputs before: what a run leaves must not be in the next one's way."""
    for inputs in ({name: np.zeros_like(v) for name, v in case.inputs.items()}, case.inputs):
        for name, values in inputs.items():
            loaded.write(case.program.section(name).offset, values.tobytes())
        loaded.launch()
    for name, values in case.expected.items():
        section = case.program.section(name)
        assert loaded.read(section.offset, section.size) == values.tobytes()


def test_programs_run_beside_each_other(machine: FunctionalMachine, overlay: Path) -> None:
    device = open_device(f"pynq:{overlay}", TINY)
    assert device.config == TINY
    cases = [blocked_gemm(TINY, "shift", 4, 3, 2), vector_add(TINY, 6)]
    for loaded, case in [(device.load(case.program), case) for case in cases] * 2:
        run(loaded, case)
    counters = loaded.counters()
    assert list(counters) == [name for name, _ in COUNTERS]
    assert counters["cycles"] == 21 and counters["store_waits"] == 8


def test_a_network(
    monkeypatch: pytest.MonkeyPatch, memory: NDArray[np.uint8], overlay: Path
) -> None:
    install(monkeypatch, FunctionalMachine(presets.SMALL, memory), memory)
    made = converted("residual")
    device = open_device(f"pynq:{overlay}", presets.SMALL)
    regions = offload(dialect_module(made.model, made.plan), presets.SMALL).regions
    assert regions
    assert all(equal(region.compiled.program, device, 1) for region in regions)


@pytest.mark.parametrize("forgotten", ["flush", "invalidate"])
def test_the_cache_is_kept_in_step(
    forgotten: str,
    machine: FunctionalMachine,
    overlay: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that forgets either computes with stale bytes, and the tests above see it."""
    monkeypatch.setattr(f"tests.vta_ext.zynq.fake_pynq.Buffer.{forgotten}", lambda self: None)
    case = vector_add(TINY, 6)
    loaded = open_device(f"pynq:{overlay}", TINY).load(case.program)
    with pytest.raises((AssertionError, ProgramError)):
        run(loaded, case)


def test_a_machine_that_does_not_end_is_loaded_again(
    machine: FunctionalMachine, overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = vector_add(TINY, 6)
    hurried = open_device(f"pynq:{overlay}", TINY, limit=1e-6).load(case.program)
    assert machine.resets == 1
    machine.stuck = True
    with pytest.raises(DeviceError, match=r"did not finish within 1e-06 s; allow more time"):
        hurried.launch()
    assert machine.resets == 2
    patient = open_device(f"pynq:{overlay}", TINY).load(case.program)
    run(patient, case)
    machine.stuck, machine.pace = True, 1 << 31
    monkeypatch.setattr(placed, "patience", lambda program: 1 << 33)
    late = open_device(f"pynq:{overlay}", TINY).load(case.program)
    with pytest.raises(DeviceError, match="many times the cycles it needs"):
        late.launch()
    assert machine.resets == 3
    # By then the counter, which has 32 bits, had passed zero twice.
    assert machine.wraps == 2


@pytest.mark.parametrize("anew", [True, False], ids=["loaded anew", "another program"])
def test_a_lost_run_is_no_finished_one(
    anew: bool, machine: FunctionalMachine, overlay: Path
) -> None:
    device = open_device(f"pynq:{overlay}", TINY)
    cases = vector_add(TINY, 6), blocked_gemm(TINY, "shift", 4, 3, 2)
    loaded, other = (device.load(case.program) for case in cases)
    machine.meanwhile = machine.reset if anew else other.launch
    with pytest.raises(DeviceError, match="the board lost the run"):
        loaded.launch()
    run(loaded, cases[0])


def test_a_process_loads_a_bitstream_once(machine: FunctionalMachine, overlay: Path) -> None:
    """Another device does not disturb a run; when all are gone the board is free again."""
    case = vector_add(TINY, 6)
    loaded = open_device(f"pynq:{overlay}", TINY).load(case.program)
    machine.meanwhile = lambda: open_device(f"pynq:{overlay}", TINY)
    run(loaded, case)
    assert machine.meanwhile is None and machine.resets == 1
    del loaded
    open_device(f"pynq:{overlay}", TINY)
    assert machine.resets == 2


def test_a_board_has_one_user(
    machine: FunctionalMachine, memory: NDArray[np.uint8], overlay: Path
) -> None:
    """Another process, or another bitstream, is refused until the board is free."""
    other = overlay.with_name("other.bit")
    for name in (other, other.with_suffix(".hwh")):
        name.touch()
    device = open_device(f"pynq:{overlay}", TINY)
    with pytest.raises(DeviceError, match="the board is in use, by another process or with"):
        open_device(f"pynq:{other}", TINY)
    assert machine.resets == 1
    del device
    with open(overlay.with_name("lock"), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="the board is in use"):
            open_device(f"pynq:{overlay}", TINY)
    assert open_device(f"pynq:{other}", TINY).config == TINY
    overlay.with_name("lock").unlink()
    overlay.with_name("lock").mkdir()
    with pytest.raises(DeviceError, match=r"lock cannot be opened \(Is a directory\)"):
        open_device(f"pynq:{overlay}", TINY)


def test_threads_take_turns(machine: FunctionalMachine, overlay: Path) -> None:
    device, case = open_device(f"pynq:{overlay}", TINY), vector_add(TINY, 6)
    loaded = [device.load(case.program) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: [run(one, case) for _ in range(5)], loaded))


def test_a_refused_access_is_an_error(machine: FunctionalMachine, overlay: Path) -> None:
    loaded = open_device(f"pynq:{overlay}", TINY).load(vector_add(TINY, 6).program)
    machine.refused = True
    with pytest.raises(DeviceError, match="access of the machine to memory was refused"):
        loaded.launch()
    assert machine.resets == 1


def test_what_goes_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch,
    machine: FunctionalMachine,
    memory: NDArray[np.uint8],
    overlay: Path,
) -> None:
    device = open_device(f"pynq:{overlay}", TINY)
    loaded = device.load(vector_add(TINY, 6).program)
    with pytest.raises(ProgramError, match=r"outside the \d+ bytes of DRAM"):
        loaded.write(-1, b"x")
    with pytest.raises(ProgramError, match="compile it for this device"):
        device.load(vector_add(presets.SMALL).program)
    with pytest.raises(ProgramError, match=f"has configuration {TINY.hash}, the program is for"):
        open_device(f"pynq:{overlay}", presets.SHIFT)
    with pytest.raises(InputError, match=r"found no .*other\.bit"):
        open_device(f"pynq:{overlay.with_name('other.bit')}", TINY)
    overlay.with_suffix(".hwh").unlink()
    with pytest.raises(InputError, match=r"found no .*vta\.hwh"):
        open_device(f"pynq:{overlay}", TINY)
    overlay.with_suffix(".hwh").touch()
    del device, loaded
    with pytest.raises(InputError, match=r"expected the device pynq:OVERLAY\.bit"):
        open_device("pynq", TINY)
    install(monkeypatch, machine, memory, cell="dma")
    with pytest.raises(InputError, match=r"the machine as 'vta', but .* has dma"):
        open_device(f"pynq:{overlay}", TINY)
    install(monkeypatch, machine, memory[: MEMORY + 256])
    with pytest.raises(DeviceError, match=r"no contiguous memory of .* cma="):
        open_device(f"pynq:{overlay}", TINY).load(vector_add(TINY, 6).program)
    install(monkeypatch, Empty(), memory)
    with pytest.raises(DeviceError, match="identity 0x56544158, the register holds 0xffffffff"):
        open_device(f"pynq:{overlay}", TINY)


class Empty:
    """Nothing behind the registers' addresses."""

    def read(self, register: int) -> int:
        return 0xFFFFFFFF

    def reset(self) -> None:
        pass


def test_without_pynq(monkeypatch: pytest.MonkeyPatch, overlay: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DependencyError, match="needs PYNQ, which runs on the board alone"):
        open_device(f"pynq:{overlay}", TINY)


def verilated(monkeypatch: pytest.MonkeyPatch, memory: NDArray[np.uint8], config: Config) -> None:
    """The Verilated machine as the board; each look at a register is a cycle of it."""
    pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
    from tests.vta_ext.rtl.scoreboard import open_simulation

    simulation = open_simulation(config)
    simulation.attach(memory)
    install(monkeypatch, simulation, memory)


@pytest.mark.rtl
def test_programs_on_the_verilated_machine(
    monkeypatch: pytest.MonkeyPatch, memory: NDArray[np.uint8], overlay: Path
) -> None:
    verilated(monkeypatch, memory, TINY)
    device = open_device(f"pynq:{overlay}", TINY)
    for case in (blocked_gemm(TINY, "shift", 4, 3, 2), vector_add(TINY, 6)):
        loaded = device.load(case.program)
        run(loaded, case)
        assert loaded.counters()["cycles"] > loaded.counters()["alu_micro_ops"]


@pytest.mark.rtl
@pytest.mark.data
@pytest.mark.parametrize("model", ["mlperftiny_ic_resnet8.onnx", "cifar10_akamaster_resnet20.onnx"])
def test_real_networks_on_the_verilated_machine(
    model: str,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: NDArray[np.uint8],
    overlay: Path,
) -> None:
    """The network of the board, through the driver: bits of the functional simulator."""
    verilated(monkeypatch, memory, presets.preset("pynq").config)
    for program in programs(data_dir / "models" / model, 1, "pynq"):
        device = open_device(f"pynq:{overlay}", program.config)
        assert equal(program, device, 1)
