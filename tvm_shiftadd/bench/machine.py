"""What figures were measured on: processor, memory, system, versions of the software."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from tvm_shiftadd import __version__
from tvm_shiftadd._processor import vector_features
from tvm_shiftadd.target.runtime import available_cores

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

#: Distributions whose versions decide what is measured.
PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "openvino", "torch", "torchao")


@dataclass(frozen=True)
class Machine:
    """The machine and the software. ``caches`` in bytes by level ("L2"), data caches only.

    ``load`` is the number of processes that wanted to run, over the last minute, when the
    measurement began; None where the system does not tell.
    """

    processor: str
    features: tuple[str, ...]
    cores: int
    caches: dict[str, int]
    memory: int | None
    system: str
    python: str
    versions: dict[str, str]
    date: str
    load: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def line(self) -> str:
        """The machine in one line."""
        dots = [f for f in self.features if "vnni" in f] or ["no VNNI"]
        load = "" if self.load is None else f", load average {self.load}"
        return f"{self.processor}, {self.cores} cores, {', '.join(dots)}, {self.system}{load}"


def describe() -> Machine:
    """This machine, now."""
    return Machine(
        processor=_processor(),
        features=tuple(sorted(vector_features() or ())),
        cores=available_cores(),
        caches=caches(),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={"tvm-shiftadd": __version__, **_versions()},
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def caches(folder: Path = _CACHES) -> dict[str, int]:
    """Sizes in bytes of one core's data caches and of those it shares: {"L1": 32768, ...}."""
    found: dict[str, int] = {}
    for entry in sorted(folder.glob("index*")):
        try:
            level, kind, size = (
                (entry / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found


def _processor() -> str:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    facts: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    name = facts.get("model name") or platform.processor() or platform.machine()
    # A virtual machine may give a name that says little: "AMD EPYC".
    family = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return f"{name} ({', '.join(family)})" if family else name


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
