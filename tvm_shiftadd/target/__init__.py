"""What a network is compiled for: target descriptions, read from a name, a mapping or a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target.accelerator import BACKENDS, AcceleratorTarget, DeviceChoice
from tvm_shiftadd.target.gpu import CUDA, CUDATarget, cuda_target
from tvm_shiftadd.target.processor import AARCH64, KERNELS, CPUTarget, cpu_target

__all__ = [
    "KERNELS",
    "AcceleratorTarget",
    "CPUTarget",
    "CUDATarget",
    "DeviceChoice",
    "Target",
    "host",
    "parse",
]

Target = CPUTarget | CUDATarget | AcceleratorTarget

#: This machine's processor with all its vector instructions, any processor of its family (on
#: x86-64 one with AVX2, x86-64-v3), and any AArch64 processor under Linux.
_NAMED = {
    "cpu": CPUTarget(),
    "cpu:generic": CPUTarget(mcpu="generic"),
    "cpu:aarch64": CPUTarget(mcpu="generic", mtriple=AARCH64),
}


def parse(text: str | Path | Mapping[str, Any] | Target) -> Target:
    """Target from a name, a mapping, JSON text, or a path to a JSON file.

    Names: "cpu", "cpu:generic", "cpu:aarch64"; "cuda", "cuda:ARCH" with an architecture such as
    "sm_90"; "vta", "vta:MACHINE" with the name of a machine or a JSON file of its parameters. A
    processor's mapping has "kind" ("llvm") and optionally "mcpu", "mattr" (a list), "num_threads",
    "kernels" and "mtriple"; a GPU's has "kind" ("cuda") and optionally "arch", "kernels" and
    "host", a processor's mapping; an accelerator's "kind" ("vta") and optionally "machine" and
    "host".
    Raises InputError, which lists what exists, for anything else; that a machine exists is checked
    when it is compiled for.
    """
    if isinstance(text, (CPUTarget, CUDATarget, AcceleratorTarget)):
        return text
    if isinstance(text, Mapping):
        return _from_mapping(text)
    name = str(text)
    if name in _NAMED:
        return _NAMED[name]
    kind, colon, machine = name.partition(":")
    if kind == CUDA:
        return _from_mapping({"kind": kind, **({"arch": machine} if colon else {})})
    if kind in BACKENDS:
        return AcceleratorTarget(kind, machine)
    if name.lstrip().startswith("{"):
        return _from_json(name, "the target")
    if name.endswith(".json"):
        try:
            content = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a readable target file, got {name}: {error}") from error
        return _from_json(content, name)
    raise InputError(f"unknown target {name!r}; choose {_choices()}")


def host(target: Target) -> CPUTarget:
    """The processor of a target."""
    return target if isinstance(target, CPUTarget) else target.host


def _choices() -> str:
    accelerators = ", ".join(f"'{kind}', '{kind}:MACHINE'" for kind in BACKENDS)
    return f"{', '.join(map(repr, _NAMED))}, 'cuda', 'cuda:ARCH', {accelerators}" + (
        ' or a JSON file with {"kind": "llvm"}'
    )


def _from_json(content: str, where: str) -> Target:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"expected JSON in {where}, got text that does not parse: {error}"
        ) from None
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object in {where}, got {type(fields).__name__}")
    return _from_mapping(fields)


def _from_mapping(fields: Mapping[str, Any]) -> Target:
    kind = fields.get("kind")
    if kind == CUDA:
        return cuda_target(fields, _choices())
    if not isinstance(kind, str) or kind not in BACKENDS:
        return cpu_target(fields, _choices())
    unknown = sorted(set(fields) - {"kind", "machine", "host"}, key=str)
    machine, beside = fields.get("machine", ""), fields.get("host", CPUTarget())
    if unknown or not isinstance(machine, str) or not isinstance(beside, (Mapping, CPUTarget)):
        wrong = f"also {unknown}" if unknown else f"{machine!r:.40} and {beside!r:.60}"
        raise InputError(
            f'expected a target of kind {kind!r} to have a machine\'s name as "machine" and a '
            f'processor\'s mapping as "host", got {wrong}'
        )
    processor = beside if isinstance(beside, CPUTarget) else cpu_target(beside, _choices())
    return AcceleratorTarget(kind, machine, processor)
