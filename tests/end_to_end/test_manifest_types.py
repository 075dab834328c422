"""What the manifest says of inputs and outputs is what a run takes and gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tvm_shiftadd import api
from tvm_shiftadd.errors import CompileError


def network(outputs):
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(6, 5)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="fc"),
        helper.make_node("ArgMax", ["scores"], ["best"], name="best", axis=1, keepdims=0),
    ]
    kinds = {"scores": onnx.TensorProto.FLOAT, "best": onnx.TensorProto.INT64}
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 6])
    given = [helper.make_tensor_value_info(name, kinds[name], None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], given, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("outputs", [["best"], ["scores", "best"]])
def test_types_of_outputs(outputs):
    x = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    artifact = api.compile(api.load(network(outputs)), calibration=x)
    result = artifact.run(x)
    arrays = result if isinstance(result, dict) else {outputs[0]: result}
    described = {info.name: info.dtype for info in artifact.outputs}
    assert described == {name: str(array.dtype) for name, array in arrays.items()}
    assert described["best"] == "int64"
    assert [info.dtype for info in artifact.inputs] == ["float32"]


def test_an_impossible_target_is_refused_before_the_conversion(monkeypatch):
    monkeypatch.setattr(api, "convert", lambda *_: pytest.fail("converted"))
    x = np.ones((2, 6), np.float32)
    with pytest.raises(CompileError, match="nonesuch"):
        api.compile(
            api.load(network(["scores"])),
            calibration=x,
            target={"kind": "llvm", "mcpu": "nonesuch"},
        )
