"""The processor that LLVM generates code for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm_shiftadd.errors import InputError

#: How layers are computed: by the fastest instructions that give the same integers, or by shifts.
KERNELS = ("auto", "shift")


@dataclass(frozen=True)
class CPUTarget:
    """A processor that LLVM generates code for.

    ``mcpu`` is LLVM's name of it ("znver4", "x86-64-v3", ...), "host" for the machine that
    compiles, or "generic" for its family's baseline. That is x86-64-v3 on x86-64: without AVX2
    LLVM turns shifts by varying amounts into multiplications. ``mattr`` adds or removes features
    ("+avx2"). ``num_threads`` is what runs use by default; None takes one thread a core.

    ``kernels`` is "auto" for the fastest instructions that give the integers of the definition
    (dot products of bytes, or AVX2's products of 16 bits), or "shift" for real shifts everywhere,
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


def cpu_target(fields: Mapping[str, Any], choices: str) -> CPUTarget:
    """The target of a mapping. Raises InputError; ``choices`` says which targets there are."""
    known = {"kind", "mcpu", "mattr", "num_threads", "kernels"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InputError(f"expected target fields {sorted(known)}, got also {unknown}; remove them")
    kind, mcpu = fields.get("kind"), fields.get("mcpu", "host")
    if kind != "llvm":
        raise InputError(f"unknown target kind {kind!r}; choose {choices}")
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
