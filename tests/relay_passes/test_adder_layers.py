"""Adder layers through every pass, from the float operator to the artifact's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from relay_passes.canonicalize import Canonicalize
from relay_passes.channels_last import ChannelsLast
from relay_passes.classify import Match, Refusal, classify
from relay_passes.fold_batch_norm import FoldBatchNorm
from relay_passes.select_regions import REGIONS_ATTR
from tests.relay_passes.programs import (
    Program,
    assert_same_numbers,
    constant,
    conv2d,
    names,
    operators,
    program,
    random,
)
from tvm_shiftadd import api, costs
from tvm_shiftadd._compat import constant_array, relax
from tvm_shiftadd.convert import run_float, run_integer
from tvm_shiftadd.dialect import ops

W = random(6, 4, 3, 3)


def batch_norm(p: Program, name: str, x: Any, channels: int, seed: int, spread: float) -> Any:
    """Factors of both signs that bring values around ``-spread`` to about one."""
    gamma, beta = random(channels, seed=seed), random(channels, seed=seed + 1)
    mean = random(channels, seed=seed + 2) - np.float32(spread)
    variance = np.full(channels, spread / 2, np.float32)
    statistics = relax.op.nn.batch_norm(
        x, *(constant(v) for v in (gamma, beta, mean, variance)), axis=1, training=False
    )
    return p(name, relax.TupleGetItem(p(f"{name}.statistics", statistics), 0))


def adder(x: Any, weight: Any, **attrs: Any) -> Any:
    return ops.float_adder_conv2d(x, constant(weight), **attrs)


def bound(mod: Any, name: str) -> Any:
    (value,) = (
        b.value for block in mod["main"].body.blocks for b in block.bindings if b.var.name == name
    )
    return value


def network(kernel: int = 3) -> Any:
    """Convolution, two adder layers around a residual, a strided one, and a dense one."""
    p, x = program()
    stem = p("stem", conv2d(x, random(8, 4, 3, 3, seed=1, scale=0.2), padding=1))
    stem = p("stem.relu", relax.op.nn.relu(stem))
    one = p("one", adder(stem, random(8, 8, kernel, kernel, seed=2, scale=2), padding=1))
    one = p("one.relu", relax.op.nn.relu(batch_norm(p, "one.bn", one, 8, 10, 100.0)))
    # Weights far beyond the inputs' range are folded.
    two = p("two", adder(one, random(8, 8, 3, 3, seed=3, scale=9), padding=1))
    total = p("sum", relax.op.add(batch_norm(p, "two.bn", two, 8, 20, 500.0), stem))
    total = p("sum.relu", relax.op.nn.relu(total))
    down = adder(total, random(5, 8, 3, 2, seed=4), strides=2, padding=(0, 1, 1, 0))
    down = batch_norm(p, "down.bn", p("down", down), 5, 30, 60.0)
    flat = p("flat", relax.op.reshape(p("down.relu", relax.op.nn.relu(down)), (x.ty.shape[0], 80)))
    dense = p("dense", ops.float_adder_dense(flat, constant(random(80, 3, seed=5))))
    return p.module(p("biased", relax.op.add(dense, constant(random(3, seed=6)))))


def test_a_batch_norm_becomes_the_factor_and_the_bias() -> None:
    p, x = program()
    layer = p("layer", adder(x, W, padding=1))
    mod = p.module(batch_norm(p, "bn", layer, 6, 1, 30.0))
    after = FoldBatchNorm()(mod)
    assert operators(after) == ["shiftadd.float_adder_conv2d", "add"]
    assert names(after)[:2] == ["layer", "layer.bias"]
    _, weight, factor = bound(after, "layer").args
    np.testing.assert_array_equal(constant_array(weight), W)
    expected = random(6, seed=1) / np.sqrt(15.0 + 1e-5)
    np.testing.assert_allclose(constant_array(factor), expected, rtol=1e-6)
    assert_same_numbers(FoldBatchNorm(), mod, random(2, 4, 8, 8), tolerance=1e-4)


def test_a_constant_factor_behind_a_dense_one_is_folded() -> None:
    p, x = program(("N", 7))
    layer = p("layer", ops.float_adder_dense(x, constant(random(7, 4))))
    mod = p.module(p("scaled", relax.op.multiply(layer, constant(random(4)))))
    assert operators(FoldBatchNorm()(mod)) == ["shiftadd.float_adder_dense", "add"]
    assert_same_numbers(FoldBatchNorm(), mod, random(3, 7))


def test_maps_of_adder_layers_become_channels_last() -> None:
    p, x = program()
    first = p("first", adder(x, W, strides=(2, 1), padding=(1, 0, 0, 1)))
    mod = p.module(p("second", adder(first, random(3, 6, 2, 2))))
    after = ChannelsLast()(mod)
    layer = "shiftadd.float_adder_conv2d"
    assert operators(after) == ["permute_dims", layer, layer, "permute_dims"]
    assert str(bound(after, "first").attrs["kernel_layout"]) == "HWIO"
    assert_same_numbers(ChannelsLast(), mod, random(2, 4, 8, 8), tolerance=1e-4)


def test_what_it_is_classified_as() -> None:
    _, x = program(("N", 8, 8, 4))
    hwio, factor = random(3, 3, 4, 6), random(6)
    match = classify(
        ops.float_adder_conv2d(x, constant(hwio), constant(factor), padding=1, data_layout="NHWC")
    )
    assert isinstance(match, Match)
    assert (match.op, match.attrs) == (
        "adder_conv2d",
        {"strides": (1, 1), "padding": (1, 1, 1, 1)},
    )
    np.testing.assert_array_equal(match.weight, hwio)
    np.testing.assert_array_equal(match.factor, factor)
    plain = classify(ops.float_adder_dense(x, constant(random(4, 2))))
    assert isinstance(plain, Match) and plain.op == "adder_dense" and plain.factor is None
    learned = relax.Var("w", constant(hwio).ty)
    refusal = classify(ops.float_adder_conv2d(x, learned, data_layout="NHWC"))
    assert refusal == Refusal("its weight is not a constant")


def test_weights_that_are_computed_stay_on_the_host() -> None:
    p = Program(x=("N", 4, 8, 8), w=(6, 4, 3, 3))
    x, w = p.inputs
    mod = p.module(p("layer", ops.float_adder_conv2d(x, w, padding=1)))
    model = api.Model(mod, "computed")
    assert dict(model.selected["main"].attrs[REGIONS_ATTR])["layer"] == (
        "its weight is not a constant"
    )
    (layer,) = [n for n in operators(model.selected) if "adder" in n]
    assert layer == "shiftadd.float_adder_conv2d"
    assert_same_numbers(Canonicalize(), mod, random(2, 4, 8, 8), W)


@pytest.fixture(scope="module")
def converted() -> Any:
    model = api.Model(network(), "adders")
    return model, api.convert(model, random(64, 4, 8, 8, seed=7))


def test_the_graph_has_adder_layers_with_their_factors(converted: Any) -> None:
    model, _ = converted
    nodes = {node.name: node for node in model.graph.nodes}
    assert {n.op for n in nodes.values() if "adder" in n.op} == {"adder_conv2d", "adder_dense"}
    factor = nodes["two"].factor
    assert factor.shape == (8,) and factor.min() < 0 < factor.max()
    assert nodes["dense"].factor is None and nodes["dense"].bias is not None


def test_the_artifact_gives_the_bits_of_the_integer_reference(converted: Any) -> None:
    model, conversion = converted
    artifact = api.build(model, conversion)
    for count in (1, 5):
        x = random(count, 4, 8, 8, seed=8 + count, scale=1.5)
        (wanted,) = run_integer(model.graph, conversion.plan, {"x": x})[0].values()
        got = artifact.run(x)
        np.testing.assert_array_equal(got, wanted)
    x = random(32, 4, 8, 8, seed=99)
    got = artifact.run(x)
    (floats,) = run_float(model.graph, {"x": x}).values()
    noise = np.linalg.norm(got - floats) / np.linalg.norm(floats - floats.mean(axis=0))
    assert noise < 0.12


def test_the_module_holds_distances_and_factors_and_no_float(converted: Any) -> None:
    from relay_passes import pipeline

    model, conversion = converted
    passes = pipeline.integer_passes(conversion.plan)
    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    found = operators(pipeline.run(model.selected, passes, given=given))
    assert found.count("shiftadd.adder_conv2d") == 3
    assert found.count("shiftadd.adder_dense") == 1
    plan = conversion.plan
    factors = [*plan.adders.values(), *plan.layers.values()]
    assert sum(layer.factor is not None for layer in plan.adders.values()) == 3
    assert found.count("shiftadd.scale") == sum(layer.factor is not None for layer in factors)
    assert found.count("shiftadd.quantize") == 1
    assert found.count("shiftadd.add") == 1
    assert not any("float" in name for name in found)


def test_costs_and_explanation_know_adder_layers(converted: Any) -> None:
    model, conversion = converted
    report = costs.count(model.graph, conversion.plan)
    assert report.multiplications == 0
    (two,) = [layer for layer in report.layers if layer.name == "two"]
    distances = 8 * 8 * 8 * 8 * 9
    assert two.macs == distances
    assert two.weight_bytes == 8 * 8 * 9
    assert 2 * distances < two.shift_add.adds < 2.1 * distances
    assert two.float32.multiplies == 8 * 8 * 8
    assert 0 < report.terms_per_weight <= 2
    placed = {o.name: o.placement for o in api.explain(model).operators}
    assert placed["two"] == placed["dense"] == "adder"
    assert placed["stem"] == "shift-add"
    assert placed["one.bn"] == "folded"


def test_a_network_without_batch_norm_is_exact_where_the_scale_fits() -> None:
    """Inputs and weights that are multiples of 2^-4 below 8: the integers are the floats."""
    p, x = program(("N", 3, 6, 6))
    weight = np.rint(random(4, 3, 3, 3, scale=16)) / 16
    mod = p.module(p("layer", adder(x, weight, padding=1)))
    model = api.Model(mod, "exact")
    images = np.clip(np.rint(random(16, 3, 6, 6, scale=40)) / 16, -7.9375, 7.9375)
    images[0, 0, 0, 0] = 7.9375
    artifact = api.build(model, api.convert(model, images))
    (floats,) = run_float(model.graph, {"x": images}).values()
    np.testing.assert_array_equal(artifact.run(images), floats)
