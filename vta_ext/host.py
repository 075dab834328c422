"""What the host does around a network's programs, step by step, as plain values.

An artifact keeps it, so that a program of another language can take the host's place: see
:mod:`vta_ext.bare`.
"""

from __future__ import annotations

import msgspec


class HostTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor without its batch axis; -1 for a size that the network leaves open."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class HostStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of the host: ``output`` from ``source``, where it is one of the known kinds.

    kind: quantize (``numbers``: the exponent), dequantize (an exponent a channel, or one), permute
    (the axes, batch first), reshape or alias (none); else the operator's own name, with a
    ``source`` that is empty.
    """

    kind: str
    source: str
    output: HostTensor
    numbers: tuple[int, ...] = ()


class HostPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The host's steps in order. ``inputs`` are the network's; ``outputs`` names of tensors.

    Arguments of programs are tensors here, and results of programs are read, by their names.
    """

    inputs: tuple[HostTensor, ...]
    steps: tuple[HostStep, ...]
    outputs: tuple[str, ...]
