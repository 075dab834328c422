"""Forms of calibration data that the Python interface takes, and what it makes of unusable ones."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.importers.onnx_models import build, random
from tvm_shiftadd import api
from tvm_shiftadd.convert import run_integer
from tvm_shiftadd.errors import DataError


def convolution(batch: int | str) -> api.Model:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="y", pads=[1, 1, 1, 1])]
    return api.load(build(nodes, {"w": random(8, 3, 3, 3)}, shape=(batch, 3, 8, 8)))


def two_inputs() -> api.Model:
    model = build(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
            helper.make_node("Conv", ["z", "w"], ["b"], name="b"),
            helper.make_node("Add", ["a", "b"], ["y"], name="y"),
        ],
        {"w": random(4, 3, 1, 1)},
    )
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 8, 8]))
    return api.load(model)


def test_a_mapping_calibrates_a_network_with_several_inputs() -> None:
    model = two_inputs()
    calibration = {"x": random(12, 3, 8, 8), "z": random(12, 3, 8, 8, seed=1, scale=9)}
    conversion = api.convert(model, calibration)
    assert conversion.plan.exponents["x"] > conversion.plan.exponents["z"]
    artifact = api.compile(model, calibration=calibration)
    wanted, _ = run_integer(model.graph, conversion.plan, calibration)
    np.testing.assert_array_equal(artifact.run(calibration), wanted[model.graph.outputs[0]])
    with pytest.raises(DataError, match="each of the inputs x, z"):
        api.convert(model, calibration["x"])
    with pytest.raises(DataError, match="same number of images"):
        api.convert(model, {**calibration, "z": calibration["z"][:5]})


def test_a_last_batch_that_is_not_full_counts_its_own_images() -> None:
    x = random(9, 3, 8, 8)
    told: list[tuple[str, int, int]] = []
    fixed = api.convert(convolution(8), x, progress=lambda *step: told.append(step))
    free = api.convert(convolution("N"), x)
    assert fixed.report.calibration_images == 9
    assert fixed.plan.exponents["x"] == free.plan.exponents["x"]
    np.testing.assert_array_equal(fixed.plan.layers["y"].bias, free.plan.layers["y"].bias)
    assert [step for step in told if step[0] == "calibrate"][-1] == ("calibrate", 9, 9)


def test_images_without_any_content_are_refused() -> None:
    with pytest.raises(DataError, match="nothing but zeros"):
        api.convert(convolution("N"), np.zeros((4, 3, 8, 8), np.float32))
