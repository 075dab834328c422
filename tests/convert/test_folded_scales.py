from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.networks import Builder, images, residual_network, separable_network
from tvm_shiftadd.convert import ConvertOptions, Graph, convert, run_float, run_integer
from tvm_shiftadd.convert.compensate import compensated_search
from tvm_shiftadd.convert.fold import Outlet, averages_of, choose_folded_scales, outlets
from tvm_shiftadd.convert.moments import Moments
from tvm_shiftadd.convert.plan import Plan
from tvm_shiftadd.convert.report import snr_db
from tvm_shiftadd.convert.storage import stored
from tvm_shiftadd.convert.terms import Limits, TermLimits, choose_scales, scale
from tvm_shiftadd.formats import codes

ONE = TermLimits(1)


def names(graph: Graph) -> set[str]:
    return set(outlets(graph, Plan({}, dict.fromkeys(stored(graph).tensors, 5))))


def test_only_channels_of_one_layer_that_layers_read_are_scaled():
    assert names(separable_network()) == {"stem.conv", "deep.conv", "wide.conv"}
    assert names(residual_network()) == {"a.conv", "c.conv"}
    b = Builder((-1, 4, 4, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.conv("two", "one", 2)
    assert names(b.graph("two")) == {"one.conv"}
    assert not names(b.graph("two", "one"))


def test_a_clip_further_on_that_would_end_channels_elsewhere_forbids_scaling():
    for hi, found in ((math.inf, {"one.conv"}), (0.5, set())):
        b = Builder((-1, 4, 4, 3))
        b.relu("one", b.conv("one.conv", "x", 4))
        b.add("pool", "max_pool2d", "one", (-1, 2, 2, 4), pool_size=(2, 2), strides=(2, 2),
              padding=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False)  # fmt: skip
        b.relu("again", "pool", hi)
        b.conv("two", "again", 2)
        assert names(b.graph("two")) == found


def test_the_error_of_storing_is_that_of_int8():
    outlet = Outlet(("y",), 4, (0, 96), (0.0, 6.0))
    values = np.linspace(-3, 9, 400, dtype=np.float32)[:, None]
    gains = np.array([0.5, 1.0, 2.0])
    wanted = np.clip(values, 0, 6)
    errors, passed = outlet.error(values, {}, gains)
    for gain, error in zip(gains, errors[:, 0], strict=True):
        kept = np.clip(np.rint(values * gain * 16), 0, 96) / 16 / gain
        assert error == pytest.approx(np.square(kept - wanted).mean(), rel=1e-4)
    # Half the gain lets values above 6 pass; twice the gain ends those above 3.
    assert errors[1, 0] < errors[[0, 2], 0].min()
    assert passed[0] == pytest.approx(0.5, abs=0.01)


def test_averages_are_rounded_again_and_count_relative_to_their_spread():
    values = np.random.default_rng(0).uniform(-3, 3, (800, 1)).astype(np.float32)
    mean = values[:50] * np.float32(0.1)
    gains = np.array([0.5, 1.0, 2.0])
    alone = Outlet(("y", "mean"), 5).error(values, {}, gains)[0]
    both = Outlet(("y", "mean"), 5, averages={"mean": 6}).error(values, {"mean": mean}, gains)[0]
    # An average of 3 is beyond 127 / 64, but not beyond 255 / 64.
    high = np.array([[3.0], [1.0]], np.float32)
    signed, unsigned = (
        Outlet(("y",), 5, averages={"mean": 6}, unsigned=names).error(high, {"mean": high}, gains)
        for names in (frozenset[str](), frozenset({"mean"}))
    )
    assert signed[0][1, 0] > 0.5 > unsigned[0][1, 0]
    rounding = 1 / 12 / 64**2 / gains**2 * values.var() / mean.var()
    np.testing.assert_allclose((both - alone)[:, 0], rounding, rtol=0.3)
    graph = separable_network()
    storage = stored(graph)
    plan = Plan({}, dict.fromkeys(storage.tensors, 5), {}, storage.unsigned)
    outlet = outlets(graph, plan)["wide.conv"]
    assert outlet.averages == {"mean": 5}
    assert outlet.unsigned == {"mean"}
    assert outlet.bounds == (0, 192)
    signed = outlets(graph, replace(plan, unsigned=frozenset()))["wide.conv"]
    assert (signed.bounds, signed.unsigned) == ((0, 127), frozenset())
    kept = run_float(graph, images(graph, 6), keep=("wide.conv", "mean"))
    node = next(n for n in graph.nodes if n.name == "wide.conv")
    found = averages_of(graph, outlet, node, kept["wide.conv"])
    np.testing.assert_allclose(found["mean"], kept["mean"].reshape(6, 16), rtol=1e-6)


def moments(groups: int, reduction: int, made: int) -> Moments:
    random = np.random.default_rng(5)
    mixing = random.standard_normal((groups, reduction, reduction)) * 20
    hessian = mixing @ mixing.transpose(0, 2, 1) + 40 * np.eye(reduction)
    return Moments(hessian, random.standard_normal((groups, reduction, made)) / reduction)


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("reduction", [9, 40])
def test_folded_scales_lose_less_than_powers_of_two(groups: int, reduction: int):
    given = moments(groups, reduction, 4)
    channels = groups * 4
    diagonal = np.einsum("gnn->gn", given.hessian)
    limits = Limits(5, np.zeros(channels), 5)
    search = compensated_search(given, ONE)
    values = np.random.default_rng(1).standard_normal((500, channels)).astype(np.float32)
    outlet = Outlet(("y",), 5, (-128, 127), (-math.inf, math.inf))
    found = choose_folded_scales(given.ideal, diagonal, ONE, search, limits, outlet, values, {})
    assert found is not None
    whole = choose_scales("l", given.ideal, ONE, search, limits)
    loss = []
    for integers, exponent, gain in (found, (*whole, np.ones(channels))):
        codes.encode(integers, 1)
        kept = scale(integers.astype(float), -exponent) / gain
        difference = kept.reshape(reduction, groups, 4).transpose(1, 0, 2) - given.ideal
        loss.append(np.einsum("gno,gnk,gko->", difference, given.hessian, difference))
    assert loss[0] < 0.75 * loss[1]
    assert (found[2] > 0.5).all() and (found[2] <= 2).all()


def chosen_gains(values: np.ndarray) -> np.ndarray:
    """The gains of eight channels with these values, whose weights' errors hardly count."""
    given = moments(1, 9, 8)
    outlet = Outlet(("y",), 5, (0, 127), (0.0, math.inf))
    found = choose_folded_scales(
        given.ideal,
        np.ones((1, 9)),
        ONE,
        compensated_search(given, ONE),
        Limits(12, np.zeros(8), 5),
        outlet,
        values,
        {},
    )
    assert found is not None
    return found[2]


def test_scales_that_would_saturate_are_not_chosen():
    # Values fill 125 of 127 steps.
    assert (chosen_gains(np.full((100, 8), 3.9, np.float32)) <= 1).all()


@pytest.mark.parametrize(("start", "step"), [(1, 2), (100, 512)])
def test_scales_that_would_saturate_some_of_many_values_are_not_chosen(start: int, step: int):
    values = np.random.default_rng(0).uniform(0, 0.6, (1 << 18, 8)).astype(np.float32)
    values[start::step] = 3.9
    assert (chosen_gains(values) <= 1.05).all()


def output_snr(graph: Graph, fold: bool, terms: int) -> float:
    feeds = images(graph, 64)
    # Factors would make up for some of what folding does.
    options = ConvertOptions(terms=terms, fold=fold, finer=False)
    plan = convert(graph, lambda: [feeds], options).plan
    test = images(graph, 200, seed=9)
    wanted = run_float(graph, test)["scores"]
    ratio = snr_db(wanted - wanted.mean(0), run_integer(graph, plan, test)[0]["scores"] - wanted)
    assert ratio is not None
    return ratio


@pytest.mark.parametrize(("terms", "gain"), [(1, 0.2), (2, 1.0)])
def test_folding_helps_networks_of_small_reductions(terms: int, gain: float):
    graphs = [separable_network(seed) for seed in range(3)]
    on = [output_snr(graph, True, terms) for graph in graphs]
    off = [output_snr(graph, False, terms) for graph in graphs]
    assert np.mean(on) > np.mean(off) + gain


def test_gains_turn_up_in_the_scaled_network_and_the_integers():
    graph = separable_network()
    feeds = images(graph, 64)
    result = convert(graph, lambda: [feeds], ConvertOptions(terms=3))
    plain = convert(graph, lambda: [feeds], ConvertOptions(terms=3, fold=False))
    wanted = run_float(result.scaled, feeds, keep=("deep",))["deep"]
    tensor = run_integer(graph, result.plan, feeds, keep=("deep",))[1]["deep"]
    have = np.ldexp(tensor.values.astype(np.float32), -tensor.exponent)
    ratio = snr_db(wanted, have - wanted)
    assert ratio is not None and ratio > 25
    unfolded = run_float(plain.scaled, feeds, keep=("deep",))["deep"]
    factor = wanted.max((0, 1, 2)) / unfolded.max((0, 1, 2))
    assert np.ptp(factor) > 0.1
