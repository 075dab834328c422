"""Program images of artifacts, and the C header with an image's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, TypeVar

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.bare.borders import View, follow, inverse, require_known, strides
from vta_ext.bare.image import Image, Input, Output, Port, Segment
from vta_ext.compiler.compile import Binding
from vta_ext.host import HostPart
from vta_ext.isa.codec import codec
from vta_ext.program import Program
from vta_ext.rtl.map import ALIGNMENT
from vta_ext.runtime.regions import Regions
from vta_ext.runtime.stored import StoredRegion

_Tensor = TypeVar("_Tensor", Input, Output)

#: What macros of the runtime begin with.
_OWN: Final = "SHIFTADD_"
#: What follows a tensor's word in the names of its macros.
_SUFFIXES: Final = ("", "_ELEMENTS", "_EXPONENT")


@dataclass(frozen=True)
class Named:
    """An image, and what its inputs and outputs are called in the network."""

    image: Image
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def make(regions: Regions, inputs: Sequence[str], outputs: Sequence[str]) -> Named:
    """The image of an artifact's regions; ``inputs`` and ``outputs`` name the network's.

    The program is proved safe first. Raises ProgramError for one that is not, and where the host
    does more around it than the runtime can, naming that.
    """
    host = regions.host
    if host is None:
        raise ProgramError("the artifact does not say what the host does; compile the model again")
    if (len(host.inputs), len(host.outputs)) != (len(inputs), len(outputs)):
        raise ProgramError(
            f"the host has {len(host.inputs)} inputs and {len(host.outputs)} outputs, the network "
            f"{len(inputs)} and {len(outputs)}; compile the model again"
        )
    require_known(host)
    if len(regions.regions) != 1:
        raise ProgramError(
            f"expected one program that does it all, the artifact has {len(regions.regions)}, with "
            f"{_between(host)} between them; run it with tvm-shiftadd run"
        )
    (region,) = regions.regions
    views = follow(host, region)
    regions.require_safe()
    given = _inputs(host, region, views)
    order = {one.name: number for number, one in enumerate(host.inputs)}
    segments, instructions, arena = _contents(region.program)
    image = Image(
        hash=regions.config.hash,
        batch=regions.config.batch,
        block=regions.config.block,
        arena_bytes=arena,
        instructions=instructions,
        count=len(region.program.instructions),
        segments=segments,
        inputs=given,
        ports=tuple(_port(binding, region.program, views, order) for binding in region.inputs),
        outputs=tuple(_output(name, region, views) for name in host.outputs),
    )
    return Named(image, tuple(inputs), tuple(outputs))


def _between(host: HostPart) -> str:
    """The steps on the host that read what a program has made, as far as they are known."""
    inputs = {one.name for one in host.inputs}
    names = [
        f"{step.kind} ({step.output.name})"
        for step in host.steps
        if step.source not in inputs and step.kind not in ("alias", "dequantize")
    ]
    return ", ".join(names) or "nothing"


def _contents(program: Program) -> tuple[tuple[Segment, ...], int, int]:
    """What is copied to the arena, where the instructions are in it, and its bytes."""
    code = codec(program.config).encode_all(program.instructions)
    at = _aligned(program.dram_bytes)
    kept = [Segment(s.offset, s.data) for s in program.sections if s.data is not None]
    return (*kept, Segment(at, code)), at, _aligned(at + len(code))


def _inputs(host: HostPart, region: StoredRegion, views: Mapping[str, View]) -> tuple[Input, ...]:
    """The network's inputs as they are stored: each one on one scale."""
    stored = [views[one.name] for one in region.arguments]
    found = []
    for given in host.inputs:
        scales = {
            (int(view.exponents.flat[0]), view.dtype)
            for view in stored
            if view.source == given.name and view.exponents is not None
        }
        if given.dtype != "float32" or len(scales) != 1:
            raise ProgramError(
                f"expected input {given.name} to be float32 and quantised in one way, it is "
                f"{given.dtype} and in {len(scales)}; run the artifact with tvm-shiftadd run"
            )
        exponent, dtype = scales.pop()
        found.append(Input(prod(given.shape), exponent, dtype))
    return tuple(found)


def _port(
    binding: Binding, program: Program, views: Mapping[str, View], order: Mapping[str, int]
) -> Port:
    feed, tensor = binding.feed, binding.tensor
    view = views[feed.name]
    if view.source not in order or view.exponents is None:
        raise ProgramError(
            f"{feed.name}, which the program reads, is no quantised input of the network; "
            "run the artifact with tvm-shiftadd run"
        )
    source = (feed.height, feed.width, feed.channels)
    found = strides(view.index.reshape(source), feed.name)
    offset, size = program.section(binding.section).offset, (tensor.height, tensor.width)
    number = order[view.source]
    if binding.patches is None:
        return Port(number, offset, size, source, found)
    window = binding.patches.window
    taps = sorted((place, (dy, dx)) for dy, dx, place in window.phases[0].taps)
    return Port(number, offset, size, source, found, window.stride, tuple(tap for _, tap in taps))


def _output(name: str, region: StoredRegion, views: Mapping[str, View]) -> Output:
    view = views[name]
    made = {binding.tensor.name: binding for binding in region.outputs}
    if view.source not in made:
        raise ProgramError(
            f"output {name} is no result of the program; run the artifact with tvm-shiftadd run"
        )
    binding = made[view.source]
    tensor = binding.tensor
    place, exponents = inverse(view, tensor, name)
    return Output(
        elements=place.size,
        dtype=tensor.dtype,
        offset=region.program.section(binding.section).offset,
        shape=(tensor.height, tensor.width, tensor.channels),
        strides=strides(place, name),
        exponents=exponents,
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def c_header(named: Named, name: str) -> str:
    """A C header with an image's sizes and the numbers of its inputs and outputs.

    ``name``: what the image is called; its macros begin with it. Raises InputError for one with
    which they would be the runtime's own.
    """
    prefix = _macro(name)
    if f"{prefix}_".startswith(_OWN):
        raise InputError(
            f"macros of the header {name} would begin with {_OWN}, as the runtime's own do; give "
            "it another name"
        )
    lines = [f"#define {prefix}_{word} {value}" for word, value in _numbers(named)]
    guard = f"{prefix}_H"
    return (
        f"/* Made by `tvm-shiftadd image`; belongs to the image of that size and CRC. */\n"
        f"#ifndef {guard}\n#define {guard}\n\n" + "\n".join(lines) + "\n\n#endif\n"
    )


def _numbers(named: Named) -> Iterator[tuple[str, str]]:
    image = named.image
    yield "IMAGE_BYTES", f"{len(image.to_bytes())}u"
    yield "IMAGE_CRC", f"0x{image.crc:08x}u"
    yield "ARENA_BYTES", f"{image.arena_bytes}u"
    yield "ARENA_ALIGNMENT", f"{ALIGNMENT}u"
    yield "BATCH", f"{image.batch}u"
    for word, number, given in _numbered(named.inputs, image.inputs):
        yield f"INPUT_{word}", f"{number}u"
        yield f"INPUT_{word}_ELEMENTS", f"{given.elements}u"
        yield f"INPUT_{word}_EXPONENT", str(given.exponent)
    for word, number, made in _numbered(named.outputs, image.outputs):
        yield f"OUTPUT_{word}", f"{number}u"
        yield f"OUTPUT_{word}_ELEMENTS", f"{made.elements}u"


def _numbered(
    names: Sequence[str], tensors: Sequence[_Tensor]
) -> Iterator[tuple[str, int, _Tensor]]:
    """Each tensor with its number and a word for its name, such that all macros differ."""
    words = [_macro(name) for name in names]
    macros = [word + suffix for word in words for suffix in _SUFFIXES]
    if len(set(macros)) < len(macros):
        words = [f"{word}_{number}" for number, word in enumerate(words)]
    for number, (word, tensor) in enumerate(zip(words, tensors, strict=True)):
        yield word, number, tensor


def _macro(name: str) -> str:
    """A name as C's macros may have it."""
    word = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") or "X"
    return f"N{word}" if word[0].isdigit() else word
