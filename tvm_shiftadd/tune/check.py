"""Comparing a kernel with the NumPy reference, bit by bit, before its time may count."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_shiftadd.topi.evaluation import evaluate
from tvm_shiftadd.topi.schedules.cpu.dot import weights
from tvm_shiftadd.topi.schedules.cpu.dot.epilogue import Epilogue
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.layers import LayerKernel, layer_kernel
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import Parameters
from tvm_shiftadd.topi.schedules.cpu.dot.stored import Stored, Wide
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.topi.schedules.fusion.epilogue import constants
from tvm_shiftadd.tune.random_layer import Array, Layer, difference

_TYPES = {"": "", "bytes": "uint8", "wide": "int32"}


def layer_of(work: Workload) -> Layer:
    """A layer with random numbers for a workload."""
    return Layer(
        work.text,
        work.shape,
        "int8" if work.signed else "uint8",
        _TYPES[work.result],
        _TYPES[work.residual],
        work.scaled,
        work.kind == "adder",
        work.images,
    )


def stored(layout: Stored | Wide, values: Array) -> Array:
    """Maps ``[N, H, W, C]`` as kernels read them: ``[N, layout.size]``."""
    if isinstance(layout, Wide):
        out: Array = np.zeros((len(values), layout.height, layout.width, layout.pitch), np.int32)
        out[..., : layout.channels] = values
        return out.reshape(len(values), -1)
    flat = np.full((len(values), layout.size), layout.zero, np.uint8)
    _pixels(layout, flat)[..., : layout.channels] = values.view(np.uint8) ^ np.uint8(layout.zero)
    return flat


def plain(layout: Stored | Wide, flat: Array) -> Array:
    """The maps ``[N, H, W, C]`` of what a kernel has written; their zero is 0."""
    if isinstance(layout, Wide):
        shape = (len(flat), layout.height, layout.width, layout.pitch)
        return flat.reshape(shape)[..., : layout.channels]
    return _pixels(layout, flat)[..., : layout.channels]


def _pixels(layout: Stored, flat: Array) -> Array:
    """A view of stored maps' pixels, padded channels included."""
    width = layout.row // layout.pitch
    rows = flat[:, : layout.rows * layout.row].reshape(len(flat), layout.rows, width, layout.pitch)
    top, left = layout.border[:2]
    return rows[:, top : top + layout.height, left : left + layout.width]


def arguments(work: Workload, isa: InstructionSet, parameters: Parameters) -> list[Array]:
    """What the kernel of a layer with random numbers is called with; the last one is its result."""
    layer, kernel = layer_of(work), layer_kernel(work, work.plan(isa, parameters))
    epilogue = work.epilogue(isa)
    packed, matrix = _prepared(work, layer, kernel, epilogue)
    found = [stored(work.source, layer.x), packed, matrix]
    if epilogue.residual is not None:
        found.append(stored(epilogue.residual, layer.addend))
    kind = np.int32 if work.result == "wide" else np.uint8
    # Every byte of the result must be written, or be a border's.
    return [*found, np.full((work.images, epilogue.out.size), 85, kind)]


def problem(work: Workload, result: Array) -> str:
    """How a kernel's result differs from the reference's, for people; "" where it does not."""
    return difference(layer_of(work).expected, plain(work.out, result))


def _prepared(work: Workload, layer: Layer, kernel: LayerKernel, epilogue: Epilogue) -> list[Array]:
    """The packed weights and the matrix of constants."""
    operands = layer.operands

    def define(weight: Any, bias: Any, *rest: Any) -> list[Any]:
        if kernel.bias is not None:
            bias = kernel.bias(weight, bias)
        sums = weights.sum_of_weights(weight, work.shape.reduction) if kernel.zero else None
        named = dict(zip(operands, rest, strict=True))
        matrix = constants(epilogue, bias, named, kernel.zero, sums)
        return [kernel.pack(weight), kernel.order(matrix)]

    return evaluate(define, [layer.weight, layer.bias, *operands.values()])
