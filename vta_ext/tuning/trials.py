"""What a process does with a candidate: compile it, count its cycles, compare its results.

Cycles are counted between two other layers: the first loads and the last stores of a layer fall
into the time of its neighbours, and a layer alone would be tuned for what a network has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tvm_shiftadd.errors import InputError
from vta_ext import checker, presets
from vta_ext.compiler.compile import Choose, CompiledRegion, compile_region, estimated
from vta_ext.compiler.layers import Finish, Layer, MatrixTerm, Region, Tensor, convolution
from vta_ext.compiler.tiling import Tiling
from vta_ext.config import Config
from vta_ext.presets import Preset
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.sim.timing import TimingParameters, simulate
from vta_ext.tuning.space import is_possible, tiling_of
from vta_ext.tuning.workload import layer_of, text_of, work_of


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


def _among_others(
    workload: Mapping[str, Any], config: Config
) -> tuple[Region, list[Region], Layer]:
    """The layer behind one that makes each of its inputs, and before one that reads its output.

    Also each of those alone, and the layer itself.
    """
    layer = layer_of(workload, config)
    sources = {term.source.name: term.source for term in layer.terms}
    given = {name: replace(source, name=f"given.{name}") for name, source in sources.items()}
    before = [_neighbour(given[name], source, config) for name, source in sources.items()]
    result, after = layer.output, []
    if result.dtype != "int32":
        result = replace(result, name="result", dtype="int8")
        after = [_neighbour(layer.output, result, config)]
    layers = (*before, layer, *after)
    alone = [Region((one,), (one.terms[0].source,), (one.output,)) for one in (*before, *after)]
    return Region(layers, tuple(given.values()), (result,)), alone, layer


def _neighbour(source: Tensor, output: Tensor, config: Config) -> Layer:
    """A convolution of as many channels as it reads, 3x3 where the map is larger than a pixel."""
    size = 3 if min(source.height, source.width) > 1 else 1
    window = convolution((size, size), (1, 1), (size // 2,) * 4, (1, 1))
    mode = "shift" if "shift" in config.gemm_modes else config.gemm_modes[0]
    channels, kind = source.channels, np.uint8 if mode == "shift" else np.int8
    weights = np.ones((size * size, 1, channels, channels), kind)
    zeros = np.zeros(channels, np.int64)
    term = MatrixTerm(source, window, mode, weights, zeros)
    return Layer(output.name, output, (term,), Finish(zeros, np.full(channels, 9), (0, 100)))


class Handler:
    """What a process answers: "measure" with "values" in cycles, "verify" with "equal"."""

    def __init__(self, machine: Preset) -> None:
        self.config = machine.config
        self.parameters = TimingParameters(memory_bits=machine.memory_bits)
        #: Cycles of the last workload's neighbours alone.
        self._others: dict[str, int] = {}

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compile the candidate, prove it safe, and do the job on it."""
        workload, tiling = request["workload"], tiling_of(request["parameters"])
        if not is_possible(tiling, layer_of(workload, self.config), self.config):
            raise InputError(f"expected a tiling that fits, got {request['parameters']}")
        if request["job"] == "measure":
            return {"values": [self._cycles(workload, tiling)]}
        region = program_of(workload, tiling, self.config)
        checker.require(region.program, ranges={})
        if self._results(region) != self._results(program_of(workload, None, self.config)):
            return {"error": "its results are not those of the compiler's own tiling"}
        return {"equal": True}

    def _cycles(self, workload: Mapping[str, Any], tiling: Tiling) -> int:
        """What a layer adds to its neighbours' cycles, at least one for each of its micro-ops."""
        region, others, layer = _among_others(workload, self.config)
        total = self._simulated(region, lambda one: tiling if one is layer else None)
        text = text_of(workload)
        if text not in self._others:
            self._others = {text: sum(self._simulated(one, estimated) for one in others)}
        return max(total - self._others[text], work_of(workload, self.config))

    def _simulated(self, region: Region, tiling: Choose) -> int:
        compiled = compile_region(region, self.config, tiling)
        return simulate(compiled.program, self.parameters).cycles

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
