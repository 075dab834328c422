"""What the fused kernels are tested with: layers and single operations of any instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.script import tirx as T

from tvm_shiftadd.formats.codes import DECODE_TABLE
from tvm_shiftadd.topi.schedules.cpu.dot.arm import DOTPROD, I8MM
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.topi.schedules.fusion.function import kernel
from tvm_shiftadd.topi.schedules.shapes import conv_shape, round_up

Arrays = Sequence[NDArray[Any]]

ARM = (I8MM, DOTPROD)


def target_of(isa: InstructionSet) -> tvm.target.Target:
    """A processor that has the set and nothing better."""
    features = [f"+{feature}" for feature in isa.features]
    machine, mcpu = ("aarch64", "generic") if isa in ARM else ("x86_64", "x86-64-v3")
    triple = f"{machine}-unknown-linux-gnu"
    return tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "mattr": features})


def built(function: Any, isa: InstructionSet, name: str = "main") -> Any:
    """A kernel compiled for a processor of the set, to be called by ``name``."""
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    return tvm.compile(module, target=target_of(isa))


def layer(
    kind: Any,
    size: tuple[int, int, int],
    outputs: int,
    terms: int,
    window: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    **known: Any,
) -> Workload:
    """A layer on a map of such a size: height, width, channels."""
    reach = (window - 1) * dilation // 2
    shape = conv_shape(
        size, outputs, terms, (window,) * 2, (stride,) * 2, (reach,) * 4, (dilation,) * 2, groups
    )
    return Workload(kind, shape, round_up(size[2], 16), **known)


def any_layer(draw: Callable[[int, int], int], choice: Callable[..., Any]) -> Workload | None:
    """A layer of any kind and shape; None for a window that is reached by padding alone.

    ``draw``: a number between two, ``choice``: one of its arguments.
    """
    kind = choice("conv", "conv", "depthwise", "dense", "adder")
    groups = draw(2, 70) if kind == "depthwise" else choice(1, 1, 2, 3) if kind == "conv" else 1
    each = 1 if kind == "depthwise" else draw(1, 40)
    outputs = groups * (1 if kind == "depthwise" else draw(1, 40))
    size = (1, 1) if kind == "dense" else (draw(1, 9), draw(1, 9))
    window = 1 if kind == "dense" else draw(1, 3)
    stride = 1 if kind == "dense" else draw(1, 2)
    dilation = draw(1, 2) if kind in ("conv", "depthwise") else 1
    # Such windows have no centre here.
    if (window - 1) * dilation % 2 and min(size) < window * dilation:
        return None
    known = {"signed": choice(False, True), "scaled": choice(False, True)}
    if kind != "depthwise":
        known |= {"result": choice("bytes", "wide"), "residual": choice("", "bytes", "wide")}
    return layer(
        kind,
        (*size, groups * each),
        outputs,
        2 if kind == "adder" else draw(1, 3),
        window,
        stride=stride,
        dilation=dilation,
        groups=groups,
        **known,
    )


@dataclass(frozen=True)
class Case:
    """Arrays of one register each, and the bytes that an operation makes of them."""

    arrays: Arrays
    expected: NDArray[np.int8]


def probe(isa: InstructionSet, arrays: Arrays, made: Callable[..., Any]) -> Any:
    """A function of registers such as ``arrays`` and of what ``made(registers)`` is stored in."""
    tensors = {f"x{i}": (array.shape, str(array.dtype)) for i, array in enumerate(arrays)}
    with kernel("probe", {**tensors, "out": ((isa.vector,), "int8")}, None) as found:
        registers = [
            found[f"x{i}"].vload([0], dtype=isa.vector_of(str(array.dtype)))
            for i, array in enumerate(arrays)
        ]
        T.buffer_store(found["out"], isa.as_bytes(made(*registers)), [T.ramp(0, 1, isa.vector)])
    return found.function


def extreme_products(isa: InstructionSet, most: int) -> Iterator[Case]:
    """For ``isa.dot`` with weights of at most ``most``: sums, unsigned and signed bytes."""
    random, largest = np.random.default_rng(most), min(most, 127)
    for x, w in [(255, largest), (255, -most), (128, -most), (None, None)]:
        unsigned = np.full(isa.vector, x or 0, np.uint8)
        signed = np.full(isa.vector, w or 0, np.int8)
        if x is None:
            unsigned = random.choice([0, 1, 127, 128, 254, 255], isa.vector).astype(np.uint8)
            signed = random.choice([-most, -1, 0, 1, largest], isa.vector).astype(np.int8)
        sums = random.integers(-(2**31), 2**31, isa.lanes).astype(np.int32)
        # Where only signed bytes are multiplied, the bias makes up for a zero that is not 0.
        products = (unsigned.astype(np.int64) + isa.zero(0)) * signed
        expected = (sums + products.reshape(-1, 4).sum(1)).astype(np.int32)
        yield Case((sums, unsigned, signed), expected.view(np.int8))


def all_codes(isa: InstructionSet) -> tuple[Case, Case]:
    """For the two halves of ``isa.decode``."""
    packed = np.random.default_rng(0).integers(0, 256, isa.vector).astype(np.uint8)
    packed[:16] = np.arange(16) | np.arange(16) << 4
    low, high = (DECODE_TABLE[codes].astype(np.int8) for codes in (packed & 15, packed >> 4))
    return Case((packed,), low), Case((packed,), high)


def sums_to_narrow(isa: InstructionSet, kind: str) -> Case:
    """For ``isa.narrow`` to int8 or uint8, in their natural order."""
    values = np.random.default_rng(1).integers(-400, 400, (4, isa.lanes)).astype(np.int32)
    values[:, 0] = [-(2**31), 2**31 - 1, -40_000, 70_000]
    limits = np.iinfo(kind)
    expected = values.clip(limits.min, limits.max).astype(kind).reshape(-1)
    return Case(tuple(values), expected.view(np.int8))
