"""Models with QuantizeLinear and DequantizeLinear come in as the float models they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.importers.onnx_models import (
    assert_same,
    bindings,
    build,
    operators,
    random,
    run_onnxruntime,
    run_tvm,
)
from tvm_shiftadd.errors import UnsupportedOperatorError
from tvm_shiftadd.importers import load

Q, DQ = "QuantizeLinear", "DequantizeLinear"
SCALE = {"s": np.float32(0.05), "z": np.uint8(0)}


def weight_nodes() -> tuple[list[Any], dict[str, Any]]:
    """An int8 weight with one scale a channel, a bias in int32."""
    nodes = [
        helper.make_node(DQ, ["w8", "ws", "wz"], ["w"], axis=0),
        helper.make_node(DQ, ["b32", "bs"], ["b"], axis=0),
        helper.make_node("Conv", ["xd", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w8": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.array([0.01, 0.02, 0.005, 0.04], np.float32),
        "wz": np.zeros(4, np.int8),
        "b32": rng.integers(-1000, 1000, 4).astype(np.int32),
        "bs": np.full(4, 1e-3, np.float32),
    }
    return nodes, weights


def test_constants_fold_and_an_absorbed_relu_becomes_a_clip() -> None:
    middle, weights = weight_nodes()
    nodes = [
        helper.make_node(Q, ["x", "s", "zi"], ["xq"], name="qx"),
        helper.make_node(DQ, ["xq", "s", "zi"], ["xd"]),
        *middle,
        helper.make_node(Q, ["c", "s", "z"], ["cq"], name="qc"),
        helper.make_node(DQ, ["cq", "s", "z"], ["y"]),
    ]
    weights |= SCALE | {"zi": np.int8(0)}
    model = build(nodes, weights, opset=13)
    mod = load(model)
    assert operators(mod) == ["relax.clip", "relax.nn.conv2d", "relax.add", "relax.clip"]

    bounds = [
        [arg.value for arg in b.value.args[1:]] for b in bindings(mod) if "clip" in str(b.value.op)
    ]
    np.testing.assert_allclose(bounds, [[-6.4, 6.35], [0.0, 12.75]], rtol=1e-6)
    notes = list(mod["main"].attrs["shiftadd.notes"])
    assert len(notes) == 2 and notes[1].startswith("qc: rounding left out, values clipped to [0,")

    x = random(2, 3, 8, 8)
    (want,) = run_onnxruntime(model, x)
    (got,) = run_tvm(mod, x)
    assert want.min() >= 0.0
    # Both roundings that were left out: half a step of the output, and the input's through the
    # weights.
    assert np.abs(got - want).mean() < 0.05 and np.abs(got - want).max() < 0.5


def test_a_weight_quantised_in_the_model_keeps_its_rounding() -> None:
    nodes = [
        helper.make_node(Q, ["w", "s", "zi"], ["wq"]),
        helper.make_node(DQ, ["wq", "s", "zi"], ["wd"]),
        helper.make_node("MatMul", ["x", "wd"], ["y"], name="fc"),
    ]
    weights = {"w": random(6, 4), "s": np.float32(0.05), "zi": np.int8(0)}
    model = build(nodes, weights, shape=("N", 6), opset=13)
    mod = load(model)
    assert operators(mod) == ["relax.matmul"]
    (binding,) = bindings(mod)
    assert binding.var.name == "fc"
    expected = np.clip(np.rint(weights["w"] / 0.05), -128, 127) * np.float32(0.05)
    np.testing.assert_allclose(binding.value.args[1].value.numpy(), expected, rtol=1e-6)
    x = random(3, 6)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))


def test_data_movement_may_stand_between_the_pair() -> None:
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node(DQ, ["f", "s", "z"], ["y"]),
    ]
    mod = load(build(nodes, SCALE, opset=13))
    assert operators(mod) == ["relax.clip", "relax.nn.max_pool2d", "relax.reshape"]


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        (
            [
                helper.make_node(Q, ["x", "s", "z"], ["q"]),
                helper.make_node(DQ, ["q", "s2", "z"], ["y"]),
            ],
            {**SCALE, "s2": np.float32(0.1)},
            "differs from that of its QuantizeLinear",
        ),
        (
            [
                helper.make_node(Q, ["x", "s", "z"], ["q"]),
                helper.make_node("Cast", ["q"], ["y"], to=1),
            ],
            SCALE,
            "without a DequantizeLinear",
        ),
        (
            [
                helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
                helper.make_node(Q, ["x", "s", "z"], ["q"]),
                helper.make_node(DQ, ["q", "s", "z"], ["y"]),
            ],
            {"z": np.uint8(0)},
            "depends on the input's values",
        ),
        (
            [
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
                helper.make_node(DQ, ["q", "s", "z"], ["y"]),
            ],
            {},
            "integer operators are not handled",
        ),
    ],
)
def test_forms_that_have_no_float_meaning_are_refused(
    nodes: list[Any], weights: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedOperatorError, match=reason):
        load(build(nodes, weights, opset=13))


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-3)])
def test_a_quantised_result_is_returned_as_integers(zero: Any) -> None:
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2]),
        helper.make_node(DQ, ["q", "s", "z"], ["y"]),
    ]
    weights = {"s": np.float32(0.25), "z": zero}
    model = build(nodes, weights, opset=13, outputs=("p", "q", "y"))
    for value in model.graph.output[:-1]:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(zero.dtype)
    x = random(3, 3, 8, 8, scale=20.0)
    x[0, 0, 0] = np.arange(8) * 0.25 + 0.125  # halves are rounded to even
    got, want = run_tvm(load(model), x), run_onnxruntime(model, x)
    for mine, theirs in zip(got[:-1], want[:-1], strict=True):
        assert mine.dtype == theirs.dtype == zero.dtype
        np.testing.assert_array_equal(mine, theirs)
    # The floats beside it keep their precision.
    assert np.abs(got[-1] - want[-1]).max() <= 0.125


def test_a_quantised_result_with_a_scale_a_channel_is_refused() -> None:
    weights = {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.zeros(3, np.int8)}
    model = build([helper.make_node(Q, ["x", "s", "z"], ["y"])], weights, opset=13)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'y'.* a scale a channel"):
        load(model)
