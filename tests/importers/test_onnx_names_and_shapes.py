"""Names of the source's nodes, batch and shapes, folded shape computations, attributes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.importers.onnx_models import (
    assert_same,
    build,
    names,
    operators,
    random,
    run_onnxruntime,
    run_tvm,
)
from tvm_shiftadd._compat import relax, tirx
from tvm_shiftadd.errors import ModelError, UnsupportedOperatorError
from tvm_shiftadd.importers import load
from tvm_shiftadd.importers.naming import UniqueNames

W, B = random(4, 3, 3, 3), random(4, seed=1)


def test_unique_names_number_from_two() -> None:
    unique = UniqueNames()
    assert [unique(n) for n in ("a", "a", "a#2", "a")] == ["a", "a#2", "a#2#2", "a#3"]


def test_variables_carry_the_nodes_names_with_dots_and_slashes() -> None:
    model = build(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="/layer1/layer1.0/conv1/Conv"),
            helper.make_node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"], name="act"),
            helper.make_node("Relu", ["r"], ["y"], name="act"),
        ],
        {"w": W, "b": B, "v": np.abs(B) + 1},
    )
    assert names(load(model)) == [
        "/layer1/layer1.0/conv1/Conv",
        "/layer1/layer1.0/conv1/Conv.bias",
        "n.statistics",
        "n",
        "act",
        "act#2",
    ]


def test_a_node_that_takes_several_operators_numbers_them() -> None:
    mod = load(build([helper.make_node("Mish", ["x"], ["y"], name="m")], opset=18))
    found = names(mod)
    assert found[-1] == "m" and len(found) > 1
    assert found[:-1] == [f"m.{i}" for i in range(1, len(found))]


def test_results_of_a_split_are_named_and_distinct() -> None:
    split = helper.make_node("Split", ["x", "s"], ["p", "q"], axis=1, name="cut")
    add = helper.make_node("Sub", ["q", "p"], ["y"])
    model = build([split, add], {"s": np.array([2, 2])}, shape=("N", 4, 2, 2))
    mod = load(model)
    assert names(mod)[1:] == ["cut", "cut.output1", "y"]
    x = random(2, 4, 2, 2)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))


def test_parameters_are_the_real_inputs_and_a_dynamic_batch_stays_symbolic() -> None:
    model = build([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W}, shape=("batch", 3, 8, 8))
    # Weights may be listed as inputs, as models of the format's version 3 have them.
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    (param,) = load(model)["main"].params
    assert param.name == "x" and param.ty.dtype == "float32"
    batch, *rest = param.ty.shape.values
    assert isinstance(batch, tirx.Var) and batch.name == "batch"
    assert [int(d) for d in rest] == [3, 8, 8]


@pytest.mark.parametrize("symbol", ["N", "M", None])
def test_inputs_share_the_variable_of_their_open_batch(symbol: str | None) -> None:
    model = build([helper.make_node("Add", ["x", "z"], ["y"])])
    other = helper.make_tensor_value_info("z", TensorProto.FLOAT, (symbol, 3, 8, 8))
    model.graph.input.append(other)
    first, second = load(model)["main"].params
    assert first.ty.shape.values[0].same_as(second.ty.shape.values[0])


def test_several_outputs_come_as_a_tuple_in_order() -> None:
    model = build(
        [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"])],
        outputs=("b", "a", "x"),
    )
    mod = load(model)
    assert list(mod["main"].attrs["shiftadd.outputs"]) == ["b", "a", "x"]
    x = random(2, 3, 8, 8)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))


def test_shape_option_overrides_and_keeps_an_open_batch() -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    mod = load(build(relu, shape=("N", 3, "h", "w")), shape={"x": (-1, 3, 4, 5)})
    dims = mod["main"].ret_ty.shape.values
    assert isinstance(dims[0], tirx.Var) and [int(d) for d in dims[1:]] == [3, 4, 5]
    mod = load(build(relu, shape=(1, 3, 8, 8)), shape=(4, 3, 6, 6))
    assert [int(d) for d in mod["main"].params[0].ty.shape.values] == [4, 3, 6, 6]


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (("N", 3, "h", 8), None, r"leaves axis 2 open \('h'\)"),
        (("N", 3, 8, 8), {"z": (1, 3, 8, 8)}, "the inputs are x"),
        (("N", 3, 8, 8), (1, 3, 8), "has 4 axes, but the shape given has 3"),
        (("N", 3, 8, 8), (1, 3, 0, 8), "Expected positive dimensions"),
    ],
)
def test_a_shape_that_does_not_settle_the_model_is_refused(
    dims: Any, shape: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load(build([helper.make_node("Relu", ["x"], ["y"])], shape=dims), shape=shape)


def test_a_shape_computation_folds_away_and_the_batch_stays_symbolic() -> None:
    """x.view(x.size(0), -1) as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="flat"),
    ]
    weights = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    model = build(nodes, weights, shape=("N", 3, 4, 4), opset=13)
    mod = load(model)
    assert operators(mod) == ["relax.reshape"] and names(mod) == ["flat"]
    batch, features = mod["main"].ret_ty.shape.values
    assert isinstance(batch, tirx.Var) and int(features) == 48
    x = random(3, 3, 4, 4)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))


@pytest.mark.parametrize(
    ("target", "dims"), [([1, -1], [48]), ([1, 48], [48]), ([1, 6, -1, 2], [6, 4, 2])]
)
def test_a_batch_of_one_written_into_a_reshape_is_the_open_batch(
    target: list[int], dims: list[int]
) -> None:
    model = build(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="flat")],
        {"s": np.array(target)},
        shape=("N", 3, 4, 4),
    )
    mod = load(model)
    batch, *rest = mod["main"].ret_ty.shape.values
    assert isinstance(batch, tirx.Var) and [int(dim) for dim in rest] == dims
    (note,) = mod["main"].attrs["shiftadd.notes"]
    assert str(note).startswith("flat: ")
    x = random(3, 3, 4, 4)
    np.testing.assert_array_equal(run_tvm(mod, x)[0], x.reshape(3, *dims))
    assert_same(run_tvm(mod, x[:1]), run_onnxruntime(model, x[:1]))


def test_a_batch_of_one_is_restored_behind_merged_samples() -> None:
    """A product over all positions of all samples, between two reshapes."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "back"], ["y"]),
    ]
    weights = {"rows": np.array([-1, 5]), "w": random(5, 6), "back": np.array([1, 7, 6])}
    model = build(nodes, weights, shape=("N", 7, 5))
    x = random(3, 7, 5)
    (got,) = run_tvm(load(model), x)
    want = np.concatenate([run_onnxruntime(model, x[i : i + 1])[0] for i in range(3)])
    assert_same([got], [want])


@pytest.mark.parametrize("target", [[2, -1], [1, 5, -1], [4, 48], [1, 47]])
def test_a_reshape_that_fixes_an_open_batch_is_refused(target: list[int]) -> None:
    model = build(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="flat")],
        {"s": np.array(target)},
        shape=("N", 3, 4, 4),
    )
    with pytest.raises(UnsupportedOperatorError, match=r"node 'flat'.* fix the batch with shape="):
        load(model)


def test_a_computed_padding_folds_to_constants() -> None:
    """The shortcut of a CIFAR residual network: stride by slicing, pad the channels."""
    nodes = [
        helper.make_node(
            "ConstantOfShape",
            ["six"],
            ["zeros"],
            value=helper.make_tensor("v", TensorProto.INT64, [1], [0]),
        ),
        helper.make_node("Concat", ["given", "zeros"], ["all"], axis=0),
        helper.make_node("Reshape", ["all", "pairs"], ["two"]),
        helper.make_node("Transpose", ["two"], ["turned"], perm=[1, 0]),
        helper.make_node("Reshape", ["turned", "flat"], ["pads"]),
        helper.make_node("Cast", ["pads"], ["pads64"], to=TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads64"], ["y"], name="shortcut/Pad"),
    ]
    weights = {
        "six": np.array([6]),
        "given": np.array([2, 3]),
        "pairs": np.array([4, 2]),
        "flat": np.array([-1]),
    }
    model = build(nodes, weights, shape=("N", 3, 4, 4), opset=13)
    mod = load(model)
    assert operators(mod) == ["relax.nn.pad"] and names(mod) == ["shortcut/Pad"]
    x = random(1, 3, 4, 4)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))


def test_batch_norm_is_not_folded_and_dead_nodes_are_dropped() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Neg", ["c"], ["unused"]),
        helper.make_node("BatchNormalization", ["c", "b", "b", "b", "v"], ["y"]),
    ]
    mod = load(build(nodes, {"w": W, "b": B, "v": np.abs(B) + 1}))
    assert operators(mod) == ["relax.nn.conv2d", "relax.nn.batch_norm", "[0]"]


def test_attributes_tell_source_operators_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": W}), path)
    attrs = load(path)["main"].attrs
    assert dict(attrs["shiftadd.source"]) == {
        "format": "onnx",
        "opset": "17",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert dict(attrs["shiftadd.operators"]) == {"c": "Conv"}
    assert list(attrs["shiftadd.notes"]) == []


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], body, opsets)
    model = build([helper.make_node("Twice", ["x"], ["y"], domain="mine")])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert operators(load(model)) == ["relax.nn.relu", "relax.negative"]


def test_the_model_given_is_left_as_it_was() -> None:
    model = build([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W})
    before = model.SerializeToString(deterministic=True)
    load(model)
    assert model.SerializeToString(deterministic=True) == before


def test_external_weights_are_read_from_beside_the_model(tmp_path: Path) -> None:
    model = build([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W})
    x = random(1, 3, 8, 8)
    want = run_onnxruntime(model, x)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert_same(run_tvm(load(path), x), want)


def test_weights_are_constants_not_parameters() -> None:
    mod = load(build([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": W}))
    (binding,) = mod["main"].body.blocks[0].bindings
    np.testing.assert_array_equal(binding.value.args[1].value.numpy(), W)
    assert isinstance(mod["main"].body.body, relax.Var)
    assert numpy_helper.from_array(W).dims == list(W.shape)
