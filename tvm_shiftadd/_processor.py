"""The vector instructions of the processor this runs on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

#: Beginnings of the flags that a compiler turns into vector code, on x86-64 and on AArch64.
_VECTOR = ("sse4", "avx", "fma", "f16c", "gfni", "amx", "asimd", "sve", "i8mm", "bf16")


@cache
def vector_features() -> frozenset[str] | None:
    """Flags such as ``avx2``, as Linux names them; None where the system does not tell."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flag for flag in flags.split() if flag.startswith(_VECTOR))
    return None
