"""Projects for Vivado: Verilog and Tcl, run against stand-ins for Vivado's commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import InputError
from vta_ext import presets
from vta_ext.boards import zynq, zynq_wrapper
from vta_ext.rtl import tools

pytestmark = pytest.mark.rtl

STUBS = Path(__file__).with_name("vivado_stubs.tcl")
BOARDS = sorted(zynq.BOARDS)
_PORT = re.compile(r"^  (in|out)put wire \[(\d+):0\] (\w+),?$", re.M)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each board; the machine is a small one, which has the same ports."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        made: dict[int, str] = {}
        whole = zynq_wrapper.to_verilog

        def small(config: object, bits: int) -> str:
            if bits not in made:
                made[bits] = whole(TINY, bits)
            return made[bits]

        patch.setattr(zynq_wrapper, "to_verilog", small)
        for name in BOARDS:
            found[name] = tmp_path_factory.mktemp(name)
            zynq.main(["--board", name, "--output", str(found[name])])
    return found


def ports(folder: Path) -> dict[str, str]:
    """The ports of the Verilog's top module and their directions."""
    text = (folder / f"{zynq_wrapper.TOP}.v").read_text()
    header = text[text.index(f"module {zynq_wrapper.TOP} (") :]
    return {name: kind for kind, _, name in _PORT.findall(header[: header.index(");")])}


def lint(script: Path, known: dict[str, str]) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("tclsh")
    if tool is None:
        pytest.skip("no tclsh")
    arguments = [f"{name}:{kind}" for name, kind in known.items()]
    return subprocess.run(
        [tool, str(STUBS), str(script), *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", BOARDS)
def test_scripts_run(name: str, projects: dict[str, Path]) -> None:
    folder = projects[name]
    known = ports(folder)
    assert len(known) == len(zynq_wrapper.ports(64)) > 50
    assert lint(folder / "package.tcl", known).returncode == 0
    done = lint(folder / "design.tcl", known)
    assert done.returncode == 0, done.stderr
    said = set(done.stdout.split("\n"))
    preset = presets.preset(name)
    assert f"address ps/Data vta/s_axi/reg0 {preset.register_base:#010x} 4K" in said
    assert {"join control/M00_AXI vta/s_axi", "join vta/m_axi memory/S00_AXI"} <= said
    clock = {"pynq": "PCW_FPGA0_PERIPHERAL", "ultra96": "PSU__CRL_APB__PL0_REF_CTRL__"}[name]
    width = {"pynq": "PCW_S_AXI_HP0", "ultra96": "PSU__SAXIGP2_"}[name]
    assert any(re.fullmatch(f"set ps {clock}_?FREQMHZ {preset.clock_mhz}", line) for line in said)
    assert f"set ps {width}_DATA_WIDTH {preset.memory_bits}" in said
    assert any(line.startswith("address vta/m_axi ps/") for line in said)


FAULTS = [
    ("vta/aclk", "vta/clk", "vta has no clk"),
    (" vta/aclk", "", "vta/aclk is open"),
    ("vta/s_axi\n", "vta/m_axi\n", "is driven by nothing"),
    ("vta/m_axi memory", "vta/memory memory", "vta has no memory"),
    ("vta/s_axi/reg0", "vta/s_axi/reg1", "has no vta/s_axi/reg1"),
    ("validate_bd_design", "validate_design", 'invalid command name "validate_design"'),
    ("-to_step", "-to", "unknown option -to"),
    ("CONFIG.NUM_MI", "CONFIG.MASTERS", "has no MASTERS"),
    ("smartconnect] $name", "smartconnect2] $name", "no IP xilinx.com:ip:smartconnect2"),
    ("/hw_handoff/", "/handoff/", "this Vivado has put vta.hwh"),
    ("save_bd_design", "save_bd_design {", "missing close-brace"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS, ids=[row[2] for row in FAULTS])
def test_faults_in_a_script_are_found(
    old: str, new: str, message: str, projects: dict[str, Path], tmp_path: Path
) -> None:
    text = (projects["pynq"] / "design.tcl").read_text()
    assert old in text
    (tmp_path / "design.tcl").write_text(text.replace(old, new))
    done = lint(tmp_path / "design.tcl", ports(projects["pynq"]))
    assert done.returncode and message in done.stderr


def test_a_port_that_is_missing_is_found(projects: dict[str, Path]) -> None:
    known = ports(projects["pynq"])
    del known["m_axi_awvalid"]
    done = lint(projects["pynq"] / "package.tcl", known)
    assert done.returncode and "m_axi_awvalid" in done.stderr


@pytest.mark.parametrize("bits", [64, 128])
def test_the_wrapper_elaborates(bits: int, tmp_path: Path) -> None:
    """All ports are joined with their widths: yosys warns of any that are not."""
    (tmp_path / "vta.v").write_text(zynq_wrapper.to_verilog(TINY, bits))
    script = f"read_verilog vta.v; hierarchy -check -top {zynq_wrapper.TOP}; proc; check -assert"
    done = subprocess.run(
        [tools.find("yosys"), "-q", "-e", ".*resize.*|.*width.*", "-p", script],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one of the boards pynq, ultra96, got 'ulx3s'"):
        zynq.write("ulx3s", tmp_path)
    with pytest.raises(InputError, match="a clock of 1 MHz or more, got 0"):
        zynq.write("pynq", tmp_path, 0)
