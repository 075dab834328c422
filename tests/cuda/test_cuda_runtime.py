"""TVM's own runtime for CUDA takes what artifacts hold: run against a driver that only listens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.target import cuda_runtime

HERE = Path(__file__).parent

#: Run in a process of its own, since TVM's runtime stays loaded.
PROGRAM = """
import ctypes, os, sys
import tvm
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
import numpy as np
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.errors import DeviceError
from tvm_shiftadd.target import cuda_runtime
images = np.zeros((3, 1, 8, 8), np.float32)
def fail(what):
    os.environ["DRIVER_FAILS"] = what
    try:
        Artifact.load(sys.argv[2]).run(images)
    except DeviceError as error:
        print("failed", what, error, flush=True)
    del os.environ["DRIVER_FAILS"]
fail("version")
fail("module")
artifact = Artifact.load(sys.argv[2])
result = artifact.run(images)
print("result", result.shape, flush=True)
try:
    cuda_runtime.device("sm_90")
except DeviceError as error:
    print(error)
fail("memory")
fail("launch")
"""


def build(folder: Path, name: str, define: str) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder.mkdir(parents=True)
    versions = folder / "versions"
    versions.write_text(f"{name} {{ global: *; }};\n", encoding="ascii")
    linked = f"-Wl,-soname,{name},--version-script={versions}"
    arguments = ["-shared", "-fPIC", "-w", define, str(HERE / "driver.c"), linked]
    subprocess.run([compiler, *arguments, "-o", str(folder / name)], check=True)
    return folder / name


@pytest.mark.skipif(cuda_runtime.driver() is not None, reason="an NVIDIA driver is here")
def test_tvms_runtime_loads_the_ptx_and_finds_every_kernel(
    artifact: Artifact, tmp_path: Path
) -> None:
    driver = build(tmp_path / "driver", "libcuda.so.1", "-DDRIVER")
    # Where NVIDIA's wheel would have it.
    build(tmp_path / "site" / "nvidia" / "cu13" / "lib", "libcudart.so.13", "-DRUNTIME")
    artifact.save(tmp_path / "artifact")
    path = os.pathsep.join([str(tmp_path / "site"), str(HERE.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(driver), str(tmp_path / "artifact")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "result (3, 10)" in lines
    assert "module sm_86" in lines
    assert sum(line.startswith("launch") for line in lines) > 10
    assert not any(line.startswith("wrong") for line in lines)
    assert any(line.endswith("none is visible here (device 0 has 8.6)") for line in lines)
    failed = {line.split()[1]: line for line in lines if line.startswith("failed")}
    assert list(failed) == ["version", "module", "memory", "launch"]
    needed = "CUDA 13.0 or newer, which is release 580 or newer; got one of CUDA 12.4"
    assert failed["version"].endswith(needed)
    for what in ("module", "memory", "launch"):
        assert re.search(
            r"the GPU broke off \(.*(CUDA|cu).*\); where memory is short", failed[what]
        )
