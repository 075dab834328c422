"""What a network is compiled for: target descriptions, read from a name, a mapping or a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import InputError

__all__ = ["CPUTarget", "parse"]

#: This machine's processor with all its vector instructions, and any processor of its family: on
#: x86-64 one with AVX2 (x86-64-v3).
#: How layers are computed: by the fastest instructions that give the same integers, or by shifts.
KERNELS = ("auto", "shift")

_NAMED = ("cpu", "cpu:generic")


@dataclass(frozen=True)
class CPUTarget:
    """A processor that LLVM generates code for.

    ``mcpu`` is LLVM's name of it ("znver4", "x86-64-v3", ...), "host" for the machine that
    compiles, or "generic" for its family's baseline. That is x86-64-v3 on x86-64: without AVX2
    LLVM turns shifts by varying amounts into multiplications. ``mattr`` adds or removes features
    ("+avx2"). ``num_threads`` is what runs use by default; None takes one thread a core.

    ``kernels`` is "auto" for the fastest instructions that give the integers of the definition
    (AVX-512 VNNI and VBMI where the processor has both), or "shift" for real shifts everywhere,
    which holds no multiplication of data.
    """

    kind: str = "llvm"
    mcpu: str = "host"
    mattr: tuple[str, ...] = ()
    num_threads: int | None = None
    kernels: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """The mapping that ``parse`` reads back."""
        fields: dict[str, Any] = {"kind": self.kind, "mcpu": self.mcpu}
        if self.mattr:
            fields["mattr"] = list(self.mattr)
        if self.num_threads is not None:
            fields["num_threads"] = self.num_threads
        if self.kernels != KERNELS[0]:
            fields["kernels"] = self.kernels
        return fields


def parse(text: str | Path | Mapping[str, Any] | CPUTarget) -> CPUTarget:
    """Target from a name ("cpu", "cpu:generic"), a mapping, JSON text, or a path to a JSON file.

    The mapping has "kind" ("llvm") and optionally "mcpu", "mattr" (a list), "num_threads" and
    "kernels".
    Raises InputError, which lists what exists, for anything else.
    """
    if isinstance(text, CPUTarget):
        return text
    if isinstance(text, Mapping):
        return _from_mapping(text)
    name = str(text)
    if name == "cpu":
        return CPUTarget()
    if name == "cpu:generic":
        return CPUTarget(mcpu="generic")
    if name.lstrip().startswith("{"):
        return _from_json(name, "the target")
    if name.endswith(".json"):
        try:
            content = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a readable target file, got {name}: {error}") from error
        return _from_json(content, name)
    raise InputError(f"unknown target {name!r}; choose {_choices()}")


def _choices() -> str:
    return " or ".join(repr(name) for name in _NAMED) + ', or a JSON file with {"kind": "llvm"}'


def _from_json(content: str, where: str) -> CPUTarget:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise InputError(
            f"expected JSON in {where}, got text that does not parse: {error}"
        ) from None
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object in {where}, got {type(fields).__name__}")
    return _from_mapping(fields)


def _from_mapping(fields: Mapping[str, Any]) -> CPUTarget:
    known = {"kind", "mcpu", "mattr", "num_threads", "kernels"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InputError(f"expected target fields {sorted(known)}, got also {unknown}; remove them")
    kind, mcpu = fields.get("kind"), fields.get("mcpu", "host")
    if kind != "llvm":
        raise InputError(f"unknown target kind {kind!r}; choose {_choices()}")
    if not isinstance(mcpu, str) or not mcpu:
        raise InputError(f"expected mcpu to be the name of a processor, got {mcpu!r}")
    mattr = fields.get("mattr", ())
    if not isinstance(mattr, (list, tuple)) or not all(isinstance(item, str) for item in mattr):
        raise InputError(f'expected mattr to be a list of features like "+avx2", got {mattr!r}')
    threads = fields.get("num_threads")
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and threads >= 1):
        raise InputError(f"expected num_threads to be at least 1, got {threads!r}")
    kernels = fields.get("kernels", KERNELS[0])
    if kernels not in KERNELS:
        raise InputError(
            f"expected kernels to be {' or '.join(map(repr, KERNELS))}, got {kernels!r}"
        )
    return CPUTarget(kind, mcpu, tuple(mattr), threads, kernels)
