"""The processor this runs on: its family and its vector instructions."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: What that calls the features of a family's processors. An emulator may show another family's.
_LISTED = {"x86_64": "flags", "aarch64": "Features"}

#: Beginnings of the flags that a compiler turns into vector code, on x86-64 and on AArch64.
_VECTOR = ("sse4", "avx", "fma", "f16c", "gfni", "amx", "asimd", "sve", "i8mm", "bf16")


#: Of these both know the same names: LLVM splits AVX10 and the extensions of SVE as Linux does not.
_X86 = re.compile("sse4|avx(?!10)|fma|f16c|gfni|amx")
_ALIKE = frozenset({"asimd", "asimddp", "asimdhp", "sve", "sve2", "i8mm", "bf16"})
#: Linux's names of the features that LLVM calls otherwise, on AArch64.
_LINUX = {"neon": "asimd", "dotprod": "asimddp", "fullfp16": "asimdhp"}


def vector_names(features: Iterable[str]) -> frozenset[str]:
    """The vector instructions among features that Linux or LLVM names, spelled alike.

    LLVM writes ``sse4.1``, ``avx512vnni``, ``amx-tile`` for Linux's ``sse4_1``, ``avx512_vnni``,
    ``amx_tile``; here they are ``sse41``, ``avx512vnni``, ``amxtile``.
    """
    alike = (_LINUX.get(name, name).lower() for name in features)
    plain = (name.translate({ord(sign): None for sign in "._-"}) for name in alike)
    return frozenset(name for name in plain if name in _ALIKE or _X86.match(name))


def machine() -> str:
    """The processor's family as LLVM and the GNU tools name it: "x86_64", "aarch64"."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def vector_features() -> frozenset[str] | None:
    """Flags such as ``avx2``, as Linux names them; None where the system does not tell."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == _LISTED.get(machine()):
            return frozenset(flag for flag in flags.split() if flag.startswith(_VECTOR))
    return None
