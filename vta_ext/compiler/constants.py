"""What the program reads and never changes: weights by tiles, vectors of biases and shifts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.layers import Layer, MatrixTerm
from vta_ext.compiler.layout import vectors
from vta_ext.config import Config

#: Constants begin at multiples of this many bytes: of every element of every preset.
ALIGNMENT = 1024
#: Right shift of lanes that are no channel: whatever they hold becomes 0.
_CLEARING_SHIFT = 31


@dataclass
class Constants:
    """Bytes from ``base`` on; equal contents are kept once."""

    base: int
    data: bytearray = field(default_factory=bytearray)
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: bytes) -> int:
        """Byte address of ``data``."""
        if data not in self._known:
            self.data.extend(bytes(-len(self.data) % ALIGNMENT))
            self._known[data] = self.base + len(self.data)
            self.data.extend(data)
        return self._known[data]

    def vectors(self, rows: NDArray[np.int64], config: Config) -> int:
        """Byte address of vectors ``[blocks, n]`` of constants ``[n, C]``."""
        return self.add(vectors(rows, config).tobytes())


def term_vectors(
    layer: Layer, config: Config
) -> tuple[dict[tuple[int, str], int], NDArray[np.int64]]:
    """The rows of each term's operations, mul and shr, and the constants ``[n, C]`` of all.

    C is in whole blocks.

    Bias and shift come first. Where the machine does not requantise in one operation, the bias
    holds the half that makes a shift round.

    The lanes after the last channel are cleared by the requantisation, since adder layers read
    them as inputs.
    """
    rows: list[NDArray[np.int64]] = []
    finish = layer.finish
    pad = -layer.output.channels % config.block
    if finish is not None:
        rows.append(np.pad(finish.bias, (0, pad)))
        if finish.limits is not None:
            shift = np.pad(finish.shift, (0, pad), constant_values=_CLEARING_SHIFT)
            if "req" not in config.alu_ops:
                rows[0] = rows[0] + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
            rows.append(shift)
    found: dict[tuple[int, str], int] = {}
    for number, term in enumerate(layer.terms):
        if isinstance(term, MatrixTerm) and term.multiplier is not None:
            found[number, "mul"] = len(rows)
            rows.append(np.pad(term.multiplier, (0, pad)))
        if term.shift.any():
            found[number, "shr"] = len(rows)
            rows.append(np.pad(-term.shift, (0, pad)))
    width = layer.output.channels + pad
    return found, np.stack(rows) if rows else np.zeros((0, width), np.int64)
