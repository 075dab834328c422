"""One tile of a layer's output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Rows and columns from (y, x) on, and blocks of output channels from ``output`` on."""

    y: int
    x: int
    rows: int
    columns: int
    output: int
    outputs: int

    @property
    def positions(self) -> int:
        """Accumulators of one block."""
        return self.rows * self.columns
