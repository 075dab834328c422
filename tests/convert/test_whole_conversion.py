from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.networks import Builder, images, residual_network, separable_network
from tvm_shiftadd.convert import (
    Conversion,
    ConvertOptions,
    Graph,
    convert,
    prove_plan,
    run_float,
    run_integer,
    stored,
)
from tvm_shiftadd.convert.bias import corrected_bias, integer_bias
from tvm_shiftadd.convert.calibrate import SAMPLE_SIZE, calibrate
from tvm_shiftadd.convert.plan import LayerPlan, Plan
from tvm_shiftadd.convert.report import ConversionReport, LayerReport, snr_db
from tvm_shiftadd.convert.sequence import SequentialConversion, images_in_memory
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.errors import InputError, RangeError
from tvm_shiftadd.formats import codes

NETWORKS = [residual_network, separable_network]


def converted(graph: Graph, seed: int = 1, **options: object) -> Conversion:
    feeds = images(graph, 64, seed)
    batches = [{"x": feeds["x"][start : start + 24]} for start in (0, 24, 48)]
    return convert(graph, lambda: batches, ConvertOptions(**options))  # type: ignore[arg-type]


def output_snr(graph: Graph, plan: Plan) -> float:
    feeds = images(graph, 200, seed=9)
    wanted = run_float(graph, feeds)["scores"]
    ratio = snr_db(wanted - wanted.mean(0), run_integer(graph, plan, feeds)[0]["scores"] - wanted)
    assert ratio is not None
    return ratio


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize(("terms", "least"), [(1, 7), (2, 16), (3, 19)])
def test_the_converted_network_follows_the_float_one(make, terms: int, least: float):
    graph = make()
    result = converted(graph, terms=terms)
    assert set(result.plan.exponents) == stored(graph).tensors
    assert set(result.plan.layers) == {n.name for n in graph.nodes if n.weight is not None}
    for node in graph.nodes:
        if node.weight is not None:
            layer = result.plan.layers[node.name]
            rows = node.weight.reshape(-1, node.weight.shape[-1]).shape
            assert layer.codes.shape == (terms, *rows)
            assert layer.codes.dtype == np.uint8
            assert layer.bias.dtype == layer.weight_exponent.dtype == np.int32
            codes.validate(layer.codes)
    prove_plan(graph, result.plan)
    assert output_snr(graph, result.plan) > least


@pytest.mark.parametrize("make", NETWORKS)
def test_each_method_helps(make):
    graph = make()
    plain = converted(graph, terms=1, compensation=False, bias_correction=False)
    corrected = converted(graph, terms=1, compensation=False)
    compensated = converted(graph, terms=1)
    snr = [output_snr(graph, result.plan) for result in (plain, corrected, compensated)]
    assert snr[0] < snr[1] < snr[2]


def test_bias_correction_removes_the_mean_error_of_every_channel():
    graph = residual_network()
    feeds = images(graph, 64)
    result = converted(graph, terms=1, compensation=False)
    wanted = run_float(graph, feeds, keep=("scores",))["scores"].mean(0)
    have = run_integer(graph, result.plan, feeds)[0]["scores"].mean(0)
    np.testing.assert_allclose(have, wanted, atol=1e-4)
    without = converted(graph, terms=1, compensation=False, bias_correction=False)
    far = run_integer(graph, without.plan, feeds)[0]["scores"].mean(0)
    assert np.abs(far - wanted).max() > 1e-3


def test_the_same_data_give_the_same_integers():
    graph = residual_network()
    one, two = converted(graph), converted(graph)
    assert one.report == two.report
    assert one.plan.exponents == two.plan.exponents
    for name, layer in one.plan.layers.items():
        np.testing.assert_array_equal(layer.codes, two.plan.layers[name].codes)
        np.testing.assert_array_equal(layer.bias, two.plan.layers[name].bias)


def test_the_report_is_plain_and_tells_what_was_used():
    graph = residual_network()
    steps: list[tuple[str, int, int]] = []
    feeds = images(graph, 30)
    result = convert(
        graph,
        lambda: [feeds],
        ConvertOptions(limit=20, correction_images=8),
        lambda *step: steps.append(step),
    )
    report = json.loads(json.dumps(result.report.to_dict(), allow_nan=False))
    assert report["calibration_images"] == 20
    assert report["correction_images"] == 8
    names = [node.name for node in graph.nodes if node.weight is not None]
    assert [layer["name"] for layer in report["layers"]] == names
    assert steps[-1] == ("convert", len(names), len(names))
    assert ("calibrate", 20, 20) in steps
    first, last = report["layers"][0], report["layers"][-1]
    assert first["output_exponent"] == result.plan.exponents["stem"]
    assert last["output_exponent"] is None
    assert 1 <= report["terms_per_weight"] <= 2
    assert report["weights"] == sum(n.weight.size for n in graph.nodes if n.weight is not None)
    for layer in report["layers"]:
        assert 20 < layer["weight_snr_db"] < 45
        assert layer["output_snr_db"] > 15
        assert 0 <= layer["saturation"] < 0.05
        assert layer["cause"]
    by_noise = sorted(report["layers"], key=lambda layer: layer["output_snr_db"])
    assert report["worst"] == [layer["name"] for layer in by_noise[:3]]
    assert report["noisy"] == []


def causes(terms: int, inputs: int = 0, coarse: int = 0) -> LayerReport:
    """The report of a layer of so many terms whose input and output have so many bits less."""
    b = Builder((-1, 6, 6, 3))
    b.relu("one", b.conv("one.conv", "x", 16))
    b.relu("two", b.conv("two.conv", "one", 8))
    b.conv("three", "two", 4)
    graph = b.graph("three")
    exponents = calibrate(graph, stored(graph, False), lambda: [images(graph, 20)])
    exponents["one"] -= inputs
    exponents["two"] -= coarse
    own = {"two.conv": TermLimits(terms)}
    options = ConvertOptions(3, compensation=False, fold=False, unsigned=False, allocation=own)
    sequence = SequentialConversion(graph, exponents, options, lambda *step: None)
    sequence.run(images(graph, 20))
    return sequence.reports[1]


def test_the_step_that_does_the_harm_is_named():
    assert causes(1).cause == "weights"
    assert causes(3, inputs=5).cause == "inputs"
    assert causes(3, coarse=5).cause == "storage"


def test_noisy_layers_are_named():
    one = replace(causes(1), name="a", output_snr_db=9.0)
    report = ConversionReport((replace(one, name="b", output_snr_db=20.0), one), 1, 1)
    assert [layer.name for layer in report.noisy] == ["a"]
    assert [layer.name for layer in report.worst(1)] == ["a"]


def test_saturation_is_counted_before_the_layer_is_blamed_for_a_clip():
    b = Builder((-1, 6, 6, 3))
    b.relu("one", b.conv("one.conv", "x", 4), 0.25)
    b.conv("two", "one", 2)
    graph = b.graph("two")
    report = convert(graph, lambda: [images(graph, 20)], ConvertOptions(equalize=False)).report
    # Half of the values are clipped to 0.25, which is no limit of int8.
    assert report.layers[0].saturation == 0


def test_transposed_convolutions_and_host_operators_convert():
    b = Builder((-1, 6, 6, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.add(
        "up", "conv2d_transpose", "one", (-1, 12, 12, 3), strides=(2, 2), padding=(1, 1, 1, 1),
        output_padding=(0, 0), dilation=(1, 1), groups=1,
        weight=b.normal((4, 4, 4, 3), 0.2), bias=b.normal((3,), 0.1),
    )  # fmt: skip
    b.add("tanh", "host", "up", (-1, 12, 12, 3), evaluate=np.tanh)
    b.conv("last", "tanh", 2)
    graph = b.graph("last", "up")
    plan = convert(graph, lambda: [images(graph, 30)]).plan
    feeds = images(graph, 20, seed=5)
    wanted, have = run_float(graph, feeds), run_integer(graph, plan, feeds)[0]
    for name in ("up", "last"):
        ratio = snr_db(wanted[name], have[name] - wanted[name])
        assert ratio is not None and ratio > 24


def test_dead_layers_and_constant_inputs_convert():
    graph = residual_network()
    for node in graph.nodes:
        if node.weight is not None and node.name in ("a.conv", "shortcut"):
            node.weight[...] = 0
    feeds = {"x": np.full((4, 8, 8, 3), 0.5, np.float32)}
    plan = convert(graph, lambda: [feeds]).plan
    wanted, have = run_float(graph, feeds), run_integer(graph, plan, feeds)[0]
    np.testing.assert_allclose(have["scores"], wanted["scores"], atol=0.02)


def test_an_overflow_is_found_and_named():
    graph = residual_network()
    plan = converted(graph).plan
    layer = plan.layers["d.conv"]
    near = np.full_like(layer.bias, 2**31 - 2**10)
    spoilt = {
        **plan.layers,
        "d.conv": LayerPlan(layer.codes, layer.weight_exponent, near),
    }
    with pytest.raises(RangeError, match=r"d\.conv"):
        prove_plan(graph, replace(plan, layers=spoilt))
    far = {
        **plan.layers,
        "d.conv": LayerPlan(layer.codes, layer.weight_exponent + np.int32(25), layer.bias),
    }
    with pytest.raises(RangeError, match=r"second\.add"):
        prove_plan(graph, replace(plan, layers=far))


def test_images_in_memory_follow_the_largest_moment():
    b = Builder((-1, 10, 10, 4))
    b.relu("wide.relu", b.conv("wide", "x", 40))
    b.conv("narrow", "wide.relu", 2)
    graph = b.graph("narrow")
    # 8000 numbers are live while the clip runs.
    assert images_in_memory(graph, 12 * 8000 * 5) == 5
    assert images_in_memory(graph, 1) == 1


def test_the_corrected_bias_makes_up_for_the_mean():
    acc = np.array([[4, 10], [8, -6]], np.int32)
    target = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    bias = corrected_bias(target, acc, np.array([1, 2], np.int32))
    np.testing.assert_array_equal(bias, [2.0 - 3.0, 3.5 - 0.5])
    np.testing.assert_array_equal(integer_bias(np.array([0.75, 1e12]), np.array([1, 0])),
                                  [2, 2**31 - 1])  # fmt: skip


@pytest.mark.parametrize("options", [{"terms": 0}, {"terms": 4}, {"limit": 0}, {"memory": 0}])
def test_options_without_meaning_are_refused(options: dict[str, int]):
    with pytest.raises(InputError, match="choose"):
        ConvertOptions(**options)  # type: ignore[arg-type]


def test_signal_to_noise():
    assert snr_db(np.array([10.0]), np.array([1.0])) == pytest.approx(20)
    assert snr_db(np.array([10.0]), np.array([0.0])) is None


def test_allocated_limits_hold_for_their_layer_alone():
    graph = residual_network()
    shape = next(n.weight for n in graph.nodes if n.name == "d.conv").reshape(-1, 16).shape
    most = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    allocation = {
        "d.conv": TermLimits(2, most),
        "a.conv": TermLimits(1),
        "c.conv": TermLimits(2, price=1e-4),
    }
    plain = {layer.name: layer for layer in converted(graph).report.layers}
    result = converted(graph, allocation=allocation)
    limited = {layer.name: layer for layer in result.report.layers}
    assert (np.count_nonzero(result.plan.layers["d.conv"].codes, axis=0) <= most).all()
    assert limited["a.conv"].terms == result.plan.layers["a.conv"].terms == 1
    assert limited["stem.conv"] == plain["stem.conv"]
    assert limited["c.conv"].terms_per_weight < plain["c.conv"].terms_per_weight - 0.1
    prove_plan(graph, result.plan)
    with pytest.raises(InputError, match=r"layer 'c\.conv' has weights"):
        converted(graph, allocation={"c.conv": TermLimits(2, most)})


def test_the_price_of_a_term_is_in_units_of_the_mean_squared_output():
    graph = residual_network()
    stem = graph.nodes[0]
    assert stem.weight is not None and stem.bias is not None
    # The whole network in other units: outputs 8 times as large, errors 64 times.
    loud = replace(stem, weight=stem.weight * 8, bias=stem.bias * 8)
    other = replace(graph, nodes=(loud, *graph.nodes[1:]))
    large = converted(
        other, terms=2, equalize=False, allocation={"stem.conv": TermLimits(2, price=64e-4)}
    )
    small = converted(
        graph, terms=2, equalize=False, allocation={"stem.conv": TermLimits(2, price=1e-4)}
    )
    np.testing.assert_array_equal(
        small.plan.layers["stem.conv"].codes, large.plan.layers["stem.conv"].codes
    )


def test_memory_does_not_grow_with_the_calibration_images():
    graph = residual_network()
    peaks = []
    for count in (4, 40):

        def batches(count: int = count) -> Iterator[dict[str, np.ndarray]]:
            for seed in range(count):
                yield images(graph, 16, seed)

        tracemalloc.start()
        report = convert(graph, batches, ConvertOptions(correction_images=32)).report
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (report.calibration_images, report.correction_images) == (16 * count, 32)
    # Images in plenty leave more of a sample of each tensor, up to a limit of its own.
    assert peaks[1] < peaks[0] + len(graph.shapes) * 4 * SAMPLE_SIZE
