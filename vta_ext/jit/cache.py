"""The micro-op buffer as a cache of kernels: the one used longest ago makes room.

The compute module waits for its own loads, so many small ones would cost more time than the
micro-ops themselves. A kernel that is not there therefore joins the last load, as long as that
one's entries go on into entries that nothing has used since: the load grows, and its kernels are
in the buffer before their first use. Where the load module can load micro-ops, a load may be
issued some uses earlier, so that compute does not wait at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tvm_shiftadd.errors import ProgramError
from vta_ext.config import Config
from vta_ext.isa.instruction import MicroOps, load
from vta_ext.jit.tokens import Entry

#: Micro-ops that one load brings, unless one kernel alone has more: compute waits for all of it.
BATCH: Final = 1024
#: Those of the first load, where others come ahead of their use.
FIRST_BATCH: Final = 64


@dataclass(frozen=True)
class CacheCounters:
    """``hits`` and ``misses`` of kernels, ``evictions``, ``loads`` and the ``bytes`` they move."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    loads: int = 0
    bytes: int = 0


@dataclass
class _Kernel:
    """Entries [begin, end) hold the micro-ops ``key``; ``used`` is the number of the last use."""

    key: bytes
    begin: int
    end: int
    used: int


@dataclass
class _Load:
    """A load of entries [base, base + size), issued before use number ``since``."""

    entry: Entry
    base: int
    size: int
    since: int
    limit: int


@dataclass(frozen=True)
class Missing:
    """A load that must come before use number ``before``, counted from 1, and after all others."""

    entry: Entry
    before: int


class MicroOpCache:
    """Where the kernels of a program are. ``dram``: element of DRAM of the first micro-op."""

    def __init__(self, config: Config, dram: int = 0, batch: int = BATCH) -> None:
        self._config, self._dram, self._batch = config, dram, batch
        self._kernels: dict[bytes, _Kernel] = {}
        self._open: _Load | None = None
        self._rows: list[MicroOps] = []
        self._uses = self._loaded = 0
        self._hits = self._misses = self._evictions = self._loads = 0

    @property
    def counters(self) -> CacheCounters:
        """What became of the kernels so far."""
        size = self._loaded * self._config.uop_bytes
        return CacheCounters(self._hits, self._misses, self._evictions, self._loads, size)

    @property
    def micro_ops(self) -> MicroOps:
        """All that loads bring, as it is to lie in DRAM: ``[n, 3]``."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 3), np.int32)

    def place(self, rows: MicroOps, label: str = "", ahead: int = 0) -> tuple[int, Missing | None]:
        """The first entry of a kernel ``[n, 3]``, and the load that must come before its use.

        That load may grow with kernels that are placed later. It may be issued up to ``ahead``
        uses early, by the load module, where the machine can do that. Each call is a use. Raises
        ProgramError for more micro-ops than the buffer holds.
        """
        depth = self._config.uop_depth
        if len(rows) > depth:
            raise ProgramError(
                f"a kernel of {len(rows)} micro-ops does not fit the {depth} of the buffer; split "
                "it"
            )
        self._uses += 1
        key = rows.tobytes()
        if key in self._kernels:
            self._kernels[key].used = self._uses
            self._hits += 1
            return self._kernels[key].begin, None
        self._misses += 1
        self._rows.append(rows)
        missing = None
        if not self._grow(len(rows)):
            missing = self._begin(len(rows), label, ahead)
        self._loaded += len(rows)
        assert self._open is not None
        begin = self._open.base + self._open.size - len(rows)
        self._kernels[key] = _Kernel(key, begin, begin + len(rows), self._uses)
        return begin, missing

    def _inside(self, begin: int, end: int) -> list[_Kernel]:
        return [k for k in self._kernels.values() if k.begin < end and begin < k.end]

    def _evict(self, lost: list[_Kernel]) -> None:
        self._evictions += len(lost)
        for kernel in lost:
            del self._kernels[kernel.key]

    def _grow(self, count: int) -> bool:
        """Let the last load bring ``count`` micro-ops more, if it may."""
        last = self._open
        if last is None or last.size + count > last.limit:
            return False
        begin = last.base + last.size
        lost = self._inside(begin, begin + count)
        if begin + count > self._config.uop_depth or any(k.used >= last.since for k in lost):
            return False
        self._evict(lost)
        last.size += count
        size = {"x_size": last.size, "x_stride": last.size}
        last.entry.instruction = last.entry.instruction.replace(**size)
        return True

    def _begin(self, count: int, label: str, ahead: int) -> Missing:
        """A new load of ``count`` micro-ops, where the kernels were used longest ago."""
        places = [0, *(kernel.end for kernel in self._kernels.values())]
        room = (begin for begin in places if begin + count <= self._config.uop_depth)

        def cost(begin: int) -> tuple[int, int]:
            return max((k.used for k in self._inside(begin, begin + count)), default=0), begin

        base = min(room, key=cost)
        free = cost(base)[0] + 1
        self._evict(self._inside(base, base + count))
        # Loads come in order: none before the one that it does not grow.
        free = max(free, self._open.since if self._open else 0)
        early = self._config.has("prefetch")
        before = max(free, self._uses - ahead) if early else self._uses
        first = load(
            "uop",
            sram_base=base,
            dram_base=self._dram + self._loaded,
            x_size=count,
            prefetch=before < self._uses,
        )
        short = self._open is None and ahead and early
        limit = min(self._batch, FIRST_BATCH) if short else self._batch
        self._open = _Load(Entry(first, None, label), base, count, before, limit)
        self._loads += 1
        return Missing(self._open.entry, before)
