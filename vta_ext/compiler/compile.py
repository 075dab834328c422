"""A region as one program, with its memory and with what the host has to know to run it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from tvm_shiftadd.errors import CompileError
from vta_ext.compiler import memory
from vta_ext.compiler.builder import Builder, Counters
from vta_ext.compiler.constants import ALIGNMENT, Constants
from vta_ext.compiler.layers import Layer, Patches, Region, Tensor
from vta_ext.compiler.layout import map_bytes
from vta_ext.compiler.loads import Memory
from vta_ext.compiler.lower import lower
from vta_ext.compiler.operators import Network
from vta_ext.compiler.schedule import schedule
from vta_ext.compiler.tiles import Step
from vta_ext.compiler.tiling import Tiling
from vta_ext.config import Config
from vta_ext.isa.instruction import finish
from vta_ext.jit.tokens import Entry, assign_tokens
from vta_ext.program import Label, Program, Section, micro_op_section


@dataclass(frozen=True)
class Binding:
    """A tensor that the host writes or reads, and the section of the program that holds it.

    ``patches``: how the host makes it of an input of the network, where it does not just copy it.
    """

    tensor: Tensor
    section: str
    patches: Patches | None = None

    @property
    def feed(self) -> Tensor:
        """The network's own tensor."""
        return self.patches.source if self.patches else self.tensor


@dataclass(frozen=True)
class LayerRange:
    """Instructions [first, last) of a layer; loads of the next layer are among them."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class CompiledRegion:
    """A program with the tensors that go in and come out, in the network's order."""

    program: Program
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    layers: tuple[LayerRange, ...]
    counters: Counters


#: The tiling that a layer is to have; None for the compiler's own choice.
Choose = Callable[[Layer], Tiling | None]


def estimated(_layer: Layer) -> None:
    """The compiler's own choice for every layer."""


def compile_network(network: Network, config: Config, tiling: Choose = estimated) -> CompiledRegion:
    """Compile the operators of one region for one machine.

    Raises RefusedError, a CompileError that names the layer, for an operator that the machine
    cannot run or that does not fit its buffers.
    """
    return compile_region(lower(network, config), config, tiling)


def compile_region(region: Region, config: Config, tiling: Choose = estimated) -> CompiledRegion:
    """Compile layers; see :func:`compile_network`."""
    sections, tensors = _activations(region, config)
    end = max((section.end for section in sections), default=0)
    constants = Constants(base=_aligned(end))
    made = frozenset(layer.output.name for layer in region.layers)
    steps: list[Step] = []
    for number, layer in enumerate(region.layers, 1):
        last = number == len(region.layers)
        steps += schedule(layer, constants, Memory(tensors, made), config, tiling(layer), last)
    if constants.data:
        data = bytes(constants.data)
        sections.append(Section("constants", "constant", constants.base, len(data), data))
    return _assemble(region, steps, sections, (0, end), config)


def _assemble(
    region: Region,
    steps: Sequence[Step],
    sections: list[Section],
    written: tuple[int, int],
    config: Config,
) -> CompiledRegion:
    start = _aligned(max(section.end for section in sections))
    builder = Builder(config, kernels_at=start // config.uop_bytes)
    builder.run(steps)
    entries = assign_tokens([*builder.entries, Entry(finish(), label="finish")], config, written)
    if len(builder.kernels.micro_ops):
        sections.append(micro_op_section("kernels", builder.kernels.micro_ops, start, config))
    ranges = _ranges(entries)
    program = Program(
        config,
        tuple(entry.instruction for entry in entries),
        tuple(sections),
        tuple(Label(found.first, section_name(found.name)) for found in ranges),
    )
    return CompiledRegion(
        program,
        tuple(
            Binding(tensor, section_name("in", tensor.name), region.patches.get(tensor.name))
            for tensor in region.inputs
        ),
        tuple(Binding(tensor, section_name("out", tensor.name)) for tensor in region.outputs),
        ranges,
        builder.counters,
    )


def _activations(region: Region, config: Config) -> tuple[list[Section], dict[str, int]]:
    """Sections of inputs, outputs and what lies between, and the byte each tensor is at."""
    sections: list[Section] = []
    tensors: dict[str, int] = {}
    end = 0
    kinds = (("in", "input", region.inputs), ("out", "output", region.outputs))
    for prefix, role, members in kinds:
        for tensor in members:
            if tensor.name in tensors:
                raise CompileError(f"tensor {tensor.name} is an input and an output of one region")
            size = map_bytes(tensor, config)
            sections.append(Section(section_name(prefix, tensor.name), role, end, size))
            tensors[tensor.name] = end
            end = _aligned(end + size)
    offsets, size = memory.plan(region, config, ALIGNMENT)
    tensors |= {name: end + offset for name, offset in offsets.items()}
    if size:
        sections.append(Section("activations", "scratch", end, size))
    return sections, tensors


def _ranges(entries: Sequence[Entry]) -> tuple[LayerRange, ...]:
    found, position = [], 0
    for name, members in groupby(entries, key=lambda entry: entry.label):
        count = sum(1 for _ in members)
        found.append(LayerRange(name, position, position + count))
        position += count
    return tuple(found)


def section_name(*parts: str) -> str:
    """A name that programs accept."""
    return re.sub(r"[^A-Za-z0-9_.:/+-]", "_", ":".join(parts))[:200] or "_"


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
