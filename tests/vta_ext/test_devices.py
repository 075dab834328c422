"""Devices by name: results, counters, time limits, and being usable after errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.vta_ext import kernels
from tests.vta_ext.kernels import Case
from tvm_shiftadd.errors import DeviceError, InputError, ProgramError
from vta_ext.config import Config
from vta_ext.presets import SHIFT, SMALL
from vta_ext.rtl import verilated
from vta_ext.runtime import device as devices
from vta_ext.runtime.device import LoadedProgram
from vta_ext.runtime.drivers import open_device
from vta_ext.sim.timing import TimingParameters, simulate


@pytest.fixture(scope="module")
def case() -> Case:
    return kernels.residual_pool(SHIFT)


def fill(loaded: LoadedProgram, case: Case) -> None:
    for name, values in case.inputs.items():
        loaded.write(case.program.section(name).offset, values.tobytes())


def check(loaded: LoadedProgram, case: Case) -> None:
    for name, values in case.expected.items():
        section = case.program.section(name)
        found = np.frombuffer(loaded.read(section.offset, section.size), values.dtype)
        np.testing.assert_array_equal(found, values.ravel())


@pytest.mark.parametrize("name", ("sim", "timing"))
def test_simulators_run_programs(name: str, case: Case) -> None:
    device = open_device(name, SHIFT)
    assert device.config == SHIFT
    first, second = device.load(case.program), device.load(case.program)
    for loaded in (first, second):
        fill(loaded, case)
        loaded.launch()
        loaded.launch()
        check(loaded, case)
    with pytest.raises(ProgramError, match="outside"):
        first.read(case.program.dram_bytes, 1)
    check(first, case)
    with pytest.raises(ProgramError, match="compile it for this device"):
        open_device(name, SMALL).load(case.program)


def test_counters(case: Case) -> None:
    assert open_device("sim", SHIFT).load(case.program).counters() == {}
    counted = open_device("timing", SHIFT).load(case.program).counters()
    assert counted["cycles"] == simulate(case.program).cycles


def test_the_memory_port_is_the_machines(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes what the timing model counts, and what hardware is built."""
    cycles = {}
    for bits in (32, 64, 128):
        loaded = open_device("timing", SHIFT, memory_bits=bits).load(case.program)
        cycles[bits] = loaded.counters()["cycles"]
        wanted = simulate(case.program, TimingParameters(memory_bits=bits)).cycles
        assert cycles[bits] == wanted
    assert cycles[32] > cycles[64] > cycles[128]
    with pytest.raises(InputError, match="memory_bits must be whole bytes"):
        open_device("timing", SHIFT, memory_bits=12)
    built: list[tuple[Config, int]] = []
    monkeypatch.setattr(
        verilated, "Simulation", lambda config, bits, memory: built.append((config, bits))
    )
    open_device("rtl", SHIFT, memory_bits=32)
    assert built == [(SHIFT, 32)]


def test_a_time_limit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that takes too long ends with a sentence; the next one works."""
    loaded = open_device("sim", SHIFT, limit=100).load(case.program)
    fill(loaded, case)
    clock = iter([0.0, 50.0, 101.0])
    monkeypatch.setattr(devices.time, "monotonic", lambda: next(clock))
    with pytest.raises(DeviceError, match="stopped the program after 100 s, at instruction 1 of"):
        loaded.launch()
    monkeypatch.setattr(devices.time, "monotonic", time.perf_counter)
    loaded.launch()
    check(loaded, case)


def test_wrong_names_and_limits() -> None:
    with pytest.raises(InputError, match="no device 'fpga'; the devices are sim, timing"):
        open_device("fpga", SHIFT)
    for text in ("sim:", "sim:1", "serial", "serial:"):
        with pytest.raises(InputError, match=f"expected the device .*, got {text}$"):
            open_device(text, SHIFT)
    for limit in (0.0, -1.0, float("nan"), float("inf"), 1e300):
        with pytest.raises(InputError, match="more than 0 seconds"):
            open_device("sim", SHIFT, limit)
