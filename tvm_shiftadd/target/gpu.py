"""NVIDIA GPUs as targets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target.processor import KERNELS, CPUTarget, cpu_target

#: The kind of these targets.
CUDA = "cuda"
#: The oldest compute capability there is code for: CUDA 13 has none older.
OLDEST = (7, 5)

_ARCH = re.compile(r"sm_([1-9][0-9]{0,2})([0-9])")


@dataclass(frozen=True)
class CUDATarget:
    """An NVIDIA GPU, and the processor that starts its kernels.

    ``arch`` is the oldest GPU that can run the code, as "sm_" with its compute capability:
    "sm_80" for 8.0. Newer ones run it too, since the driver translates it for them. ``kernels`` is
    "auto" for the fastest instructions that give the integers of the definition, or "shift" for
    real shifts everywhere, which holds no multiplication of data.
    """

    kind: str = CUDA
    arch: str = "sm_80"
    kernels: str = "auto"
    # Unlike networks for the processor alone, those for a GPU are often compiled elsewhere.
    host: CPUTarget = field(default_factory=lambda: CPUTarget(mcpu="generic"))

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, major and minor."""
        return capability(self.arch)

    @property
    def level(self) -> int:
        """The compute capability as one number, 80 for 8.0."""
        major, minor = self.capability
        return 10 * major + minor

    @property
    def attributes(self) -> dict[str, str | int | bool | list[str]]:
        """What a manifest says about the GPU."""
        return {"arch": self.arch, "kernels": self.kernels}

    def as_dict(self) -> dict[str, Any]:
        """The mapping that ``parse`` reads back."""
        return {"kind": self.kind, **self.attributes, "host": self.host.as_dict()}


def capability(arch: str) -> tuple[int, int]:
    """Compute capability of an architecture: (9, 0) of "sm_90".

    Raises InputError for what is none, and for one that no code can be made for.
    """
    matched = _ARCH.fullmatch(arch)
    found = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if found < OLDEST:
        raise InputError(
            'expected arch to be "sm_" with a GPU\'s compute capability, 7.5 or newer, such as '
            f'"sm_80", got {arch!r}'
        )
    return found


def cuda_target(fields: Mapping[str, Any], choices: str) -> CUDATarget:
    """The target of a mapping. Raises InputError; ``choices`` says which targets there are."""
    unknown = sorted(set(fields) - {"kind", "arch", "kernels", "host"}, key=str)
    if unknown:
        raise InputError(
            f"expected target fields ['arch', 'host', 'kernels', 'kind'], got also {unknown}; "
            "remove them"
        )
    usual = CUDATarget()
    arch, kernels = fields.get("arch", usual.arch), fields.get("kernels", usual.kernels)
    if kernels not in KERNELS:
        raise InputError(
            f"expected kernels to be {' or '.join(map(repr, KERNELS))}, got {kernels!r}"
        )
    capability(str(arch))
    host = fields.get("host", usual.host)
    if isinstance(host, Mapping):
        host = cpu_target(host, choices)
    if not isinstance(host, CPUTarget):
        raise InputError(f"expected host to be a processor's mapping, got {host!r:.60}")
    return CUDATarget(arch=str(arch), kernels=kernels, host=host)
