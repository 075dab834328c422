from __future__ import annotations

import math

import numpy as np

from tests.convert.networks import Builder, residual_network, separable_network, window
from tvm_shiftadd.convert.storage import stored


def test_a_residual_network_stores_what_layers_read():
    storage = stored(residual_network())
    assert storage.tensors == {
        "x", "stem", "a", "first", "c", "second", "mean", "flat",
    }  # fmt: skip
    shared = [set(group) for group in storage.groups if len(group) > 1]
    assert shared == [{"mean", "flat"}]


def test_the_result_of_the_last_layer_stays_wide():
    assert "scores" not in stored(separable_network()).tensors


def test_two_readers_need_a_stored_tensor():
    b = Builder((-1, 4, 4, 2))
    b.conv("one", "x", 2)
    b.conv("two", "one", 2)
    b.plus("sum", "two", "one")
    storage = stored(b.graph("sum"))
    assert "one" in storage.tensors
    assert {"two", "sum"}.isdisjoint(storage.tensors)


def test_a_tensor_added_to_itself_is_stored():
    b = Builder((-1, 4, 4, 2))
    b.plus("sum", b.conv("one", "x", 2), "one")
    assert stored(b.graph("sum")).tensors == {"x", "one"}


def test_a_clip_is_requantised_before_an_addition_and_at_the_end():
    b = Builder((-1, 4, 4, 2))
    b.relu("clipped", b.conv("one", "x", 2))
    b.plus("sum", "clipped", b.conv("two", "x", 2))
    b.relu("last", "sum")
    storage = stored(b.graph("last"))
    assert storage.tensors == {"x", "clipped", "last"}


def test_a_clip_of_int8_shares_its_exponent_and_only_the_result_is_measured():
    b = Builder((-1, 4, 4, 2))
    b.conv("one", "x", 2)
    b.relu("positive", "one")
    b.conv("two", "one", 2)
    b.conv("three", "positive", 2)
    storage = stored(b.graph("two", "three"))
    group = next(g for g in storage.groups if "one" in g)
    assert set(group) == {"one", "positive"}
    # "one" is read by a convolution, too, so its values count as well.
    assert set(storage.measured[storage.groups.index(group)]) == {"one", "positive"}

    c = Builder((-1, 4, 4, 2))
    c.relu("positive", "x")
    c.conv("three", "positive", 2)
    storage = stored(c.graph("three"))
    assert storage.groups == (("x", "positive"),)
    assert storage.measured == (("positive",),)


def test_concatenation_joins_all_exponents():
    b = Builder((-1, 4, 4, 2))
    b.relu("left", b.conv("one", "x", 2))
    b.add("right", "max_pool2d", "x", (-1, 4, 4, 2), **window((1, 1), (1, 1)))
    b.add("both", "concat", "left right", (-1, 4, 4, 4), axis=3)
    b.conv("two", "both", 2)
    groups = [set(group) for group in stored(b.graph("two")).groups]
    # x is read by a convolution and by the pool; the pool hands its exponent on.
    assert groups == [{"x", "left", "right", "both"}]


def test_host_operators_read_accumulators_and_feed_stored_tensors():
    b = Builder((-1, 4, 4, 2))
    b.conv("one", "x", 2)
    b.add("tanh", "host", "one", (-1, 4, 4, 2), evaluate=np.tanh)
    b.conv("two", "tanh", 2)
    storage = stored(b.graph("two"))
    assert storage.tensors == {"x", "tanh"}


def test_a_clip_of_a_clip_stays_one_chain():
    b = Builder((-1, 4, 4, 2))
    b.add("low", "clip", b.conv("one", "x", 2), (-1, 4, 4, 2), lo=0.0, hi=math.inf)
    b.add("high", "clip", "low", (-1, 4, 4, 2), lo=-1.0, hi=3.0)
    b.conv("two", "high", 2)
    assert stored(b.graph("two")).tensors == {"x", "high"}
