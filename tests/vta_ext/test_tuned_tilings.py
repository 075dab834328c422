"""Tile sizes as candidates: what fits, what it costs, and that results stay what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.vta_ext.region_cases import RegionCase
from tvm_shiftadd.errors import InputError
from vta_ext.compiler.compile import compile_region
from vta_ext.compiler.lower import lower
from vta_ext.compiler.operators import Network
from vta_ext.presets import PRESETS, SHIFT, SHIFT_ADDER
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.sim.timing import simulate
from vta_ext.tuning import Tilings
from vta_ext.tuning.space import Space, candidates, is_possible, plain, tiling_of
from vta_ext.tuning.trials import Handler, program_of, serve
from vta_ext.tuning.workload import layer_of, text_of, work_of, workload_of

MACHINE = PRESETS["shift-16x16"]


def case(kind: str) -> tuple[RegionCase, str]:
    c = RegionCase(np.random.default_rng(1))
    x = c.input(7, 6, 40)
    if kind == "shortcut":
        y = c.conv2d(x, 48, strides=(2, 2), terms=2)
        z = c.conv2d(x, 48, (1, 1), (2, 2), (0, 0, 0, 0), terms=1)
        return c, c.requantize(c.sum(y, z, 0, 2))
    if kind == "groups":
        return c, c.requantize(c.conv2d(x, 80, groups=2, terms=1))
    if kind == "adder":
        return c, c.requantize(c.scale(c.adder_conv2d(x, 20, (1, 1), (1, 1, 1, 1))))
    return c, c.requantize(c.conv2d(x, 48, terms=2))


def network(kind: str) -> Network:
    c, result = case(kind)
    return c.network(result)


KINDS = {"plain": SHIFT, "shortcut": SHIFT, "groups": SHIFT, "adder": SHIFT_ADDER}


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_stands_for_its_layer(kind: str) -> None:
    """A layer with other numbers has the same workload, and takes as many cycles."""
    config = KINDS[kind]
    region = lower(network(kind), config)
    (layer,) = region.layers
    workload = workload_of(layer, config)
    assert workload is not None
    again = json.loads(json.dumps(workload))
    assert again == workload and text_of(again) == text_of(workload)
    other = layer_of(workload, config)
    assert workload_of(other, config) == workload
    cycles = simulate(compile_region(region, config).program).cycles
    first = candidates(workload, config)[0]
    assert simulate(program_of(workload, first, config).program).cycles == cycles
    assert simulate(program_of(workload, None, config).program).cycles == cycles
    # Beside other layers it takes less, but no less than its products.
    handler = Handler(replace(MACHINE, config=config))
    request = {"job": "measure", "workload": workload, "parameters": plain(first)}
    (value,) = handler(request)["values"]
    assert work_of(workload, config) <= value < cycles
    assert handler(request) == {"values": [value]}


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_fit_and_compute_the_same(kind: str) -> None:
    config = KINDS[kind]
    (layer,) = lower(network(kind), config).layers
    workload: Any = workload_of(layer, config)
    found = candidates(workload, config)
    assert len(found) == len(set(found)) > 3
    assert all(is_possible(tiling, layer, config) for tiling in found)
    handler = Handler(replace(MACHINE, config=config))
    chosen = np.random.default_rng(2).permutation(len(found))[:1]
    for tiling in [found[-1], *(found[index] for index in chosen)]:
        request = {"workload": workload, "parameters": plain(tiling)}
        assert handler({"job": "verify", **request}) == {"equal": True}
        assert handler({"job": "measure", **request})["values"][0] > 0
    space = Space(config)
    rows = [space.features(workload, parameters) for parameters in space.candidates(workload)]
    assert len({len(row) for row in rows}) == 1 and len({tuple(row) for row in rows}) > 3


def test_a_recorded_tiling_is_used_and_results_are_the_references() -> None:
    c, result = case("shortcut")
    region = lower(c.network(result), SHIFT)
    workload: Any = workload_of(region.layers[0], SHIFT)
    tilings = Tilings(SHIFT, {})
    plainly = compile_region(region, SHIFT, tilings)
    (first,) = tilings.made.values()
    assert not first.tuned and first.tiling == candidates(workload, SHIFT)[0]
    other = next(t for t in candidates(workload, SHIFT) if t.rows != first.tiling.rows)
    tilings = Tilings(SHIFT, {text_of(workload): plain(other)})
    tuned = compile_region(region, SHIFT, tilings)
    (second,) = tilings.made.values()
    assert second.tuned and second.tiling == other
    assert tuned.program.instructions != plainly.program.instructions
    inputs = {value.name: c.values[value.name] for value in c.inputs}
    found = RegionExecutor(tuned, SimulatorDevice(SHIFT)).run(inputs)
    np.testing.assert_array_equal(found[result], c.values[result])


@pytest.mark.parametrize(
    "change",
    [{"rows": 7, "columns": 6, "outputs": 3, "inputs": [9]}, {"rows": 0}, {"inputs": [0]}],
)
def test_what_does_not_fit_costs_no_trial(change: dict[str, Any]) -> None:
    small = PRESETS["ecp5-small"].config
    (layer,) = lower(network("plain"), small).layers
    workload: Any = workload_of(layer, small)
    parameters = {**plain(candidates(workload, small)[0]), **change}
    assert tiling_of(parameters) not in candidates(workload, small)
    request = {"job": "measure", "workload": workload, "parameters": parameters}
    with pytest.raises(InputError, match="a tiling that fits"):
        serve({"machine": "ecp5-small"})(request)
    with pytest.raises(InputError, match="does not fit this machine"):
        Tilings(small, {text_of(workload): parameters})(layer)


@pytest.mark.parametrize("values", [{}, {"rows": "1"}, {"inputs": 3}])
def test_what_is_no_tiling_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a tiling"):
        tiling_of(values)
    with pytest.raises(InputError, match="expected a layer's workload"):
        layer_of(values, SHIFT)


def test_layers_of_the_alu_are_not_tuned() -> None:
    c = RegionCase(np.random.default_rng(1))
    x = c.input(8, 8, 16)
    y = c.add(
        "max_pool2d",
        (x,),
        lambda data: data[:, ::2, ::2],
        {"pool_size": (1, 1), "strides": (2, 2), "padding": (0, 0, 0, 0), "dilation": (1, 1)},
    )
    (layer,) = lower(c.network(y), SHIFT).layers
    assert workload_of(layer, SHIFT) is None
    assert Tilings(SHIFT, {})(layer) is None
