"""Operators that stay in float behind a converted layer run, with the bits of the reference.

onnxruntime is the truth in float: the converter's own float executor runs host operators through
the same TVM kernels as the artifact does, and would share their errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.importers.onnx_models import build, random, run_onnxruntime
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
    "cast": (
        [
            node("Greater", "c z", "g"),
            node("Cast", "g", "f", to=TensorProto.FLOAT),
            node("Mul", "c f"),
        ],
        {"z": np.zeros((), np.float32)},
        "greater",
    ),
    "cast to integers": (
        [node("Mul", "c k", "m"), node("Cast", "m", "y", to=TensorProto.INT32)],
        {"k": np.full((1, 1, 1, 8), 8, np.float32)},
        "astype",
    ),
    "quantised": (
        [node("QuantizeLinear", "c s z")],
        {"s": np.float32(0.25), "z": np.uint8(128)},
        "round",
    ),
    "quantised and pooled": (
        [
            node("QuantizeLinear", "c s z", "q"),
            node("MaxPool", "q", kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {"s": np.float32(0.5), "z": np.int8(3)},
        "round",
    ),
    "two outputs": ([node("Split", "c", "y z", axis=1)], {}, "permute_dims"),
}


#: Types of results other than float32.
TYPES = {
    "cast to integers": TensorProto.INT32,
    "quantised": TensorProto.UINT8,
    "quantised and pooled": TensorProto.INT8,
}


@pytest.mark.parametrize("name", CASES)
def test_a_host_operator_behind_a_layer(name: str) -> None:
    nodes, weights, on_host = CASES[name]
    outputs = ("y", "z") if name == "two outputs" else ("y",)
    layer = helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])
    weights = {"w": random(8, 3, 3, 3), **weights}
    proto = build([layer, *nodes], weights, outputs=outputs)
    proto.graph.output[0].type.tensor_type.elem_type = TYPES.get(name, TensorProto.FLOAT)
    model = api.load(proto)
    explained = {op.operator: op for op in api.explain(model).operators}
    assert explained["conv2d"].placement == "shift-add"
    assert explained[on_host].placement == "host" and explained[on_host].reason

    x = random(4, 3, 8, 8, seed=1)
    conversion = api.convert(model, x)
    result = api.build(model, conversion).run(x)
    values = list(result.values()) if isinstance(result, dict) else [result]
    feeds = {model.graph.inputs[0]: x}
    wanted, _ = run_integer(model.graph, conversion.plan, feeds)
    mine = run_float(model.graph, feeds)
    floats = run_onnxruntime(proto, x)
    for tensor, value, true in zip(model.graph.outputs, values, floats, strict=True):
        np.testing.assert_array_equal(value, wanted[tensor])
        assert value.dtype == true.dtype and value.shape == true.shape
        span = float(np.ptp(true.astype(np.float64)))
        # A step that falls on the other side of a half is a difference of one.
        step = 1.0 if name in TYPES else 1e-5 * span
        assert np.abs(mine[tensor].astype(np.float64) - true).max() <= step
        assert np.abs(value.astype(np.float64) - true).max() < 0.2 * span
