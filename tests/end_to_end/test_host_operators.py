"""Operators that stay in float behind a converted layer run, with the bits of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.importers.onnx_models import build, random
from tvm_shiftadd import api
from tvm_shiftadd.convert import run_float, run_integer


def integers(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(" "), outputs.split(" "), **attributes)


CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "topk": ([node("TopK", "c k", "y at", axis=1)], {"k": integers(3)}, "topk"),
    "cumsum": ([node("CumSum", "c axis")], {"axis": integers(1)}, "cumsum"),
    "gather": ([node("Gather", "c at", axis=1)], {"at": integers(5, 0)}, "take"),
    "hardswish": ([node("HardSwish", "c")], {}, "multiply"),
    "erf": ([node("Erf", "c", "e"), node("Mul", "c e")], {}, "erf"),
    "layer norm": (
        [node("Flatten", "c", "f"), node("LayerNormalization", "f g b")],
        {"g": np.ones(512, np.float32), "b": np.ones(512, np.float32)},
        "nn.layer_norm",
    ),
    "linear resize": (
        [node("Resize", "c  s", mode="linear")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "image.resize2d",
    ),
    "attention": (
        [node("Softmax", "c", "s", axis=3), node("MatMul", "c s")],
        {},
        "matmul",
    ),
    "where": (
        [node("Greater", "c z", "g"), node("Where", "g c z")],
        {"z": np.zeros((), np.float32)},
        "where",
    ),
    "two outputs": ([node("Split", "c", "y z", axis=1)], {}, "permute_dims"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_host_operator_behind_a_layer(name: str) -> None:
    nodes, weights, on_host = CASES[name]
    outputs = ("y", "z") if name == "two outputs" else ("y",)
    layer = helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])
    weights = {"w": random(8, 3, 3, 3), **weights}
    model = api.load(build([layer, *nodes], weights, outputs=outputs))
    explained = {op.operator: op for op in api.explain(model).operators}
    assert explained["conv2d"].placement == "shift-add"
    assert explained[on_host].placement == "host" and explained[on_host].reason

    x = random(4, 3, 8, 8, seed=1)
    conversion = api.convert(model, x)
    result = api.build(model, conversion).run(x)
    values = list(result.values()) if isinstance(result, dict) else [result]
    feeds = {model.graph.inputs[0]: x}
    wanted, _ = run_integer(model.graph, conversion.plan, feeds)
    floats = run_float(model.graph, feeds)
    for tensor, value in zip(model.graph.outputs, values, strict=True):
        np.testing.assert_array_equal(value, wanted[tensor])
        assert np.abs(value - floats[tensor]).max() < 0.2 * np.ptp(floats[tensor])
