"""The table of the GPU kernels' machine code, without the tools that make it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_code.py"
_MESSAGES = """ptxas info    : Compiling entry function 'k' for 'sm_80'
    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 44 registers, used 1 barriers, 512 bytes smem
"""
_ASSEMBLY = "\n".join(
    [
        "        /*0000*/                   MOV R1, c[0x0][0x28] ;",
        ".L_x_1:",
        *["        /*0010*/                   IMMA.16832.U8.S8 R4, R8, R12, R4 ;"] * 15,
        *["        /*0020*/              @!P0 LDS.128 R24, [R0] ;"] * 5,
        "        /*0030*/               @P1 BRA `(.L_x_1) ;",
        "        /*0040*/                   STG.E [R2.64], R4 ;",
        ".L_x_2:",
        "        /*0050*/                   BRA `(.L_x_2) ;",
    ]
)


@pytest.fixture(scope="module")
def gpu_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_code", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_code"] = module
    spec.loader.exec_module(module)
    return module


def test_the_longest_loop_is_counted(gpu_code: ModuleType) -> None:
    code = gpu_code.parse(_MESSAGES, _ASSEMBLY)
    assert (code.registers, code.spills) == (44, 12)
    assert code.loop == {"IMMA.16832.U8.S8": 15, "LDS.128": 5}
    assert code.products == 15 * 128 / 20


def test_code_without_a_loop_is_counted_whole(gpu_code: ModuleType) -> None:
    code = gpu_code.parse(_MESSAGES, _ASSEMBLY.replace("BRA", "EXIT"))
    assert code.loop["STG.E"] == 1


def test_every_kind_of_kernel_is_there(gpu_code: ModuleType) -> None:
    found = {
        type(gpu_code.by_rule(work.problem(), work.images, 80)).__name__ for work in gpu_code.WORKS
    }
    assert found == {
        "MatrixParameters",
        "TileParameters",
        "DepthwiseParameters",
        "VectorParameters",
    }
