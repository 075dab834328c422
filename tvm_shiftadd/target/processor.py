"""The processor that LLVM generates code for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm_shiftadd.errors import InputError

#: How layers are computed: by the fastest instructions that give the same integers, or by shifts.
KERNELS = ("auto", "shift")
#: Machines that another one can compile for, as the GNU tools name them.
AARCH64, X86_64 = "aarch64-linux-gnu", "x86_64-linux-gnu"
TRIPLES = (AARCH64, X86_64)


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

    ``mtriple`` is one of ``TRIPLES`` where the machine that runs the network is another than the
    one that compiles; "" is this one. Linking then needs a cross linker.
    """

    kind: str = "llvm"
    mcpu: str = "host"
    mattr: tuple[str, ...] = ()
    num_threads: int | None = None
    kernels: str = "auto"
    mtriple: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The mapping that ``parse`` reads back."""
        fields: dict[str, Any] = {"kind": self.kind, "mcpu": self.mcpu}
        if self.mattr:
            fields["mattr"] = list(self.mattr)
        if self.num_threads is not None:
            fields["num_threads"] = self.num_threads
        if self.kernels != KERNELS[0]:
            fields["kernels"] = self.kernels
        if self.mtriple:
            fields["mtriple"] = self.mtriple
        return fields


def gnu_triple(triple: str) -> str:
    """A triple as the GNU tools write it, without the vendor: "x86_64-linux-gnu".

    Only those of Linux are rewritten.
    """
    return re.sub(r"^(\w+)-\w+-linux-", r"\1-linux-", triple)


def cpu_target(fields: Mapping[str, Any], choices: str) -> CPUTarget:
    """The target of a mapping. Raises InputError; ``choices`` says which targets there are."""
    known = {"kind", "mcpu", "mattr", "num_threads", "kernels", "mtriple"}
    unknown = sorted(set(fields) - known, key=str)
    if unknown:
        raise InputError(f"expected target fields {sorted(known)}, got also {unknown}; remove them")
    kind, triple = fields.get("kind"), fields.get("mtriple", "")
    mcpu = fields.get("mcpu", "generic" if triple else "host")
    if kind != "llvm":
        raise InputError(f"unknown target kind {kind!r}; choose {choices}")
    if not isinstance(mcpu, str) or not mcpu:
        raise InputError(f"expected mcpu to be the name of a processor, got {mcpu!r}")
    if not isinstance(triple, str) or (triple and gnu_triple(triple) not in TRIPLES):
        raise InputError(
            f"expected mtriple to be {' or '.join(map(repr, TRIPLES))}, got {triple!r}; "
            "leave it out for the machine that compiles"
        )
    if triple and mcpu == "host":
        raise InputError(
            f"expected mcpu to name the processor of another machine ({triple}), "
            'got "host", which is this one; use "generic" or a name such as "cortex-a76"'
        )
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
    return CPUTarget(kind, mcpu, tuple(mattr), threads, kernels, gnu_triple(triple))
