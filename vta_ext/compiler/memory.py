"""Where activations lie in DRAM: memory is used again as soon as nothing reads it any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vta_ext.compiler.layers import Region
from vta_ext.compiler.layout import map_bytes
from vta_ext.config import Config


@dataclass(frozen=True)
class _Life:
    """A tensor's first and last layer, both included."""

    name: str
    size: int
    first: int
    last: int


def plan(region: Region, config: Config, alignment: int) -> tuple[dict[str, int], int]:
    """Byte offset of each tensor that is neither input nor output, and the bytes of all.

    Tensors that are needed at the same time do not overlap; the largest are placed first, each at
    the lowest place that is free during its life.
    """
    outside = {tensor.name for tensor in (*region.inputs, *region.outputs)}
    lives: list[_Life] = []
    for number, layer in enumerate(region.layers):
        tensor = layer.output
        if tensor.name in outside:
            continue
        readers = [
            later
            for later, other in enumerate(region.layers)
            if any(term.source.name == tensor.name for term in other.terms)
        ]
        size = -(-map_bytes(tensor, config) // alignment) * alignment
        lives.append(_Life(tensor.name, size, number, max(readers, default=number)))
    return _place(lives)


def _place(lives: Sequence[_Life]) -> tuple[dict[str, int], int]:
    placed: list[tuple[_Life, int]] = []
    for life in sorted(lives, key=lambda one: -one.size):
        busy = sorted(
            (at, at + other.size)
            for other, at in placed
            if other.first <= life.last and life.first <= other.last
        )
        offset = 0
        for begin, end in busy:
            if begin - offset >= life.size:
                break
            offset = max(offset, end)
        placed.append((life, offset))
    return (
        {life.name: offset for life, offset in placed},
        max((offset + life.size for life, offset in placed), default=0),
    )
