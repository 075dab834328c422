from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.networks import Builder, images, residual_network, window
from tvm_shiftadd.convert.execute import QTensor, integer_bounds, run_float, run_integer, to_float
from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.plan import LayerPlan, Plan
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats import codes


def layer(values: list[list[int]], exponent: list[int], bias: list[int]) -> LayerPlan:
    return LayerPlan(
        codes.encode(np.array(values), 2),
        np.array(exponent, np.int32),
        np.array(bias, np.int32),
    )


def dense_node(name: str, source: str, shape: tuple[int, int]) -> Node:
    return Node(name, "dense", (source,), name, weight=np.zeros(shape, np.float32))


def test_the_integers_of_a_dense_layer_with_relu_by_hand():
    nodes = (
        dense_node("one", "x", (2, 2)),
        Node("relu", "clip", ("one",), "relu", {"lo": 0.0, "hi": 0.5}),
        dense_node("two", "relu", (2, 1)),
    )
    graph = Graph(nodes, ("x",), ("two",), {"x": (-1, 2), "one": (-1, 2), "relu": (-1, 2),
                                            "two": (-1, 1)})  # fmt: skip
    plan = Plan(
        {"one": layer([[3, -2], [1, 6]], [2, 0], [5, 0]), "two": layer([[1], [4]], [1], [-3])},
        {"x": 3, "relu": 4},
    )
    x = np.array([[0.25, -0.5], [1.0625, 40.0]], np.float32)
    outputs, taps = run_integer(graph, plan, {"x": x}, keep=("x", "one", "relu", "two"))
    # x * 8 = 2, -4 and 8.5 -> 8 (half to even), 127 (saturated)
    np.testing.assert_array_equal(taps["x"].values, [[2, -4], [8, 127]])
    np.testing.assert_array_equal(taps["one"].values, [[2 * 3 - 4 + 5, -4 - 24], [156, 746]])
    np.testing.assert_array_equal(taps["one"].exponent, [5, 3])
    # shifts 1 and -1: (7 + 1) >> 1 = 4, clipped to [0, 8] (0.5 * 2^4)
    np.testing.assert_array_equal(taps["relu"].values, [[4, 0], [8, 8]])
    np.testing.assert_array_equal(taps["two"].values, [[1], [37]])
    np.testing.assert_array_equal(outputs["two"], np.float32([[1], [37]]) / 32)


def test_addition_aligns_each_channel_to_the_finer_scale():
    nodes = (
        dense_node("one", "x", (1, 2)),
        Node("sum", "add", ("one", "y"), "sum"),
    )
    graph = Graph(nodes, ("x", "y"), ("sum",), {"x": (-1, 1), "y": (-1, 2), "one": (-1, 2),
                                                "sum": (-1, 2)})  # fmt: skip
    plan = Plan({"one": layer([[1, 1]], [0, 3], [0, 0])}, {"x": 0, "y": 2})
    feeds = {"x": np.float32([[5]]), "y": np.float32([[1.25, -0.5]])}
    outputs, taps = run_integer(graph, plan, feeds, keep=("sum",))
    np.testing.assert_array_equal(taps["sum"].exponent, [2, 3])
    np.testing.assert_array_equal(taps["sum"].values, [[(5 << 2) + 5, 5 + (-2 << 1)]])
    np.testing.assert_array_equal(outputs["sum"], [[6.25, 1 / 8]])


def test_average_and_maximum_pooling_in_integers():
    b = Builder((-1, 2, 2, 1))
    shape = (-1, 1, 1, 1)
    b.add("max", "max_pool2d", "x", shape, **window((2, 2), (2, 2)))
    b.add("mean", "avg_pool2d", "x", shape, count_include_pad=False, **window((2, 2), (2, 2)))
    graph = b.graph("max", "mean")
    outputs, taps = run_integer(
        graph,
        Plan({}, {"x": 0, "max": 0}),
        {"x": np.float32([1, 2, 3, -7]).reshape(1, 2, 2, 1)},
        keep=("max",),
    )
    assert taps["max"].values.item() == 3
    assert outputs["mean"].item() == -0.25


def test_movements_agree_between_floats_and_integers():
    b = Builder((-1, 4, 6, 2))
    b.add("sliced", "slice", "x", (-1, 2, 6, 2), axes=[1], begin=[0], end=[1 << 62], strides=[2])
    b.add("flipped", "slice", "sliced", (-1, 2, 6, 2), axes=[2], begin=[-1], end=[-99],
          strides=[-1])  # fmt: skip
    b.add("padded", "pad", "flipped", (-1, 2, 6, 5), pad_width=((0, 0), (0, 0), (0, 0), (1, 2)))
    b.add("taller", "upsample2d", "padded", (-1, 4, 18, 5), scale=(2, 3))
    b.add("turned", "permute", "taller", (-1, 5, 4, 18), axes=(0, 3, 1, 2))
    b.add("twice", "concat", "turned turned", (-1, 10, 4, 18), axis=1)
    b.flat("flat", "twice")
    graph = b.graph("flat")
    x = np.round(images(graph, 3)["x"] * 8) / 8
    plan = Plan({}, dict.fromkeys(graph.shapes, 3))
    wanted = run_float(graph, {"x": x})["flat"]
    padded = np.pad(x[:, ::2, ::-1], ((0, 0), (0, 0), (0, 0), (1, 2)))
    taller = padded.repeat(2, 1).repeat(3, 2).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(wanted, np.concatenate([taller] * 2, axis=1).reshape(3, -1))
    np.testing.assert_array_equal(run_integer(graph, plan, {"x": x})[0]["flat"], wanted)


@pytest.mark.parametrize("include", [False, True])
def test_float_pooling_with_padding_and_overhang(include: bool):
    b = Builder((-1, 5, 5, 2))
    where = {**window((3, 3), (2, 2)), "padding": (1, 0, 0, 0), "ceil_mode": True}
    shape = (-1, 3, 2, 2)
    b.add("max", "max_pool2d", "x", shape, **where)
    b.add("mean", "avg_pool2d", "x", shape, count_include_pad=include, **where)
    x = images(b.graph("max"), 2)["x"]
    result = run_float(b.graph("max", "mean"), {"x": x})
    for row, (top, bottom) in enumerate([(0, 2), (1, 4), (3, 5)]):
        for column, left in enumerate([0, 2]):
            part = x[:, top:bottom, left : left + 3]
            np.testing.assert_array_equal(result["max"][:, row, column], part.max((1, 2)))
            count = 9 if include and row == 0 else part.shape[1] * part.shape[2]
            np.testing.assert_allclose(
                result["mean"][:, row, column], part.sum((1, 2)) / count, rtol=1e-5, atol=1e-6
            )


def test_host_nodes_run_in_pieces_of_a_fixed_batch():
    sizes: list[int] = []

    def square(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return x * x

    b = Builder((2, 4))
    b.add("square", "host", "x", (2, 4), evaluate=square)
    x = images(b.graph("square"), 5)["x"]
    result = run_float(b.graph("square", batch=2), {"x": x})["square"]
    np.testing.assert_array_equal(result, x * x)
    assert sizes == [2, 2, 2]


def test_a_host_node_that_drops_the_batch_axis_sees_one_batch_at_a_time():
    b = Builder((1, 3, 2))
    b.add("rows", "host", "x", (3, 2), evaluate=lambda x: x.reshape(3, 2))
    b.add("sum", "host", "rows", (1, 2), evaluate=lambda x: x.sum(0, keepdims=True))
    b.add("both", "host", "rows sum", (3, 2), evaluate=lambda x, y: x - y)
    graph = b.graph("both", batch=1)
    x = images(graph, 4)["x"]
    result = run_float(graph, {"x": x})["both"]
    np.testing.assert_allclose(
        result.reshape(4, 3, 2), x - x.sum(1, keepdims=True), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("fixed", [False, True])
def test_integers_of_the_host_stay_what_they_are(fixed: bool):
    b = Builder((2 if fixed else -1, 1))
    large = 2**40 + 1  # float32 has no such number
    b.add("count", "host", "x", (-1, 1), evaluate=lambda x: x.astype(np.int64) + large)
    b.add("rest", "host", "count", (-1, 1), evaluate=lambda n: (n - large).astype(np.float32))
    graph = b.graph("rest")
    if fixed:
        graph = replace(graph, batch=2, shapes=dict.fromkeys(graph.shapes, (2, 1)))
    x = np.array([[1], [-2], [3]], np.float32)
    np.testing.assert_array_equal(run_float(graph, {"x": x})["rest"], x)


def test_only_what_is_asked_for_is_kept():
    graph = residual_network()
    kept = run_float(graph, images(graph, 2), keep=("stem",))
    assert set(kept) == {"stem", "scores"}


def test_clip_bounds_round_half_to_even_and_saturate():
    assert integer_bounds((0.0, 6.0), 4) == (0, 96)
    assert integer_bounds((-math.inf, math.inf), 4) == (-128, 127)
    assert integer_bounds((-0.3125, 0.4375), 3) == (-2, 4)


def test_a_clipped_accumulator_never_reaches_the_host():
    value = QTensor(np.zeros((1, 1), np.int32), np.zeros(1, np.int32), (0.0, 1.0))
    with pytest.raises(ConversionError, match="clipped accumulator"):
        to_float(value)


def test_a_plan_that_changes_a_shared_exponent_is_refused():
    b = Builder((-1, 2, 2, 1))
    b.add("max", "max_pool2d", "x", (-1, 1, 1, 1), **window((2, 2), (2, 2)))
    graph = b.graph("max")
    with pytest.raises(ConversionError, match="'max' keeps the exponent 0"):
        run_integer(graph, Plan({}, {"x": 0, "max": 1}), images(graph, 1))
