"""One weight's way from float to shifts, followed through a compiled network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats.codes import decode
from tvm_shiftadd.formats.packing import unpack

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.convert import Graph

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_AXES = ("kernel row", "kernel column", "input channel", "output channel")


@dataclass(frozen=True)
class Weight:
    """One weight of one layer.

    ``position`` is its index in the layer's weights, ``[kh, kw, I, O]`` or ``[I, O]``; ``before``
    the float weight with batch norm and the scales of channels folded in; ``exponent`` b of the
    channel's scale 2^-b; ``codes`` its 4-bit codes, one a term; ``integer`` their sum.
    """

    layer: str
    position: tuple[int, ...]
    before: float
    exponent: int
    codes: tuple[int, ...]
    integer: int

    @property
    def after(self) -> float:
        """The value that the shifts stand for."""
        return float(np.ldexp(float(self.integer), -self.exponent))

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """(sign, left shift) of each term that is not zero."""
        return tuple((-1 if code & 8 else 1, (code & 7) - 1) for code in self.codes if code & 7)

    def where(self) -> str:
        """For instance ``kernel row 0, kernel column 2, input channel 5, output channel 1``."""
        axes = _AXES[-len(self.position) :]
        return ", ".join(f"{axis} {i}" for axis, i in zip(axes, self.position, strict=True))

    def as_powers(self) -> str:
        """For instance ``+2⁵ -2²``."""
        return " ".join(f"{'+' if sign > 0 else '-'}{power_of_two(s)}" for sign, s in self.terms)

    def as_shifts(self, x: str) -> str:
        """For instance ``+(x << 5) -(x << 2)``."""
        return " ".join(f"{'+' if sign > 0 else '-'}({x} << {shift})" for sign, shift in self.terms)

    def times(self, x: int) -> int:
        """The product with an integer, by shifts."""
        return sum(sign * (x << shift) for sign, shift in self.terms)


def power_of_two(exponent: int) -> str:
    """For instance ``2⁻⁶``."""
    return f"2{str(exponent).translate(_SUPERSCRIPT)}"


def pick(graph: Graph, artifact: Artifact) -> Weight:
    """A weight that shows the most: two terms of opposite signs, large, of the first such layer.

    Layers that a factor follows are left out: their weights stand for more than they show. Raises
    ConversionError if the artifact has no other weight layer of ``graph``.
    """
    best: tuple[tuple[bool, bool, int], Weight] | None = None
    for name in _layers(artifact):
        node = next((n for n in graph.nodes if n.name == name and n.weight is not None), None)
        packed = artifact.parameters.get(f"{name}.codes")
        if node is None or node.weight is None or packed is None:
            continue
        floats = node.weight.reshape(-1, node.weight.shape[-1])
        codes = unpack(np.asarray(packed, dtype=np.uint8), len(floats))
        rank, (row, channel) = _telling(codes)
        if best is None or rank[:2] > best[0][:2]:
            weight = Weight(
                layer=name,
                position=tuple(int(i) for i in np.unravel_index(row, node.weight.shape[:-1]))
                + (channel,),
                before=float(floats[row, channel]),
                exponent=_exponent(artifact, name, channel),
                codes=tuple(int(code) for code in codes[:, row, channel]),
                integer=int(decode(codes[:, row : row + 1, channel])[0]),
            )
            best = rank, weight
        if best[0][0] and best[0][1]:
            break
    if best is None:
        raise ConversionError(
            "expected an artifact with a weight layer that no factor follows, got one without"
        )
    return best[1]


def _layers(artifact: Artifact) -> list[str]:
    """Names of the weight layers that no factor follows, in order."""
    layers = artifact.manifest.integer_specification.layers
    return [
        layer.name
        for layer in layers
        if layer.terms is not None and f"{layer.name}.factor.codes" not in artifact.parameters
    ]


def _exponent(artifact: Artifact, name: str, channel: int) -> int:
    layers = artifact.manifest.integer_specification.layers
    exponents = next(layer.weight_exponents for layer in layers if layer.name == name)
    return exponents[channel if len(exponents) > 1 else 0]


def _telling(codes: NDArray[np.uint8]) -> tuple[tuple[bool, bool, int], tuple[int, int]]:
    """Rank and place of the most telling weight of codes [K, R, O]."""
    used = np.count_nonzero(codes & 7, axis=0)
    negative = np.count_nonzero(codes & 8, axis=0)
    mixed = (negative > 0) & (negative < used)
    size = np.abs(decode(codes)).astype(np.int64)
    score = ((used == 2) * 2 + mixed) * 1000 + size
    row, channel = (int(i) for i in np.unravel_index(int(score.argmax()), score.shape))
    rank = (bool(used[row, channel] == 2), bool(mixed[row, channel]), int(size[row, channel]))
    return rank, (row, channel)
