"""Weights that are sums of powers of two are found, whatever factor a batch norm has left."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_shiftadd.convert import (
    Conversion,
    ConvertOptions,
    Graph,
    Node,
    convert,
    run_float,
    run_integer,
)
from tvm_shiftadd.convert.exact import MAX_TAIL_ERROR, exact_terms, keep
from tvm_shiftadd.convert.terms import Limits, TermLimits
from tvm_shiftadd.formats import codes


def trained(terms: int, rows: int = 36, channels: int = 8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).choice(codes.representable(terms), (rows, channels))
    values[0] = codes.representable(terms)[-1]
    return values


def factors(channels: int = 8) -> np.ndarray:
    return np.random.default_rng(9).uniform(0.01, 3, channels)


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("folded", [False, True])
def test_found_as_they_were_trained(terms: int, folded: bool) -> None:
    values = trained(terms)
    scale = factors() if folded else np.ldexp(1.0, -np.arange(8))
    weight = values.astype(np.float32) * np.float32(0.75) / np.float32(0.75)
    weight = (weight * scale.astype(np.float32)).astype(np.float32)
    found = exact_terms(weight, 3)
    assert found is not None and found.exact
    assert found.terms == terms
    np.testing.assert_allclose(found.values * found.scale, weight, rtol=1e-6)
    assert (np.abs(found.values) <= np.abs(values)).all(), "no larger than needed"


def test_no_more_terms_than_allowed() -> None:
    assert exact_terms(trained(2) * 0.3, 1) is None
    found = exact_terms(trained(2) * 0.3, 2)
    assert found is not None and found.terms == 2


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_other_weights_are_not(terms: int) -> None:
    rng = np.random.default_rng(1)
    assert exact_terms(rng.normal(size=(9, 4)).astype(np.float32), terms) is None
    assert exact_terms(rng.normal(size=(500, 4)).astype(np.float32), terms) is None
    # One weight that is a little off.
    weight = trained(terms).astype(np.float64)
    weight[20, 3] += 0.01
    assert exact_terms(weight, terms) is None
    # Too few to tell.
    assert exact_terms(rng.normal(size=(3, 4)), terms) is None


def test_channels_without_weights() -> None:
    weight = trained(1).astype(np.float64)
    weight[:, 2] = 0
    found = exact_terms(weight, 1)
    assert found is not None and not found.values[:, 2].any()
    nothing = exact_terms(np.zeros((9, 3)), 1)
    assert nothing is not None and not nothing.values.any() and (nothing.scale == 1).all()


def test_powers_of_two_that_are_far_apart_lose_the_smallest() -> None:
    exponents = np.random.default_rng(0).choice(np.arange(-6, 1), (200, 4))
    exponents[:3] = [[-9], [-12], [-7]]
    exponents[3] = 0
    weight = np.ldexp(1.0, exponents) * factors(4)
    found = exact_terms(weight, 3)
    assert found is not None and not found.exact and found.terms == 1
    off = np.sqrt(np.square(found.values * found.scale - weight).sum() / np.square(weight).sum())
    assert found.error == pytest.approx(off) and 0 < off < MAX_TAIL_ERROR
    kept = exponents >= -6
    np.testing.assert_array_equal(np.abs(found.values)[kept], np.ldexp(64.0, exponents)[kept])
    # Where most of a channel would be lost, it is no such layer.
    exponents[4:] = -9
    assert exact_terms(np.ldexp(1.0, exponents), 1) is None


def test_two_terms_that_are_far_apart() -> None:
    # ShiftCNN's: the layer over its largest weight, terms from 1 to 2^-6 and from 1/2 to 2^-7.
    rng = np.random.default_rng(0)
    terms = [np.ldexp(1.0, -rng.integers(n, n + 7, (300, 6))) for n in (0, 1)]
    signs = rng.choice([-1, 0, 1], (2, 300, 6))
    weight = 0.37 * (terms[0] * signs[0] + terms[1] * signs[1])
    found = exact_terms(weight, 2)
    assert found is not None and found.terms == 2
    assert 0 < found.error < MAX_TAIL_ERROR
    assert exact_terms(weight, 1) is None


def limits(output: int | None = 4, bias: float = 0.0, channels: int = 8) -> Limits:
    return Limits(5, np.full(channels, bias), output)


def test_plain_powers_need_no_factor() -> None:
    weight = trained(2) * np.ldexp(1.0, -np.arange(8))
    found = exact_terms(weight, 2)
    assert found is not None
    kept = keep(found, limits())
    assert kept is not None and kept.factor is None
    np.testing.assert_array_equal(np.ldexp(kept.values.astype(float), -kept.exponent), weight)


def test_a_factor_is_three_copies_of_the_accumulator() -> None:
    found = exact_terms(trained(1) * factors(), 1)
    assert found is not None
    kept = keep(found, limits())
    assert kept is not None and kept.factor is not None
    assert kept.factor.codes.shape[0] <= 3
    real = np.ldexp(kept.multiplier, -kept.exponent)
    assert np.abs(real / found.scale - 1).max() < 0.024


def test_a_factor_is_coarser_where_int32_has_less_room() -> None:
    rows = 9000
    found = exact_terms(trained(1, rows) * factors(), 1)
    assert found is not None
    kept = keep(found, limits())
    assert kept is not None and kept.factor is not None
    reach = np.abs(kept.values).sum(axis=0) * 128.0 * codes.decode(kept.factor.codes)
    assert reach.max() < 2**31
    assert keep(found, limits(bias=1e9)) is None


def test_channels_that_never_move_the_output_are_left_out() -> None:
    scale = factors()
    scale[3] = 1e-14
    found = exact_terms(trained(1) * scale, 1)
    assert found is not None
    kept = keep(found, limits(bias=1.5))
    assert kept is not None and kept.exact
    assert not kept.values[:, 3].any() and kept.values[0].astype(bool).sum() == 7
    assert abs(np.ldexp(1.5, kept.exponent[3] + 5)) < 2**20, "its bias must fit"
    # A result read in float may be as small as it likes.
    wide = keep(found, limits(None))
    assert wide is not None and wide.values[:, 3].any()


def network(terms: int, factor: bool) -> Graph:
    """Convolution, ReLU, dense; both layers made of sums of powers of two."""
    rng = np.random.default_rng(3)
    conv = rng.choice(codes.representable(terms), (3, 3, 4, 8)) * 2.0**-9
    dense = rng.choice(codes.representable(terms), (8 * 36, 5)) * 2.0**-9
    conv = conv * (factors() if factor else 1.0)
    attrs = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    bias = rng.normal(size=8).astype(np.float32)
    nodes = (
        Node("conv", "conv2d", ("x",), "conv", attrs, conv.astype(np.float32), bias),
        Node("relu", "clip", ("conv",), "relu", {"lo": 0.0, "hi": float("inf")}),
        Node("flat", "reshape", ("relu",), "flat", {"shape": (-1, 288)}),
        Node("dense", "dense", ("flat",), "y", {}, dense.astype(np.float32)),
    )
    shapes = {"x": (-1, 6, 6, 4), "conv": (-1, 6, 6, 8), "relu": (-1, 6, 6, 8)}
    return Graph(nodes, ("x",), ("y",), shapes | {"flat": (-1, 288), "y": (-1, 5)})


def converted(graph: Graph, terms: int) -> Conversion:
    x = np.random.default_rng(5).normal(size=(24, 6, 6, 4)).astype(np.float32)
    return convert(graph, lambda: iter([{"x": x}]), ConvertOptions(terms=terms))


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("factor", [False, True])
def test_a_conversion_keeps_the_weights(terms: int, factor: bool) -> None:
    graph = network(terms, factor)
    result = converted(graph, terms)
    assert [layer.exact for layer in result.report.layers] == [True, True]
    layers = result.plan.layers
    assert (layers["conv"].factor is None) != factor
    assert layers["dense"].factor is None
    values = codes.decode(layers["dense"].codes)
    real = np.ldexp(values.astype(np.float64), -layers["dense"].weight_exponent)
    np.testing.assert_array_equal(real, graph.nodes[3].weight)
    assert result.report.layers[1].weight_error == 0.0
    assert result.report.layers[0].weight_error < (0.024 if factor else 1e-9)
    x = {"x": np.random.default_rng(6).normal(size=(16, 6, 6, 4)).astype(np.float32)}
    wanted, got = run_float(graph, x)["y"], run_integer(graph, result.plan, x)[0]["y"]
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)


def test_more_terms_than_allowed_are_rounded() -> None:
    result = converted(network(2, True), 1)
    assert [layer.exact for layer in result.report.layers] == [False, False]
    assert result.report.layers[0].weight_error > 0.01
    most = np.zeros((36, 8), np.uint8)
    options = ConvertOptions(terms=2, allocation={"conv": TermLimits(2, most)})
    x = np.random.default_rng(5).normal(size=(24, 6, 6, 4)).astype(np.float32)
    limited = convert(network(2, True), lambda: iter([{"x": x}]), options)
    assert [layer.exact for layer in limited.report.layers] == [False, True]
