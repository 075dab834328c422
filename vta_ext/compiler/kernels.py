"""The micro-op buffer: kernels in segments, each loaded by one instruction.

The compute module waits for its own loads, so many small ones would cost more time than the
micro-ops themselves. Kernels are collected in the order of their first use; a segment is as many
as fit its part of the buffer. Two segments are in the buffer at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.tokens import Entry
from vta_ext.isa.instruction import MicroOps, load

#: Micro-ops of a segment, unless one kernel alone has more.
_SEGMENT: Final = 1024


@dataclass
class Segment:
    """Kernels one after another from ``base`` of the buffer and ``start`` of DRAM on."""

    base: int
    start: int
    entry: Entry
    size: int = 0
    places: dict[bytes, int] = field(default_factory=dict)


@dataclass
class Kernels:
    """Where kernels are. ``depth``: entries of the buffer; ``dram``: element of the first one."""

    depth: int
    dram: int
    count: int = 0
    hits: int = 0
    segments: list[Segment] = field(default_factory=list)
    _rows: list[MicroOps] = field(default_factory=list)

    @property
    def micro_ops(self) -> MicroOps:
        """All segments, as they are to lie in DRAM: ``[n, 3]``."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 3), np.int32)

    def place(self, rows: MicroOps, what: str) -> tuple[int, Entry | None]:
        """Where ``rows`` are, and the load that has to come first where a segment begins here.

        That load grows with the kernels that are placed later. Raises RefusedError for more
        micro-ops than half the buffer holds.
        """
        key = rows.tobytes()
        for segment in self.segments[-2:]:
            if key in segment.places:
                self.hits += 1
                return segment.places[key], None
        if len(rows) > self.depth // 2:
            raise RefusedError(
                what,
                f"it needs {len(rows)} micro-ops at a time, but half the buffer holds "
                f"{self.depth // 2}; choose a configuration with larger buffers",
            )
        entry = None
        limit = min(self.depth // 2, _SEGMENT)
        if not self.segments or self.segments[-1].size + len(rows) > limit:
            entry = self._begin(what)
        self.count += 1
        return self._append(rows, key), entry

    def _begin(self, what: str) -> Entry:
        base = len(self.segments) % 2 * (self.depth // 2)
        start = sum(map(len, self._rows))
        entry = Entry(
            load("uop", sram_base=base, dram_base=self.dram + start, x_size=0), None, what
        )
        self.segments.append(Segment(base, start, entry))
        return entry

    def _append(self, rows: MicroOps, key: bytes) -> int:
        segment = self.segments[-1]
        begin = segment.base + segment.size
        segment.places[key] = begin
        segment.size += len(rows)
        size = {"x_size": segment.size, "x_stride": segment.size}
        segment.entry.instruction = segment.entry.instruction.replace(**size)
        self._rows.append(rows)
        return begin
