"""A tiny network as an ONNX file, and compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.bench import timing


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x [N, 3, 8, 8] -> convolution, ReLU, convolution, global average -> y [N, 5].

    As old exporters write it: the weights are among the inputs.
    """
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (5, 8, 3, 3)}
    weights = {
        name: rng.normal(size=shape).astype(np.float32) * 0.3 for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="rectify"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], name="average"),
        helper.make_node("Flatten", ["p"], ["y"], name="flat"),
    ]
    inputs = {"x": ("N", 3, 8, 8), **shapes}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 5))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path
    )
    return path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure without the pauses and repetitions that make times reliable."""
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "BLOCK", 0.0)


@pytest.fixture(scope="session")
def model(model_file: Path) -> api.Model:
    return api.load(model_file)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((16, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="session")
def artifact(model: api.Model, images: np.ndarray) -> Artifact:
    return api.compile(model, calibration=images)
