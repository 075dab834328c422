"""A concatenation of maps of unequal range, one of which is read elsewhere too."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.importers.onnx_models import build, random
from tvm_shiftadd import api
from tvm_shiftadd.convert import run_float, run_integer


@pytest.mark.parametrize("gain", [1, 64])
def test_a_map_keeps_its_own_scale_beside_a_larger_one(gain: int) -> None:
    def conv(name: str, source: str, weight: str = "w"):
        return helper.make_node("Conv", [source, weight], [name], name=name, pads=[1, 1, 1, 1])

    def relu(name: str, source: str):
        return helper.make_node("Relu", [source], [name], name=name)

    nodes = [
        *(conv("a", "x"), relu("r", "a"), conv("b", "r"), relu("s", "b")),
        *(conv("d", "s", "larger"), relu("t", "d")),
        helper.make_node("Concat", ["r", "t"], ["q"], name="q", axis=1),
        helper.make_node("Conv", ["q", "last"], ["y"], name="y"),
    ]
    weight = random(8, 8, 3, 3, scale=(2 / 72) ** 0.5)
    weights = {"w": weight, "larger": weight * np.float32(gain), "last": random(4, 16, 1, 1)}
    model = api.load(build(nodes, weights, shape=("N", 8, 7, 7)))
    calibration, x = random(20, 8, 7, 7), random(20, 8, 7, 7, seed=1)
    conversion = api.convert(model, calibration)
    feeds = {model.graph.inputs[0]: x}
    wanted = run_float(model.graph, feeds)[model.graph.outputs[0]]
    result = api.build(model, conversion).run(x)
    integers, _ = run_integer(model.graph, conversion.plan, feeds)
    np.testing.assert_array_equal(result, integers[model.graph.outputs[0]])
    noise = np.mean(np.square(result - wanted)) / np.mean(np.square(wanted))
    assert noise < 0.01  # 20 dB
