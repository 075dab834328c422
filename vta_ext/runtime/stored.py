"""Regions compiled ahead of time, as files: one program each, and a table of their borders.

The files come from who knows where: what is read is checked, and refused in one sentence. That a
program is safe to run is proved before it is first launched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.compiler.compile import Binding, CompiledRegion
from vta_ext.compiler.layers import Patches, Phase, Tensor, Window
from vta_ext.compiler.layout import map_bytes
from vta_ext.compiler.operators import Network, Value
from vta_ext.config import Config
from vta_ext.host import HostPart
from vta_ext.program import Program

#: The table of the regions.
TABLE: Final = "regions.json"
_VERSION: Final = 1
_FUNCTION: Final = re.compile(r"vta_region_[0-9]{3}\Z")
_DTYPES: Final = ("int8", "uint8", "int32")
#: No side of a map, window or list in the table is greater.
_MOST: Final = 1 << 16


@dataclass(frozen=True, eq=False)
class StoredRegion:
    """A program with what the host must know to run it.

    ``function``: the name of the packed function that it stands behind. ``arguments`` and
    ``results`` are the network's tensors in the order in which the function takes them; ``inputs``
    and ``outputs`` are the program's. Two inputs may be made of one argument; each output is the
    result of its place.
    """

    function: str
    program: Program
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    arguments: tuple[Value, ...]
    results: tuple[Value, ...]

    @classmethod
    def of(cls, function: str, network: Network, compiled: CompiledRegion) -> StoredRegion:
        """What to keep of a compiled region."""
        return cls(
            function,
            compiled.program,
            compiled.inputs,
            compiled.outputs,
            network.inputs,
            network.outputs,
        )


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Map(_Strict, frozen=True):
    name: str
    height: int
    width: int
    channels: int
    dtype: str


class _Patches(_Strict, frozen=True):
    source: _Map
    stride: tuple[int, int]
    taps: tuple[tuple[int, int, int], ...]


class _Port(_Strict, frozen=True):
    tensor: _Map
    section: str
    patches: _Patches | None = None


class _Value(_Strict, frozen=True):
    name: str
    shape: tuple[int, ...]
    dtype: str


class _Region(_Strict, frozen=True):
    function: str
    program: str
    arguments: tuple[_Value, ...]
    results: tuple[_Value, ...]
    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]


class _Table(_Strict, frozen=True):
    version: int
    hash: str
    configuration: dict[str, Any]
    regions: tuple[_Region, ...]
    host: HostPart | None = None


def encode(
    regions: Sequence[StoredRegion], config: Config, host: HostPart | None = None
) -> dict[str, bytes]:
    """The files of an artifact, by name: the table, and a program for each region.

    ``host``: what is done around the programs, for those who run them without the library.
    """
    files = {f"{_stem(number)}.vta": r.program.to_bytes() for number, r in enumerate(regions)}
    table = _Table(
        version=_VERSION,
        hash=config.hash,
        configuration=config.to_dict(),
        regions=tuple(_region(number, region) for number, region in enumerate(regions)),
        host=host,
    )
    files[TABLE] = msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n"
    return files


def decode(
    files: Mapping[str, bytes],
) -> tuple[Config, tuple[StoredRegion, ...], HostPart | None]:
    """The configuration, the regions, and what the host does around them, of an artifact's files.

    The last is None where the artifact does not say. Raises ProgramError, naming the file, where
    one is missing, damaged, for another configuration or does not fit the others.
    """
    if TABLE not in files:
        raise ProgramError(f"{TABLE} is missing; compile the model again")
    try:
        table = msgspec.json.decode(files[TABLE], type=_Table)
        config = Config.from_dict(table.configuration)
    except (msgspec.MsgspecError, ValueError, RecursionError, InputError) as error:
        raise ProgramError(f"{TABLE} is damaged ({error}); compile the model again") from None
    if table.version != _VERSION or table.hash != config.hash:
        raise ProgramError(
            f"{TABLE} is of version {table.version} for configuration {table.hash!r:.40}, this "
            f"release makes {_VERSION} for {config.hash} of its parameters; compile the model again"
        )
    programs = [entry.program for entry in table.regions]
    functions = {entry.function for entry in table.regions}
    if sorted([TABLE, *programs]) != sorted(files) or len(functions) != len(programs):
        raise ProgramError(
            f"{TABLE} lists the programs {', '.join(programs) or 'none'}, but there are "
            f"{', '.join(sorted(set(files) - {TABLE})) or 'none'}; compile the model again"
        )
    regions = []
    for entry in table.regions:
        try:
            regions.append(_stored(entry, files[entry.program], config))
        except ProgramError as error:
            raise ProgramError(f"{entry.program}: {error}") from error
    if table.host is not None:
        table.host.check(
            [value.name for region in regions for value in region.arguments],
            [value.name for region in regions for value in region.results],
        )
    return config, tuple(regions), table.host


def _stem(number: int) -> str:
    return f"region-{number:03}"


def _region(number: int, region: StoredRegion) -> _Region:
    return _Region(
        region.function,
        f"{_stem(number)}.vta",
        tuple(_Value(v.name, v.shape, v.dtype) for v in region.arguments),
        tuple(_Value(v.name, v.shape, v.dtype) for v in region.results),
        tuple(map(_port, region.inputs)),
        tuple(map(_port, region.outputs)),
    )


def _port(binding: Binding) -> _Port:
    patches = None
    if binding.patches is not None:
        window = binding.patches.window
        patches = _Patches(_map(binding.patches.source), window.stride, window.phases[0].taps)
    return _Port(_map(binding.tensor), binding.section, patches)


def _map(tensor: Tensor) -> _Map:
    return _Map(tensor.name, tensor.height, tensor.width, tensor.channels, tensor.dtype)


def _stored(entry: _Region, data: bytes, config: Config) -> StoredRegion:
    if not _FUNCTION.match(entry.function):
        raise ProgramError(f"{entry.function!r:.60} is no name of a region; compile again")
    program = Program.from_bytes(data)
    program.require(config)
    inputs = tuple(_binding(port, program, "input") for port in entry.inputs)
    outputs = tuple(_binding(port, program, "output") for port in entry.outputs)
    arguments = {value.name: _value(value) for value in entry.arguments}
    results = tuple(map(_value, entry.results))
    pairs = [(binding.feed, arguments.get(binding.feed.name)) for binding in inputs]
    if len(results) == len(outputs) and len(arguments) == len(entry.arguments):
        pairs += [(o.tensor, result) for o, result in zip(outputs, results, strict=True)]
    else:
        raise ProgramError("its results are not its outputs; compile the model again")
    for tensor, value in pairs:
        if value is None or not _same(tensor, value):
            raise ProgramError(
                f"tensor {tensor.name!r:.60} is not what the table makes of it; "
                "compile the model again"
            )
    return StoredRegion(
        entry.function, program, inputs, outputs, tuple(arguments.values()), results
    )


def _same(tensor: Tensor, value: Value) -> bool:
    """Whether a map holds the elements of a network's tensor."""
    elements = tensor.height * tensor.width * tensor.channels
    return tensor.dtype == value.dtype and math.prod(value.shape) == elements


def _binding(port: _Port, program: Program, role: str) -> Binding:
    """A border of the region; refused unless its section is exactly as large as its map."""
    tensor, section = _tensor(port.tensor), program.section(port.section)
    size = map_bytes(tensor, program.config)
    if section.role != role or section.size != size:
        raise ProgramError(
            f"section {section.name} is {section.role} of {section.size} bytes, the table says "
            f"{role} of {size}; compile the model again"
        )
    patches = None if port.patches is None else _arranged(port.patches, tensor)
    return Binding(tensor, section.name, patches)


def _tensor(described: _Map) -> Tensor:
    sizes = (described.height, described.width, described.channels)
    if not all(1 <= size <= _MOST for size in sizes) or described.dtype not in _DTYPES:
        raise ProgramError(
            f"tensor {described.name!r:.60} has the shape {list(sizes)} of {described.dtype!r:.20}"
            "; compile the model again"
        )
    return Tensor(described.name, *sizes, described.dtype)


def _arranged(described: _Patches, tensor: Tensor) -> Patches:
    source, taps = _tensor(described.source), described.taps
    numbers = [abs(number) for tap in taps for number in tap] + list(described.stride)
    places = sorted(place for _, _, place in taps)
    fits = places == list(range(len(taps))) and tensor.channels == len(taps) * source.channels
    if not fits or max(numbers, default=0) > _MOST or min(described.stride) < 1:
        raise ProgramError(
            f"the window over {source.name!r:.60} does not make {tensor.name!r:.60}; "
            "compile the model again"
        )
    return Patches(source, Window(described.stride, (1, 1), (Phase((0, 0), taps),)))


def _value(described: _Value) -> Value:
    shape = described.shape
    if not 1 <= len(shape) <= 8 or not all(1 <= size <= _MOST for size in shape):
        raise ProgramError(
            f"tensor {described.name!r:.60} has the shape {shape!s:.60}; compile again"
        )
    return Value(described.name, shape, described.dtype)
