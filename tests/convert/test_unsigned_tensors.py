"""Stored tensors that are never negative are uint8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.convert.networks import Builder, images, residual_network, separable_network, window
from tvm_shiftadd.convert import ConvertOptions, Plan, convert, prove_plan, run_float, run_integer
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.prove import stored_bounds
from tvm_shiftadd.convert.storage import stored
from tvm_shiftadd.errors import ConversionError, RangeError


def positive(b: Builder, *outputs: str) -> frozenset[str]:
    storage = stored(b.graph(*outputs))
    assert storage.unsigned <= storage.tensors
    return storage.unsigned


def test_what_a_relu_ends_and_its_averages_are_unsigned():
    storage = stored(residual_network())
    assert storage.unsigned == storage.tensors - {"x"}
    assert (storage.dtype("stem"), storage.dtype("x")) == ("uint8", "int8")
    assert not stored(residual_network(), unsigned=False).unsigned


@pytest.mark.parametrize(
    ("lo", "hi", "unsigned"),
    [(0.0, 6.0, True), (0.5, 6.0, True), (-0.1, 6.0, False), (-1.0, 1.0, False)],
)
def test_a_clip_decides_by_its_lower_end(lo: float, hi: float, unsigned: bool):
    b = Builder((-1, 4, 4, 2))
    b.add("low", "clip", b.conv("one", "x", 2), b.shapes["one"], lo=lo, hi=hi)
    b.conv("two", "low", 2)
    assert positive(b, "two") == ({"low"} if unsigned else set())


def test_moves_pools_and_sums_of_such_tensors_are_unsigned():
    b = Builder((-1, 4, 4, 2))
    b.relu("a", b.conv("a.conv", "x", 2))
    b.add("pad", "pad", "a", (-1, 6, 6, 2), pad_width=((0, 0), (1, 1), (1, 1), (0, 0)))
    b.add("max", "max_pool2d", "pad", (-1, 3, 3, 2), **window((2, 2), (2, 2)))
    b.add("up", "upsample2d", "max", (-1, 6, 6, 2), scale=(2, 2))
    b.plus("sum", "up", "pad")
    b.conv("last", "sum", 2)
    assert positive(b, "last") == {"a", "pad", "max", "up", "sum"}


def test_a_clip_of_an_unsigned_tensor_stays_so():
    b = Builder((-1, 4, 4, 2))
    b.relu("a", b.conv("a.conv", "x", 2))
    b.add("c", "clip", "a", b.shapes["a"], lo=-1.0, hi=2.0)
    b.conv("last", "c", 2)
    assert positive(b, "last", "a") == {"a", "c"}


def test_inputs_and_results_of_the_host_are_signed():
    b = Builder((-1, 4, 4, 2))
    b.relu("a", b.conv("a.conv", "x", 2))
    b.add("exp", "host", "a", b.shapes["a"], evaluate=np.exp)
    b.conv("last", "exp", 2)
    assert positive(b, "last") == {"a"}


def test_tensors_that_share_a_scale_have_one_type():
    # A stored tensor and its ReLU share the scale, and the tensor has both signs.
    b = Builder((-1, 4, 4, 2))
    b.conv("one", "x", 2)
    b.relu("half", "one")
    b.conv("two", "one", 2)
    b.conv("three", "half", 2)
    assert not positive(b, "two", "three")


def test_what_adder_layers_read_is_signed():
    b = Builder((-1, 4, 4, 2))
    b.relu("a", b.conv("a.conv", "x", 2))
    b.add("pool", "max_pool2d", "a", (-1, 2, 2, 2), **window((2, 2), (2, 2)))
    b.relu("b", b.conv("b.conv", "a", 2))
    weight = np.ones((1, 1, 2, 2), np.float32)
    where = {"strides": (1, 1), "padding": (0, 0, 0, 0)}
    b.add("adder", "adder_conv2d", "pool", (-1, 2, 2, 2), weight=weight, **where)
    b.conv("last", "b", 2)
    assert positive(b, "adder", "last") == {"b"}


def joined() -> Graph:
    """A signed and an unsigned map, the unsigned one with another reader, joined."""
    b = Builder((-1, 4, 4, 2))
    b.relu("a", b.conv("a.conv", "x", 2))
    b.conv("s", "x", 2)
    b.add("joined", "concat", "s a", (-1, 4, 4, 4), axis=3)
    b.conv("last", "joined", 2)
    b.conv("other", "a", 2)
    return b.graph("last", "other")


def test_a_concatenation_brings_an_unsigned_input_to_its_own_type():
    graph = joined()
    storage = stored(graph)
    assert storage.unsigned == {"a"}
    feeds = images(graph, 16)
    plan = convert(graph, lambda: [feeds], ConvertOptions(unsigned=True)).plan
    taps = run_integer(graph, plan, feeds, keep=("a", "joined", "s"))[1]
    assert (taps["a"].values.dtype, taps["joined"].values.dtype) == (np.uint8, np.int8)
    # Of one scale but two types: only values up to 127 stay.
    same = replace(plan, exponents=dict.fromkeys(plan.exponents, 7))
    taps = run_integer(graph, same, feeds, keep=("a", "joined"))[1]
    kept = np.minimum(taps["a"].values, 127)
    assert taps["a"].values.max() > 127
    np.testing.assert_array_equal(taps["joined"].values[..., 2:], kept)
    prove_plan(graph, plan)


def test_values_above_127_are_used():
    graph = separable_network()
    feeds = images(graph, 64)
    plans = [
        convert(graph, lambda: [feeds], ConvertOptions(terms=3, unsigned=unsigned)).plan
        for unsigned in (False, True)
    ]
    assert plans[0].unsigned == frozenset()
    assert plans[1].unsigned == stored(graph).unsigned != frozenset()
    taps = run_integer(graph, plans[1], feeds, keep=("stem", "deep"))[1]
    assert all(taps[name].values.dtype == np.uint8 for name in taps)
    assert max(int(tap.values.max()) for tap in taps.values()) > 127


def test_one_bit_more_lowers_the_error():
    graph = residual_network()
    feeds, fresh = images(graph, 100), images(graph, 100, seed=2)
    real = run_float(graph, fresh)["scores"]

    def error(unsigned: bool) -> float:
        options = ConvertOptions(terms=3, unsigned=unsigned)
        plan = convert(graph, lambda: [feeds], options).plan
        return float(np.std(run_integer(graph, plan, fresh)[0]["scores"] - real))

    # The input, which is signed, adds the same to both.
    assert error(True) < 0.85 * error(False)


def test_bounds_are_those_of_the_type():
    plan = Plan({}, {"a": 3, "b": 4}, {}, frozenset({"b"}))
    for name, ends in (("a", (-128, 127)), ("b", (0, 255))):
        bounds = stored_bounds(name, plan)
        assert (int(bounds.lo[0]), int(bounds.hi[0])) == ends


def test_a_layer_of_unsigned_inputs_is_proved_for_them():
    b = Builder((-1, 1, 1, 2))
    b.relu("a", b.conv("a.conv", "x", 2, kernel=1))
    b.conv("last", "a", 1, kernel=1)
    graph = b.graph("last")
    feeds = images(graph, 8)
    plan = convert(graph, lambda: [feeds], ConvertOptions(unsigned=True, finer=False)).plan
    layer = plan.layers["last"]
    codes = np.full_like(layer.codes, 0)
    codes[0] = 7
    # 2 * 64 * 127 leaves this bias its room, 2 * 64 * 255 does not.
    bias = np.full_like(layer.bias, 2**31 - 1 - 2 * 64 * 200)
    spoiled = replace(plan, layers={**plan.layers, "last": replace(layer, codes=codes, bias=bias)})
    with pytest.raises(RangeError, match="last"):
        prove_plan(graph, spoiled)
    prove_plan(graph, replace(spoiled, unsigned=frozenset()))


def test_a_type_that_changes_on_the_way_is_refused():
    b = Builder((-1, 4, 4, 2))
    b.add("max", "max_pool2d", "x", (-1, 2, 2, 2), **window((2, 2), (2, 2)))
    graph = b.graph("max")
    plan = Plan({}, {"x": 4, "max": 4}, {}, frozenset({"max"}))
    with pytest.raises(ConversionError, match="keeps the exponent 4 and the type int8"):
        run_integer(graph, plan, images(graph, 1))
