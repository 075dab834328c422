"""What the host does around a network's programs, step by step, as plain values.

An artifact keeps it, so that a program of another language can take the host's place: see
:mod:`vta_ext.bare`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tvm_shiftadd.errors import ProgramError
from tvm_shiftadd.formats.reference import MAX_SCALE

#: The kinds of steps that are described so that others can do them.
KINDS: Final = ("quantize", "dequantize", "permute", "reshape", "alias")
_MAX_RANK: Final = 8
_MAX_SIZE: Final = (1 << 31) - 1


class HostTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor without its batch axis; -1 for a size that the network leaves open."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class HostStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of the host: ``output`` from ``source``, where it is one of :data:`KINDS`.

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

    def check(self, arguments: Iterable[str], results: Iterable[str]) -> None:
        """Raise ProgramError where a name, a size or a step's numbers cannot be right.

        arguments, results: the names of the programs' tensors.
        """
        inputs = [one.name for one in self.inputs]
        if len(set(inputs)) < len(inputs):
            raise ProgramError("the host has two inputs of one name; compile the model again")
        known = {*inputs, *results}
        for given in self.inputs:
            _check_sizes(given)
        for step in self.steps:
            _check_sizes(step.output)
            if step.kind in KINDS and step.source:
                _check_step(step)
        # Operators that are only named may make tensors that are not listed.
        if all(step.kind in KINDS and step.source for step in self.steps):
            for step in self.steps:
                _require(known, step.source)
                known.add(step.output.name)
            for name in (*arguments, *self.outputs):
                _require(known, name)


def _require(known: set[str], name: str) -> None:
    if name not in known:
        raise ProgramError(
            f"the host reads {name!r:.60}, which nothing has made; compile the model again"
        )


def _check_sizes(tensor: HostTensor) -> None:
    shape = tensor.shape
    if len(shape) > _MAX_RANK or not all(size == -1 or 1 <= size <= _MAX_SIZE for size in shape):
        raise ProgramError(
            f"the host's tensor {tensor.name!r:.60} has the shape {list(shape)!s:.60}; compile the "
            "model again"
        )


def _check_step(step: HostStep) -> None:
    """What a step of a known kind says about itself."""
    shape, numbers, dtype = step.output.shape, step.numbers, step.output.dtype
    if step.kind == "quantize":
        fits = len(numbers) == 1 and dtype in ("int8", "uint8")
    elif step.kind == "dequantize":
        fits = len(numbers) in (1, *shape[-1:]) and dtype == "float32"
    elif step.kind == "permute":
        fits = sorted(numbers) == list(range(len(shape) + 1))
    else:
        fits = not numbers
    if not fits or any(abs(number) > MAX_SCALE for number in numbers):
        raise ProgramError(
            f"{step.kind} with the numbers {list(numbers)!s:.60} does not make "
            f"{step.output.name!r:.60} of {dtype!r:.20}{list(shape)!s:.60}; compile the model again"
        )
