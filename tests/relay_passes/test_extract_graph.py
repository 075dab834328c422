"""The converter's graph as it is read off a selected module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from relay_passes.extract import extract_graph
from relay_passes.select_regions import SelectRegions
from tests.relay_passes.onnx_networks import converted
from tests.relay_passes.programs import Program, constant, conv2d_last, program, random
from tvm_shiftadd._compat import relax
from tvm_shiftadd.convert import Graph, run_float
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.target import parse
from tvm_shiftadd.target.cpu import build

SHAPE = ("N", 8, 8, 4)
W = random(4, 4, 3, 3)
IMAGES = random(2, 8, 8, 4, seed=3)


def extract(p: Program, *results: Any) -> Graph:
    mod = SelectRegions()(p.module(*results))
    return extract_graph(mod, lambda module: build(module, parse("cpu")))


def conv(p: Program, name: str, x: Any) -> Any:
    return p(name, conv2d_last(x, W, padding=1))


def test_a_layer_and_its_bias_are_one_node() -> None:
    p, x = program(SHAPE)
    bias = p("user/conv.bias", relax.op.add(conv(p, "user/conv", x), constant(random(4))))
    graph = extract(p, p("relu", relax.op.clip(bias, 0.0, 1.0)), bias)
    node = graph.nodes[0]
    assert (node.name, node.op, node.inputs) == ("user/conv", "conv2d", ("x",))
    assert node.output == "user/conv.bias"
    np.testing.assert_array_equal(node.bias, random(4))
    np.testing.assert_array_equal(node.weight, W.transpose(2, 3, 1, 0))
    assert graph.shapes == dict.fromkeys(("x", "user/conv.bias", "relu"), (-1, 8, 8, 4))
    assert graph.outputs == ("relu", "user/conv.bias")
    assert graph.batch is None


def test_a_fixed_batch_is_told() -> None:
    p, x = program((3, 8, 8, 4))
    graph = extract(p, conv(p, "conv", x))
    assert graph.batch == 3
    assert graph.shapes["conv"] == (3, 8, 8, 4)


def test_a_host_operator_comes_with_its_reason_and_runs() -> None:
    p, x = program(SHAPE)
    gate = p("user/gate", relax.op.sigmoid(conv(p, "conv", x)))
    graph = extract(p, p("user/scale", relax.op.multiply(gate, x)))
    gate, scale = graph.nodes[1:]
    assert (gate.op, gate.attrs["operator"]) == ("host", "relax.sigmoid")
    assert gate.reason == "a sigmoid has no shift-add form"
    assert scale.inputs == ("user/gate", "x")
    assert scale.evaluate is not None
    np.testing.assert_array_equal(scale.evaluate(IMAGES, IMAGES), IMAGES * IMAGES)


def test_an_operand_that_is_read_twice_is_fed_once() -> None:
    p, x = program(SHAPE)
    graph = extract(p, p("square", relax.op.multiply(x, x)))
    assert graph.nodes[0].inputs == ("x",)
    np.testing.assert_array_equal(run_float(graph, {"x": IMAGES})["square"], IMAGES**2)


def test_tuples_are_written_out() -> None:
    p, x = program((2, 8, 8, 4))
    parts = p("user/split", relax.op.split(x, 2, axis=0))
    items = [p(f"part{i}", relax.TupleGetItem(parts, i)) for i in range(2)]
    pair = p("pair", relax.Tuple(items[::-1]))
    both = p("both", relax.op.concat(pair, axis=0))
    graph = extract(p, p("y", relax.op.exp(both)), items[0])
    assert [node.name for node in graph.nodes] == ["part0", "part1", "both", "y"]
    assert graph.nodes[0].attrs["operator"] == "relax.split"
    assert graph.nodes[0].reason == graph.nodes[1].reason != ""
    assert graph.outputs == ("y", "part0")
    swapped = np.concatenate([IMAGES[1:], IMAGES[:1]])
    np.testing.assert_allclose(run_float(graph, {"x": IMAGES})["y"], np.exp(swapped), rtol=1e-5)


def test_numbers_without_a_batch_axis_are_computed_by_their_readers() -> None:
    p, x = program((2, 8, 8, 4))
    largest = p("largest", relax.op.max(x))
    double = p("double", relax.op.add(largest, largest))
    graph = extract(p, p("y", relax.op.subtract(x, double)))
    assert [node.name for node in graph.nodes] == ["y"]
    result = run_float(graph, {"x": IMAGES})["y"]
    np.testing.assert_allclose(result, IMAGES - 2 * IMAGES.max(), rtol=1e-6)


def test_indices_reach_the_next_host_operator_as_integers() -> None:
    p, x = program(SHAPE)
    index = p("index", relax.op.argmax(x, axis=3))
    graph = extract(p, p("y", relax.op.astype(p("more", relax.op.add(index, index)), "float32")))
    result = run_float(graph, {"x": IMAGES})["y"]
    np.testing.assert_array_equal(result, 2 * IMAGES.argmax(axis=3))


def test_the_host_of_a_whole_network() -> None:
    graph = converted("hosted").model.graph
    host = [node.name for node in graph.nodes if node.on_host]
    assert host == ["gate", "scaled", "softmax", "softmax.nchw"]


@pytest.mark.parametrize("kind", ["has no batch axis", "is a constant"])
@pytest.mark.parametrize("recorded", [True, False])
def test_outputs_that_are_no_batch_are_refused_by_name(kind: str, recorded: bool) -> None:
    p, x = program(SHAPE)
    y = p("total", relax.op.sum(x)) if kind == "has no batch axis" else constant(np.ones(3))
    mod = SelectRegions()(p.module(conv(p, "conv", x), y))
    if recorded:
        mod["main"] = mod["main"].with_attr("shiftadd.outputs", ["scores", "loss"])
    name = "'loss'" if recorded else "1"
    with pytest.raises(ModelError, match=f"but output {name} {kind}; remove it"):
        extract_graph(mod, lambda module: build(module, parse("cpu")))


def test_an_input_may_be_a_result() -> None:
    p, x = program(SHAPE)
    assert extract(p, conv(p, "conv", x), x).outputs == ("conv", "x")


def test_inputs_of_different_batches_are_refused() -> None:
    p = Program(x=SHAPE, y=(3, 4))
    y = p("y2", relax.op.exp(p.inputs[1]))
    with pytest.raises(ModelError, match=r"one common batch axis, got leading sizes \[-1, 3\]"):
        extract(p, conv(p, "conv", p.inputs[0]), y)
