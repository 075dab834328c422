"""Tile sizes as something to tune: candidates of a layer, their cycles, and whether they are right.

A workload is all of a layer that its cycles depend on: sizes, windows, and which tiles of weights
are not all zero. Its numbers are left out, so that records serve other networks; a process that
tries a candidate makes up others.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import log2
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from vta_ext import checker, presets
from vta_ext.compiler.compile import CompiledRegion, compile_region
from vta_ext.compiler.layers import (
    Finish,
    Layer,
    MatrixTerm,
    Phase,
    Region,
    Tensor,
    Window,
)
from vta_ext.compiler.matrix import prepare
from vta_ext.compiler.schedule import ordered, vectors_of
from vta_ext.compiler.tiling import Tiling, choose, tilings_of
from vta_ext.config import ISA_VERSION, Config
from vta_ext.presets import Preset
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.sim.timing import TimingParameters, simulate

#: Raised when tilings change their meaning, or the compiler so much that cycles change.
VERSION: Final = 1
#: Candidates are tilings of up to so much of the least estimated time, and at most so many.
_NEAR, _MOST = 1.5, 500
#: What starts a process that tries candidates.
FACTORY: Final = "vta_ext.tuning:serve"


@dataclass(frozen=True)
class Chosen:
    """What a layer was compiled with: ``tuned`` where a record said so."""

    layer: str
    workload: dict[str, Any]
    tiling: Tiling
    tuned: bool


class Tilings:
    """Where layers take their tilings from: records by workload, else the compiler's estimate.

    ``made`` is what layers that can be tuned were compiled with, in order.
    """

    def __init__(self, config: Config, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.config, self.records = config, records
        self.made: list[Chosen] = []

    def __call__(self, layer: Layer) -> Tiling | None:
        """The tiling of a layer; None for one that is not tuned. InputError where it is none."""
        workload = workload_of(layer, self.config)
        if workload is None:
            return None
        found = self.records.get(text_of(workload))
        if found is None:
            tiling = choose(ordered(layer), vectors_of(layer, self.config), self.config)
        else:
            tiling = _tiling(found)
            if not is_possible(tiling, layer, self.config):
                raise InputError(
                    f"the tiling recorded for {layer.name} does not fit this machine: {found}"
                )
        self.made.append(Chosen(layer.name, workload, tiling, found is not None))
        return tiling


def text_of(workload: Mapping[str, Any]) -> str:
    """A workload as text that is equal for equal ones: compact JSON, keys in order."""
    return json.dumps(workload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# Workloads.


def workload_of(layer: Layer, config: Config) -> dict[str, Any] | None:
    """What a layer's cycles depend on, as plain values; None where it is not tuned: pooling."""
    if not all(isinstance(term, MatrixTerm) for term in layer.terms):
        return None
    finish = layer.finish
    return {
        "output": _tensor(layer.output),
        "terms": [_term(layer, number, config) for number in range(len(layer.terms))],
        "finish": None if finish is None else list(finish.limits or ()),
        "clip": None if layer.clip is None else list(layer.clip),
    }


def _tensor(tensor: Tensor) -> list[Any]:
    return [tensor.height, tensor.width, tensor.channels, tensor.dtype]


def _term(layer: Layer, number: int, config: Config) -> dict[str, Any]:
    term = layer.terms[number]
    assert isinstance(term, MatrixTerm)
    used = prepare(layer.name, number, term, config).used
    sources = [other.source.name for other in layer.terms]
    return {
        # Terms of one tensor have one number.
        "source": [sources.index(term.source.name), *_tensor(term.source)],
        "window": [
            list(term.window.stride),
            list(term.window.step),
            [[list(p.start), [list(tap) for tap in p.taps]] for p in term.window.phases],
        ],
        "mode": term.mode,
        "weights": list(term.weights.shape),
        "used": "all" if used.all() else _packed(used),
        "shifted": bool(term.shift.any()),
        "factor": 0 if term.factor is None else len(term.factor),
    }


def _packed(used: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(used).tobytes(), 9)).decode()


def name_of(workload: Mapping[str, Any]) -> str:
    """For people: ``shift 9 taps/1 14x14x256, K=2 -> 256``."""
    parts = []
    for term in workload["terms"]:
        taps = sum(len(taps) for _, taps in term["window"][2])
        _, height, width, channels, _ = term["source"]
        stride, planes = term["window"][0][0], term["weights"][1]
        terms = f", K={planes}" if term["mode"] == "shift" else ""
        parts.append(f"{term['mode']} {taps} taps/{stride} {height}x{width}x{channels}{terms}")
    return f"{' + '.join(parts)} -> {workload['output'][2]}"


def work_of(workload: Mapping[str, Any], config: Config) -> int:
    """Micro-ops of the matrix unit, were all tiles used."""
    height, width, outputs, _ = workload["output"]
    return sum(
        height * width * -(-outputs // config.block) * planes * taps * -(-inputs // config.block)
        for taps, planes, inputs, _ in (term["weights"] for term in workload["terms"])
    )


# A layer of a workload, with numbers made up.


def layer_of(workload: Mapping[str, Any], config: Config) -> Layer:
    """A layer of that workload. Raises InputError where it is none."""
    try:
        random = np.random.default_rng(zlib.crc32(text_of(workload).encode()))
        output = Tensor("output", *workload["output"])
        terms = tuple(_term_of(term, output, config, random) for term in workload["terms"])
        finish, clip = workload["finish"], workload["clip"]
        channels = output.channels
        end = None
        if finish is not None:
            limits = (int(finish[0]), int(finish[1])) if finish else None
            end = Finish(random.integers(-900, 900, channels), np.full(channels, 9), limits)
        return Layer("layer", output, terms, end, None if clip is None else (clip[0], clip[1]))
    except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"expected a layer's workload, got another thing: {error}") from None


def _term_of(
    values: Mapping[str, Any], output: Tensor, config: Config, random: np.random.Generator
) -> MatrixTerm:
    shape, channels = tuple(values["weights"]), output.channels
    if values["mode"] == "shift":
        weights = (random.integers(1, 6, shape) | random.choice([0, 8], shape)).astype(np.uint8)
    else:
        weights = random.integers(1, 100, shape).astype(np.int8)
    if values["used"] != "all":
        weights *= _mask(values["used"], shape, config.block)
    stride, step, phases = values["window"]
    window = Window(
        tuple(stride),
        tuple(step),
        tuple(Phase(tuple(start), tuple(tuple(tap) for tap in taps)) for start, taps in phases),
    )
    factor = None
    if values["factor"]:
        factor = random.integers(1, 3, (values["factor"], channels)).astype(np.uint8)
    shift = np.full(channels, int(values["shifted"]), np.int64)
    number, *size = values["source"]
    source = Tensor(f"input{number}", *size)
    return MatrixTerm(source, window, values["mode"], weights, shift, factor)


def _mask(text: str, shape: tuple[int, ...], block: int) -> NDArray[Any]:
    """1 for weights ``[T, K, I, O]`` of tiles that are used, else 0."""
    taps, planes, inputs, outputs = shape
    blocks = (taps, planes, -(-inputs // block), -(-outputs // block))
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    used = np.unpackbits(bits)[: int(np.prod(blocks))].reshape(blocks)
    wide = used.repeat(block, axis=2).repeat(block, axis=3)
    return wide[:, :, :inputs, :outputs].astype(np.uint8)


# Candidates.


def candidates(workload: Mapping[str, Any], config: Config) -> list[Tiling]:
    """Tilings that fit the machine, the compiler's own choice first.

    Beside the most input channels that a step has room for, half of them: steps are then shorter.
    """
    layer = layer_of(workload, config)
    arranged, vectors = ordered(layer), vectors_of(layer, config)
    costs = {tiling: cost for cost, tiling in tilings_of(arranged, vectors, config)}
    first = choose(arranged, vectors, config)
    near = sorted((t for t in costs if costs[t] <= _NEAR * costs[first]), key=costs.__getitem__)
    found = dict.fromkeys([first])
    for tiling in near:
        found[tiling] = None
        halves = tuple(-(-inputs // 2) for inputs in tiling.inputs)
        found[replace(tiling, inputs=halves)] = None
    return list(found)[:_MOST]


def is_possible(tiling: Tiling, layer: Layer, config: Config) -> bool:
    """Whether a layer can have a tiling on this machine."""
    arranged, vectors = ordered(layer), vectors_of(layer, config)
    return any(
        replace(tiling, inputs=most.inputs) == most
        and len(tiling.inputs) == len(most.inputs)
        and all(1 <= mine <= most for mine, most in zip(tiling.inputs, most.inputs, strict=True))
        for _, most in tilings_of(arranged, vectors, config)
    )


def _tiling(values: Mapping[str, Any]) -> Tiling:
    """The tiling of a record. Raises InputError where it is none."""
    try:
        found = Tiling(**{**values, "inputs": tuple(values["inputs"])})
        sizes = (found.rows, found.columns, found.outputs, *found.inputs)
        if all(type(size) is int for size in sizes) and type(found.spatial_first) is bool:
            return found
    except (KeyError, TypeError):
        pass
    raise InputError(f"expected a tiling, got {dict(values)}")


def plain(tiling: Tiling) -> dict[str, Any]:
    """A tiling as plain values for JSON."""
    return {**asdict(tiling), "inputs": list(tiling.inputs)}


class Space:
    """The candidates of one machine's layers, as plain values."""

    unit = "cycles"

    def __init__(self, config: Config) -> None:
        self.config = config

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All tilings to try, the compiler's own choice first."""
        return [plain(tiling) for tiling in candidates(workload, self.config)]

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        """The layer's sizes, the tile's, and the tiles and steps that come of both."""
        height, width, outputs, _ = workload["output"]
        blocks = -(-outputs // self.config.block)
        down, across = -(-height // parameters["rows"]), -(-width // parameters["columns"])
        groups, inputs = -(-blocks // parameters["outputs"]), max(parameters["inputs"])
        deep = max(-(-term["weights"][2] // self.config.block) for term in workload["terms"])
        sizes = (height, width, blocks, deep, work_of(workload, self.config), down, across, groups)
        tile = (parameters["rows"], parameters["columns"], parameters["outputs"], inputs)
        steps = down * across * groups * -(-deep // inputs)
        padded = down * across * parameters["rows"] * parameters["columns"] / (height * width)
        numbers = [log2(size + 1) for size in (*sizes, *tile, steps)]
        return [*numbers, padded, float(parameters["spatial_first"]), float(len(workload["terms"]))]


# Trying one.


def program_of(
    workload: Mapping[str, Any], tiling: Tiling | None, config: Config
) -> CompiledRegion:
    """A program of that layer alone, for inputs from memory; None takes the compiler's choice.

    Raises RefusedError where it does not fit.
    """
    layer = layer_of(workload, config)
    inputs = {term.source.name: term.source for term in layer.terms}
    region = Region((layer,), tuple(inputs.values()), (layer.output,))
    return compile_region(region, config, lambda _: tiling)


class Handler:
    """What a process answers: "measure" with "values" in cycles, "verify" with "equal"."""

    def __init__(self, machine: Preset) -> None:
        self.config = machine.config
        self.parameters = TimingParameters(memory_bits=machine.memory_bits)

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compile the candidate, prove it safe, and do the job on it."""
        workload, tiling = request["workload"], _tiling(request["parameters"])
        if not is_possible(tiling, layer_of(workload, self.config), self.config):
            raise InputError(f"expected a tiling that fits, got {request['parameters']}")
        region = program_of(workload, tiling, self.config)
        if request["job"] == "measure":
            return {"values": [simulate(region.program, self.parameters).cycles]}
        checker.require(region.program, ranges={})
        if self._results(region) != self._results(program_of(workload, None, self.config)):
            return {"error": "its results are not those of the compiler's own tiling"}
        return {"equal": True}

    def _results(self, region: CompiledRegion) -> list[bytes]:
        """What the functional simulator computes of random inputs."""
        random = np.random.default_rng(0)
        inputs = {}
        for binding in region.inputs:
            tensor = binding.tensor
            low, high = (0, 256) if tensor.unsigned else (-128, 128)
            size = (1, tensor.height, tensor.width, tensor.channels)
            inputs[tensor.name] = random.integers(low, high, size).astype(tensor.dtype)
        found = RegionExecutor(region, SimulatorDevice(self.config)).run(inputs)
        return [array.tobytes() for array in found.values()]


def serve(config: Mapping[str, Any]) -> Handler:
    """What a process for trials is started with: ``config`` has the "machine"."""
    return Handler(presets.machine(config["machine"]))


def identity(machine: Preset) -> dict[str, Any]:
    """What a database of a machine must be for."""
    return {
        "target": "vta",
        "machine": machine.name,
        "configuration": machine.config.hash,
        "memory_bits": machine.memory_bits,
        "compiler": VERSION,
        "instructions": ISA_VERSION,
    }
