"""What a process does with a candidate: compile it, count its cycles, compare its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_shiftadd.errors import InputError
from vta_ext import checker, presets
from vta_ext.compiler.compile import CompiledRegion, compile_region
from vta_ext.compiler.layers import Region
from vta_ext.compiler.tiling import Tiling
from vta_ext.config import Config
from vta_ext.presets import Preset
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.sim.timing import TimingParameters, simulate
from vta_ext.tuning.space import is_possible, tiling_of
from vta_ext.tuning.workload import layer_of


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
        workload, tiling = request["workload"], tiling_of(request["parameters"])
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
