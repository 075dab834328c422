"""Adder layers in the converter: scales, factors and biases, each with what they are for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.convert.networks import Builder
from tvm_shiftadd.convert import ConvertOptions, convert, run_float, run_integer
from tvm_shiftadd.convert import adders as module
from tvm_shiftadd.convert.adders import fit_adder, integer_weight, refine_exponents
from tvm_shiftadd.convert.calibrate import calibrate
from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.operators import run_node
from tvm_shiftadd.convert.plan import AdderPlan
from tvm_shiftadd.convert.prove import prove_plan
from tvm_shiftadd.convert.storage import stored
from tvm_shiftadd.convert.terms import Limits
from tvm_shiftadd.errors import RangeError
from tvm_shiftadd.formats import codes


def adder_node(name: str, shape: tuple[int, ...], seed: int, factor: float | None, **rest: Any):
    """An adder convolution with normal weights; factors of both signs around ``factor``."""
    rng = np.random.default_rng(seed)
    made = shape[-1]
    scale = None
    if factor is not None:
        scale = (rng.uniform(0.5, 2, made) * rng.choice([-1, 1], made) * factor).astype(np.float32)
    weight = rng.normal(size=shape).astype(np.float32)
    # What the distances come to, so that the result lies around zero.
    typical = math.prod(shape[:-1]) * 1.1
    offset = typical if scale is None else typical * scale
    bias = np.full(made, offset, np.float32)
    return {"weight": weight, "bias": bias, "factor": scale, **rest}


def network(seed: int = 0) -> Graph:
    """Two adder layers with factors around a residual, and one without a factor behind them."""
    builder = Builder((-1, 6, 6, 4), seed)
    where = {"strides": (1, 1), "padding": (1, 1, 1, 1)}

    def add(name: str, source: str, made: int, seed: int, factor: float | None) -> str:
        channels = builder.shapes[source][-1]
        fields = adder_node(name, (3, 3, channels, made), seed, factor)
        node = Node(name, "adder_conv2d", (source,), name, where, **fields)
        builder.nodes.append(node)
        builder.shapes[name] = (-1, 6, 6, made)
        return name

    stem = builder.relu("stem.relu", builder.conv("stem", "x", 8))
    one = builder.relu("one.relu", add("one", stem, 8, 1, 0.1))
    two = add("two", one, 8, 2, 0.05)
    total = builder.relu("sum.relu", builder.plus("sum", two, stem))
    last = add("last", total, 5, 3, None)
    return Graph(tuple(builder.nodes), ("x",), (last,), builder.shapes)


def images(count: int = 64, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 4)).astype(np.float32)


def batches() -> Any:
    yield {"x": images()}


def noise(graph: Graph, plan: Any, seed: int = 9) -> float:
    """Noise of the results relative to their spread, on images that were not seen."""
    x = {"x": images(32, seed)}
    (name,) = graph.outputs
    wanted = run_float(graph, x)[name]
    got = run_integer(graph, plan, x)[0][name]
    spread = wanted - wanted.mean(axis=(0, 1, 2))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(spread))


def test_float_layers_are_the_definition() -> None:
    fields = adder_node("a", (2, 3, 4, 5), 1, 0.3)
    node = Node("a", "adder_conv2d", ("x",), "a", {"strides": (2, 1), "padding": (1, 0, 0, 1)})
    node = replace(node, **fields)
    x = images(2)
    padded = np.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0))).astype(np.float64)
    made = run_node(node, [x])
    assert made.shape == (2, 3, 5, 5)
    for n, y, col, o in np.ndindex(made.shape):
        window = padded[n, 2 * y : 2 * y + 2, col : col + 3]
        total = -np.abs(window - fields["weight"][..., o]).sum()
        expected = fields["factor"][o] * total + fields["bias"][o]
        assert made[n, y, col, o] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_network_of_adder_layers_converts() -> None:
    graph = network()
    result = convert(graph, batches)
    assert set(result.plan.adders) == {"one", "two", "last"}
    assert set(result.plan.layers) == {"stem"}
    assert result.plan.adders["one"].factor is not None
    assert result.plan.adders["last"].factor is None
    assert noise(graph, result.plan) < 0.08
    reports = {report.name: report for report in result.report.layers}
    assert reports["two"].terms == 0
    assert reports["two"].output_snr_db is not None and reports["two"].output_snr_db > 25
    # Adder layers have no terms to average over.
    assert result.report.terms_per_weight == reports["stem"].terms_per_weight


def test_factors_have_the_sign_and_size_of_the_batch_norm() -> None:
    graph = network()
    plan = convert(graph, batches).plan
    for node in graph.nodes:
        if node.factor is not None:
            factor = plan.adders[node.name].factor
            assert factor is not None
            made = np.ldexp(codes.decode(factor.codes).astype(float), -factor.exponent)
            np.testing.assert_allclose(made, node.factor, rtol=0.1)
            assert made.min() < 0 < made.max()


def test_bias_correction_removes_the_drift_of_every_channel() -> None:
    graph = network()
    x = {"x": images()}
    drift = {}
    for corrected in (True, False):
        plan = convert(graph, batches, ConvertOptions(bias_correction=corrected)).plan
        wanted = run_float(graph, x)["last"].mean(axis=(0, 1, 2))
        got = run_integer(graph, plan, x)[0]["last"].mean(axis=(0, 1, 2))
        drift[corrected] = float(np.abs(got - wanted).max())
    assert drift[True] <= 2**-4  # half a step of the bias
    assert drift[False] > 4 * drift[True]


def test_the_scale_is_chosen_by_what_readers_make_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights much smaller than the inputs' step would all be rounded to nothing."""
    builder = Builder((-1, 4, 4, 3))
    random = np.random.default_rng(1)
    weight = (random.normal(size=(1, 1, 3, 6)) * 0.02).astype(np.float32)
    attrs = {"strides": (1, 1), "padding": (0, 0, 0, 0)}
    builder.nodes.append(Node("a", "adder_conv2d", ("x",), "a", attrs, weight))
    builder.shapes["a"] = (-1, 4, 4, 6)
    graph = Graph(tuple(builder.nodes), ("x",), ("a",), builder.shapes)
    # Mostly tiny inputs with a few large ones that decide the scale by their squared error.
    x = random.normal(size=(32, 4, 4, 3)).astype(np.float32) * np.float32(0.05)
    x[random.random(x.shape) < 0.02] = 0.9
    storage = stored(graph)
    exponents = calibrate(graph, storage, lambda: iter([{"x": x}]))
    refined = refine_exponents(graph, storage, exponents, {"x": x})

    def error(a: int) -> float:
        return module._error(x, [graph.nodes[0]], a)

    tried = [error(exponents["x"] + step) for step in module.STEPS]
    assert error(refined["x"]) == min(tried)
    assert refined["x"] in [exponents["x"] + step for step in module.STEPS]


def test_scales_that_no_adder_layer_reads_stay() -> None:
    graph = network()
    storage = stored(graph)
    exponents = calibrate(graph, storage, batches)
    refined = refine_exponents(graph, storage, exponents, {"x": images()})
    assert refined["x"] == exponents["x"]
    assert set(refined) == set(exponents)


def test_refinement_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(3)
    # Weights far finer than what the tensor's own range asks for.
    nodes = tuple(
        replace(n, weight=n.weight * np.float32(0.05)) if n.op == "adder_conv2d" else n
        for n in graph.nodes
    )
    graph = replace(graph, nodes=nodes)
    monkeypatch.setattr(module, "STEPS", (-2,))
    coarse = noise(graph, convert(graph, batches).plan)
    monkeypatch.undo()
    assert noise(graph, convert(graph, batches).plan) < 0.8 * coarse


@pytest.mark.parametrize("slope", [0.7, -0.013, 3.9, 1e-30, 0.0])
def test_factors_near_and_far_from_one(slope: float) -> None:
    """Also of channels that carry nothing but their offset."""
    weight = np.array([[5], [-7]], np.int8)
    node = Node("a", "adder_dense", ("x",), "a", {}, weight.astype(np.float32))
    node = replace(node, factor=np.array([slope], np.float32))
    acc = -np.abs(np.arange(-128, 128)[:, None, None] - weight.T[None]).sum(axis=2)
    target = (slope * acc / 16 + 3).astype(np.float32)
    plan = fit_adder(
        node, acc.astype(np.int32), weight, np.zeros(1, np.int64), Limits(4, np.ones(1), 3), target
    )
    assert plan.factor is not None
    values = codes.decode(plan.factor.codes).astype(np.int64) * (acc + plan.bias)
    got = np.ldexp(values.astype(np.float64), -(4 + plan.factor.exponent))
    # Three copies come within 2 % of any factor, and the bias makes up for that at the mean.
    spread = np.abs(target - target.mean()).max()
    assert np.abs(got - target).max() < 0.5 / 8 + 0.02 * spread


def test_weights_beyond_the_range_are_folded_into_the_bias() -> None:
    fields = adder_node("a", (1, 1, 4, 3), 2, 0.2)
    fields["weight"] *= np.float32(60)
    node = Node("a", "adder_conv2d", ("x",), "a", {"strides": (1, 1), "padding": (1, 0, 0, 1)})
    node = replace(node, **fields)
    weight, offset = integer_weight(node, 4)
    assert weight.min() == -128 and weight.max() == 127 and offset.max() < 0
    graph = Graph((node,), ("x",), ("a",), {"x": (-1, 6, 6, 4), "a": (-1, 7, 7, 3)})
    result = convert(graph, batches, ConvertOptions(bias_correction=False))
    assert noise(graph, result.plan) < 0.05


def test_a_channel_without_room_is_named() -> None:
    fields = adder_node("a", (1, 1, 4, 3), 2, None)
    fields["bias"] = np.array([0, 3e9, 0], np.float32)
    node = Node("a", "adder_conv2d", ("x",), "a", {"strides": (1, 1), "padding": (0, 0, 0, 0)})
    node = replace(node, **fields)
    graph = Graph((node,), ("x",), ("a",), {"x": (-1, 6, 6, 4), "a": (-1, 6, 6, 3)})
    with pytest.raises(RangeError, match="'a', channel 1"):
        convert(graph, batches)


def test_overflow_of_a_factor_is_refused() -> None:
    graph = network()
    plan = convert(graph, batches).plan
    one = plan.adders["one"]
    spoiled = AdderPlan(one.weight, np.full_like(one.bias, 1 << 27), one.factor)
    with pytest.raises(RangeError, match="one: channel"):
        prove_plan(graph, replace(plan, adders={**plan.adders, "one": spoiled}))
