"""Comparing a kernel with the NumPy reference, bit by bit, before its time may count."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import te
from tvm_shiftadd.formats import codes, packing, reference
from tvm_shiftadd.topi.schedules.cpu.dot import weights
from tvm_shiftadd.topi.schedules.cpu.dot.epilogue import Epilogue
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.layers import LayerKernel, layer_kernel
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import Parameters
from tvm_shiftadd.topi.schedules.cpu.dot.stored import Stored, Wide
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload

Array = NDArray[Any]
Build = Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """A layer with random numbers for a workload; always the same for the same one."""

    work: Workload

    def _random(self, name: str) -> np.random.Generator:
        """Numbers of their own for each part, in whatever order parts are asked for."""
        return np.random.default_rng(zlib.crc32(f"{name} of {self.work.text}".encode()))

    @cached_property
    def x(self) -> Array:
        """int8 or uint8 ``[N, H, W, C]``, over the whole range."""
        shape = self.work.shape
        kind: type[np.generic] = np.int8 if self.work.signed else np.uint8
        low, high = (-128, 127) if self.work.signed else (0, 255)
        if self.work.kind == "adder":
            # On one scale with its weights an input without negative values is an int8 as well.
            kind, high = np.int8, 127
        size = (self.work.images, shape.height, shape.width, shape.channels)
        return self._random("x").integers(low, high + 1, size).astype(kind)

    @cached_property
    def values(self) -> Array:
        """The weights, ``[R, O]``: int32 sums of terms, of an adder layer int8."""
        shape = self.work.shape
        size = (shape.reduction, shape.outputs)
        if self.work.kind == "adder":
            return self._random("weights").integers(-128, 128, size).astype(np.int8)
        return (
            self._random("weights").choice(codes.representable(shape.terms), size).astype(np.int32)
        )

    @cached_property
    def weight(self) -> Array:
        """The weights as the kernels are given them: packed codes, or bytes."""
        if self.work.kind == "adder":
            return self.values
        return packing.pack(codes.encode(self.values, self.work.shape.terms))

    @cached_property
    def bias(self) -> Array:
        """int32 ``[O]``."""
        return self._random("bias").integers(-5000, 5000, self.work.shape.outputs).astype(np.int32)

    @cached_property
    def other(self) -> Array:
        """An addition's other operand: uint8 or int32, as large as the result."""
        shape = self.work.shape
        size = (self.work.images, shape.out_height, shape.out_width, shape.outputs)
        if self.work.residual == "bytes":
            return self._random("other").integers(0, 256, size).astype(np.uint8)
        return self._random("other").integers(-50_000, 50_000, size).astype(np.int32)

    @cached_property
    def operands(self) -> dict[str, Array]:
        """The constants of what follows the sums, as ``weights.constants`` wants them."""
        outputs, found = self.work.shape.outputs, {}
        if self.work.scaled:
            found["factor"] = codes.encode(self._random("factor").choice([1, 3, -5, 7], outputs), 3)
        if self.work.residual:
            for name in ("lhs_shift", "rhs_shift"):
                found[name] = self._random(name).integers(0, 3, outputs).astype(np.int32)
        if self.work.result == "bytes":
            spread = max(1, int(np.abs(self._sums(found)).mean()) // 64).bit_length()
            shift = spread + self._random("shift").integers(-1, 3, outputs)
            found["shift"] = np.clip(shift, 0, 24).astype(np.int32)
        return found

    @cached_property
    def expected(self) -> Array:
        """The reference's result, ``[N, OH, OW, O]``: uint8 or int32."""
        sums = self._sums(self.operands)
        if self.work.result == "wide":
            return sums
        return reference.requantize(sums, self.operands["shift"], 0, 255, np.uint8)

    def _sums(self, operands: dict[str, Array]) -> Array:
        sums = self._accumulators
        if "factor" in operands:
            sums = reference.scale(sums, operands["factor"])
        if "lhs_shift" in operands:
            sums = reference.add(sums, self.other, operands["lhs_shift"], operands["rhs_shift"])
        return sums

    @cached_property
    def _accumulators(self) -> Array:
        shape, source = self.work.shape, self.work.source
        top, left, bottom, right = source.border
        filters = self.values.reshape(*shape.kernel, shape.group_channels, shape.outputs)
        # What the map has beyond the last window is read by none.
        named: dict[str, Any] = {"strides": shape.strides, "padding": (top, left, bottom, right)}
        if self.work.kind == "adder":
            return reference.adder_conv2d(self.x, filters, self.bias, **named)
        named |= {"dilation": shape.dilation, "groups": shape.groups}
        return reference.conv2d(self.x, filters, self.bias, **named)


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


def arguments(
    work: Workload, isa: InstructionSet, parameters: Parameters, build: Build
) -> list[Array]:
    """What the kernel of a layer with random numbers is called with; the last one is its result.

    ``build``: compiles an IRModule for the machine that prepares the weights.
    """
    layer, kernel = Layer(work), layer_kernel(work, work.plan(isa, parameters))
    epilogue = work.epilogue(isa)
    packed, constants = _prepared(layer, kernel, epilogue, build)
    found = [stored(work.source, layer.x), packed, constants]
    if epilogue.residual is not None:
        found.append(stored(epilogue.residual, layer.other))
    kind = np.int32 if work.result == "wide" else np.uint8
    # Every byte of the result must be written, or be a border's.
    return [*found, np.full((work.images, epilogue.out.size), 85, kind)]


def problem(work: Workload, result: Array) -> str:
    """How a kernel's result differs from the reference's, for people; "" where it does not."""
    expected, got = Layer(work).expected, plain(work.out, result)
    wrong = np.argwhere(expected != got)
    if not len(wrong):
        return ""
    first = tuple(int(index) for index in wrong[0])
    return (
        f"{len(wrong)} of {expected.size} results are wrong: at {first[1:]} "
        f"{got[first]} instead of {expected[first]}"
    )


def _prepared(layer: Layer, kernel: LayerKernel, epilogue: Epilogue, build: Build) -> list[Array]:
    """The packed weights and the matrix of constants."""
    work, operands = layer.work, layer.operands

    def define(weight: Any, bias: Any, *rest: Any) -> list[Any]:
        if kernel.bias is not None:
            bias = kernel.bias(weight, bias)
        sums = weights.sum_of_weights(weight, work.shape.reduction) if kernel.zero else None
        named = dict(zip(operands, rest, strict=True))
        matrix = weights.constants(epilogue, bias, kernel.zero, sums, named)
        return [kernel.pack(weight), kernel.order(matrix)]

    return _evaluate(define, [layer.weight, layer.bias, *operands.values()], build)


def _evaluate(
    define: Callable[..., list[Any]], arrays: Sequence[Array], build: Build
) -> list[Array]:
    """The arrays that a compute definition makes of others."""
    inputs = [
        te.placeholder(array.shape, str(array.dtype), name=f"input{index}")
        for index, array in enumerate(arrays)
    ]
    outputs = define(*inputs)
    function = te.create_prim_func([*inputs, *outputs])
    made = [np.zeros([int(size) for size in output.shape], str(output.dtype)) for output in outputs]
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, *made)]
    build(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))["main"](*tensors)
    return [tensor.numpy() for tensor in tensors[len(arrays) :]]
