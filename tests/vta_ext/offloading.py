"""Runs whole networks on the simulated accelerator and the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes import pipeline
from tvm_shiftadd import api
from tvm_shiftadd.convert import run_integer
from tvm_shiftadd.target import cpu, parse
from vta_ext import checker
from vta_ext.config import Config
from vta_ext.offload import Offloaded, offload
from vta_ext.runtime.device import SimulatorDevice


def run(found: Offloaded, config: Config, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The network's results, its regions simulated and the rest compiled for the CPU."""
    found.bind(SimulatorDevice(config))
    machine = relax.VirtualMachine(cpu.build(found.module, parse("cpu")), tvm.cpu())
    results = machine["main"](tvm.runtime.tensor(x, tvm.cpu()))
    results = [results] if hasattr(results, "numpy") else list(results)
    return [result.numpy() for result in results]


def dialect_module(model: api.Model, plan: Any) -> Any:
    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    return pipeline.run(model.selected, pipeline.integer_passes(plan), given=given)


def verify(model: api.Model, plan: Any, x: np.ndarray[Any, Any], config: Config) -> Offloaded:
    """Offload, prove the programs safe, run, and compare every output bit for bit."""
    found = offload(dialect_module(model, plan), config)
    for region in found.regions:
        assert checker.check(region.compiled.program, ranges={}) == []
    wanted, _ = run_integer(model.graph, plan, {model.graph.inputs[0]: x})
    for name, result in zip(model.graph.outputs, run(found, config, x), strict=True):
        np.testing.assert_array_equal(result, wanted[name], err_msg=name)
    return found
