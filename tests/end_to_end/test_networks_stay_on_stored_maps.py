"""Networks of all kinds of layers: no map changes its form between the first layer and the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions, run_integer
from tvm_shiftadd.target import cpu, parse

pytestmark = pytest.mark.skipif(
    cpu.instruction_set(parse("cpu")) is None, reason="needs a processor with fused kernels"
)


class Builder:
    """An ONNX graph, node by node; every method returns the name of its result."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int) -> str:
        values = self.rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        return self.constant(values.astype(np.float32))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, relu: bool = True) -> str:
        weight = self.weight(outputs, inputs, kernel, kernel)
        y = self.node("Conv", [x, weight], pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
        return self.node("Relu", [y]) if relu else y

    def model(self, result: str, size: int) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.constants,
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9)


def inception(net: Builder) -> str:
    """Four branches joined, twice; a classifier behind the average of all pixels."""
    x = net.conv("x", 3, 20, 3)
    window = {"kernel_shape": [3, 3], "pads": [1] * 4}
    for inputs in (20, 20 + 12 + 8 + 16):
        pooled = net.node("MaxPool", [x], strides=[1, 1], **window)
        mean = net.node("AveragePool", [x], strides=[1, 1], **window)
        branches = [
            net.conv(x, inputs, 20, 1),
            net.conv(net.conv(x, inputs, 16, 1), 16, 12, 3),
            net.conv(pooled, inputs, 8, 1),
            net.conv(mean, inputs, 16, 1),
        ]
        x = net.node("Concat", branches, axis=1)
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    return net.node("Gemm", [x, net.weight(56, 10)])


def encoder_and_decoder(net: Builder) -> str:
    """Halved, and enlarged again beside what it was: by a transposed layer and by neighbours."""
    fine = net.conv("x", 3, 16, 3)
    coarse = net.conv(net.node("MaxPool", [fine], kernel_shape=[2, 2], strides=[2, 2]), 16, 32, 3)
    up = net.node("ConvTranspose", [coarse, net.weight(32, 24, 4, 4)], strides=[2, 2], pads=[1] * 4)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    near = net.node(
        "Resize",
        [net.conv(coarse, 32, 12, 1, relu=False), "", scales],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    joined = net.node("Concat", [fine, net.node("Relu", [up]), net.node("Relu", [near])], axis=1)
    return net.conv(net.conv(joined, 16 + 24 + 12, 16, 3), 16, 16, 3, relu=False)


@pytest.mark.parametrize("network", [inception, encoder_and_decoder])
def test_no_map_changes_its_form(network: Any, tmp_path: Any) -> None:
    net, file = Builder(), tmp_path / "net.onnx"
    result = network(net)
    onnx.save(net.model(result, 16), file)
    model = api.load(file)
    images = net.rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    conversion = api.convert(model, {"x": images}, ConvertOptions())
    artifact = api.build(model, conversion, target=parse("cpu"))
    kernels = [call["kernel"] for call in artifact.report["calls"]]
    assert not [name for name in kernels if "plain" in name or "store" in name], kernels
    for feed in (images, images[:1]):
        got = artifact.run(feed)
        (expected,) = run_integer(model.graph, conversion.plan, {"x": feed})[0].values()
        np.testing.assert_array_equal(got, expected)
