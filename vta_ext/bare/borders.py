"""Follows the host's steps from a network's inputs to its programs, and on to its outputs.

Steps that only move elements are applied to the elements' numbers, so that whatever they are, what
comes out says where each element of a map lies in the input or output. What the runtime can do of
that is a stride for each side of the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.bare.image import Sides
from vta_ext.compiler.layers import Tensor
from vta_ext.host import KINDS, HostPart, HostStep
from vta_ext.runtime.stored import StoredRegion

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """A tensor as a rearrangement of another one, ``source``.

    ``index``: for each element of one image the number of the source's. ``exponents``: the scale
    2^-e of each, in the same shape, once it was quantised or dequantised. ``dtype``: its type.
    """

    source: str
    index: Int64
    dtype: str
    exponents: Int64 | None = None

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], dtype: str, most: int) -> View:
        """The tensor itself, of at most so many elements."""
        if any(side < 1 for side in shape):
            raise ProgramError(
                f"tensor {name} has the shape {list(shape)}, the runtime needs every size; compile "
                "the model with --shape"
            )
        if prod(shape) > most:
            raise ProgramError(
                f"tensor {name} has the shape {list(shape)}, the program's have {most} elements at "
                "most; compile the model again"
            )
        return cls(name, np.arange(prod(shape)).reshape(shape), dtype)

    def after(self, step: HostStep) -> View:
        """What a step makes of it. Raises ProgramError where the runtime cannot do it so."""
        if step.kind == "alias":
            return self
        if step.kind in ("quantize", "dequantize"):
            return self._scaled(step)
        shape = step.output.shape
        if step.kind == "reshape" and prod(shape) == self.index.size and min(shape, default=1) > 0:
            return self._moved(lambda array: array.reshape(shape))
        if step.kind == "permute" and step.numbers[:1] == (0,):
            axes = [axis - 1 for axis in step.numbers[1:]]
            self._require_rank(step, len(axes))
            return self._moved(lambda array: array.transpose(axes))
        raise ProgramError(
            f"{step.kind} makes {step.output.name} of several images, the runtime has one at a "
            "time; run the artifact with tvm-shiftadd run"
        )

    def _moved(self, move: Callable[[Int64], Int64]) -> View:
        exponents = None if self.exponents is None else move(self.exponents)
        return replace(self, index=move(self.index), exponents=exponents)

    def _require_rank(self, step: HostStep, rank: int) -> None:
        if self.index.ndim != rank:
            raise ProgramError(
                f"{step.kind} of {rank} axes makes {step.output.name} of "
                f"{list(self.index.shape)}; compile the model again"
            )

    def _scaled(self, step: HostStep) -> View:
        if self.exponents is not None:
            raise ProgramError(
                f"{step.output.name} is quantised or dequantised for the second time on the host, "
                "the runtime does it once; run the artifact with tvm-shiftadd run"
            )
        if step.output.shape != self.index.shape:
            raise ProgramError(
                f"{step.kind} makes {step.output.name} {list(step.output.shape)} of "
                f"{list(self.index.shape)}; compile the model again"
            )
        exponents = np.broadcast_to(np.array(step.numbers, np.int64), self.index.shape)
        return replace(self, dtype=step.output.dtype, exponents=exponents)


def require_known(host: HostPart) -> None:
    """Raise ProgramError for what the host does beyond :data:`KINDS`, naming it."""
    foreign = [step for step in host.steps if step.kind not in KINDS or not step.source]
    if foreign:
        named = ", ".join(f"{step.kind} ({step.output.name})" for step in foreign)
        raise ProgramError(
            f"the host has more to do than the runtime can: {named}; "
            "run the artifact with tvm-shiftadd run"
        )


def follow(host: HostPart, region: StoredRegion) -> dict[str, View]:
    """All tensors of the host, by name; ProgramError where the runtime cannot make one.

    Elements are only moved, so no input has more of them than the program's own tensors.
    """
    most = max((prod(v.shape) for v in (*region.arguments, *region.results)), default=0)
    views = {one.name: View.of(one.name, one.shape, one.dtype, most) for one in host.inputs}
    views |= {one.name: View.of(one.name, one.shape, one.dtype, most) for one in region.results}
    for step in host.steps:
        if step.output.name in views:
            raise ProgramError(
                f"the host has two tensors {step.output.name}; run the artifact with "
                "tvm-shiftadd run"
            )
        views[step.output.name] = views[step.source].after(step)
    for wanted in region.arguments:
        view = views[wanted.name]
        if (view.index.shape, view.dtype) != (wanted.shape, wanted.dtype):
            raise ProgramError(
                f"the host makes {wanted.name} {view.dtype}{list(view.index.shape)}, the program "
                f"reads {wanted.dtype}{list(wanted.shape)}; compile the model again"
            )
    return views


def strides(index: Int64, name: str) -> Sides:
    """Where element (y, x, c) of a map lies: the strides of ``index`` ``[H, W, C]``.

    Raises ProgramError where there are none.
    """
    found = [
        int(index[tuple(int(axis == other) for other in range(3))]) if side > 1 else 0
        for axis, side in enumerate(index.shape)
    ]
    wanted = sum(
        stride * np.arange(side).reshape([-1 if axis == other else 1 for other in range(3)])
        for axis, (side, stride) in enumerate(zip(index.shape, found, strict=True))
    )
    if not np.array_equal(np.broadcast_to(wanted, index.shape), index):
        raise ProgramError(
            f"the host moves the elements of {name} in an order that has no strides; "
            "run the artifact with tvm-shiftadd run"
        )
    return found[0], found[1], found[2]


def inverse(view: View, tensor: Tensor, name: str) -> tuple[Int64, tuple[int, ...]]:
    """Of an output made of a program's map: where in it each element of the map goes.

    ``[H, W, C]``, and the exponents of the channels. Raises ProgramError where the output is not
    all of the map, once, or exponents are not those of channels.
    """
    shape = (tensor.height, tensor.width, tensor.channels)
    flat = view.index.ravel()
    whole = view.dtype == "float32" and np.array_equal(np.sort(flat), np.arange(prod(shape)))
    if view.exponents is None or not whole:
        raise ProgramError(
            f"output {name} is not the whole result of the program, dequantised; "
            "run the artifact with tvm-shiftadd run"
        )
    place = np.argsort(flat)
    exponents = view.exponents.ravel()[place].reshape(-1, tensor.channels)
    if (exponents != exponents[0]).any():
        raise ProgramError(
            f"output {name} has scales that are not those of channels; "
            "run the artifact with tvm-shiftadd run"
        )
    return place.reshape(shape), tuple(int(e) for e in exponents[0])
