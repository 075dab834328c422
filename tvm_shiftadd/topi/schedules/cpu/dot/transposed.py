"""The transposed convolution: a convolution for each phase of the output.

Output pixels whose row and column leave the same rest when divided by the strides have the same
taps of the window, and read neighbouring inputs: for them it is a convolution of stride 1 by a
part of the window, turned round. Together these phases use each weight as often as the layer's
definition does; nothing is added into memory twice, and no zeros are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.dialect.attrs import Conv2DTransposeAttrs
from tvm_shiftadd.topi.schedules.fusion.chains import map_sizes
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, batch_size, kernel
from tvm_shiftadd.topi.schedules.shapes import ConvShape

from . import weights
from .conv import convolve
from .convert import fill_border
from .epilogue import Epilogue
from .instructions import InstructionSet
from .plan import ConvPlan, choose_plan, reach_of
from .stored import Lattice, Stored


@dataclass(frozen=True)
class _Axis:
    """One axis of a phase.

    Its outputs are ``first``, ``first`` + stride, ...; ``taps`` are those of the window, the last
    first; output ``j`` of the phase reads input ``j - origin`` with the first of them and
    ``dilation`` more with each other.
    """

    first: int
    size: int
    taps: tuple[int, ...]
    dilation: int
    origin: int


@dataclass(frozen=True)
class Phase:
    """A phase's convolution, its pixels of the output, and which taps of the window it has.

    ``taps`` (rows, columns) may be none, where the strides are longer than the window: then
    ``shape`` has one, whose weights are zero.
    """

    shape: ConvShape
    lattice: Lattice
    taps: tuple[tuple[int, ...], tuple[int, ...]]
    window: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows of the layer's weights that it uses."""
        return len(self.taps[0]) * len(self.taps[1]) * self.shape.channels

    def row(self, row: Any) -> Any:
        """The row of the layer's weights for one of the phase's own."""
        channels, (ys, xs) = self.shape.channels, self.taps
        channel, tap = tirx.indexmod(row, channels), tirx.indexdiv(row, channels)
        ky = _chosen(ys, tirx.indexdiv(tap, len(xs)))
        kx = _chosen(xs, tirx.indexmod(tap, len(xs)))
        return (ky * self.window[1] + kx) * channels + channel


def _chosen(taps: tuple[int, ...], index: Any) -> Any:
    """The tap at an index; they are equally far apart."""
    step = taps[1] - taps[0] if len(taps) > 1 else 0
    return index * step + taps[0]


def phases(call: Any) -> list[Phase]:
    """The phases of a call of ``conv2d_transpose``; together they are its result."""
    attrs = Conv2DTransposeAttrs.of(call)
    height, width, channels = map_sizes(call.args[0])
    terms, _, outputs = (int(size) for size in call.args[1].ty.shape)
    whole = (int(call.ty.shape[1]), int(call.ty.shape[2]))
    axes = [
        list(
            _axis(
                whole[i],
                attrs.kernel_size[i],
                attrs.strides[i],
                attrs.padding[i],
                attrs.dilation[i],
            )
        )
        for i in range(2)
    ]
    strides = (attrs.strides[0], attrs.strides[1])
    return [
        Phase(
            ConvShape(
                height,
                width,
                channels,
                outputs,
                y.size,
                x.size,
                (max(1, len(y.taps)), max(1, len(x.taps))),
                (1, 1),
                (y.dilation, x.dilation),
                (y.origin, x.origin),
                # Of two terms or more the kernels are given the sums.
                min(terms, 2),
            ),
            Lattice(strides, (y.first, x.first)),
            (y.taps, x.taps),
            (attrs.kernel_size[0], attrs.kernel_size[1]),
        )
        for y in axes[0]
        for x in axes[1]
    ]


def _axis(size: int, kernel: int, stride: int, before: int, dilation: int) -> Iterator[_Axis]:
    """The phases of one axis: tap k adds input i to output i * stride - before + k * dilation."""
    apart = dilation // math.gcd(stride, dilation)
    for first in range(min(stride, size)):
        taps = tuple(
            k for k in reversed(range(kernel)) if (first + before - k * dilation) % stride == 0
        )
        origin = -((first + before - taps[0] * dilation) // stride) if taps else 0
        yield _Axis(first, -(-(size - first) // stride), taps, apart, origin)


def reach(call: Any) -> tuple[int, int, int, int]:
    """How far the phases reach beyond the input: top, left, bottom, right."""
    sides = []
    for phase in phases(call):
        shape = phase.shape
        turned = replace(
            shape,
            height=shape.width,
            out_height=shape.out_width,
            kernel=shape.kernel[::-1],
            dilation=shape.dilation[::-1],
            origin=shape.origin[::-1],
        )
        (top, bottom), (left, right) = reach_of(shape), reach_of(turned)
        sides.append((top, left, bottom, right))
    top, left, bottom, right = (max(0, *side) for side in zip(*sides, strict=True))
    return top, left, bottom, right


@dataclass(frozen=True)
class PhaseKernel:
    """A phase and how its convolution is cut up."""

    phase: Phase
    plan: ConvPlan

    def pack(self, codes: Any) -> Any:
        """The phase's weights of the layer's codes in the order of its kernel."""
        return weights.pack_codes(codes, self.plan, self.phase.row)

    def sums(self, codes: Any) -> Any:
        """int32 ``[O]``: the sums of its weights."""
        return weights.sum_of_weights(codes, self.phase.rows, self.phase.row)


def phase_kernels(call: Any, source: Stored, isa: InstructionSet) -> list[PhaseKernel]:
    """The phases of a layer, each with its plan by rule."""
    return [PhaseKernel(phase, choose_plan(phase.shape, source, isa)) for phase in phases(call)]


def transposed(parts: Sequence[PhaseKernel], epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
    """PrimFunc (x, weights and constants of each phase, [residual,] out), as those of ``conv``."""
    n = batch_size(batch)
    own = epilogue.tensors(n)
    tensors: dict[str, Any] = {"x": ((n, parts[0].plan.source.size), "uint8")}
    for index, part in enumerate(parts):
        tensors[f"weights{index}"] = (part.plan.packed_shape, part.plan.packed_type)
        tensors[f"constants{index}"] = own["constants"]
    tensors |= {name: own[name] for name in own if name != "constants"}
    with kernel("shiftadd_conv2d_transpose", tensors, epilogue.isa.computed_by) as made:
        with build.serial(n) as image:
            fill_border(made["out"], image, epilogue.out)
        shared = {name: made[name] for name in tensors if name in ("x", "residual", "out")}
        for index, part in enumerate(parts):
            operands = {name: made[f"{name}{index}"] for name in ("weights", "constants")}
            inner = _of_phase(epilogue, part.phase)
            convolve(part.plan, inner, Kernel({**shared, **operands}), n)
    return made.function


def _of_phase(epilogue: Epilogue, phase: Phase) -> Epilogue:
    """The epilogue for the pixels of a phase."""
    out, residual = epilogue.out, epilogue.residual
    out = replace(out, lattice=out.lattice[phase.lattice])
    if residual is not None:
        residual = replace(residual, lattice=residual.lattice[phase.lattice])
    return replace(epilogue, out=out, residual=residual)
