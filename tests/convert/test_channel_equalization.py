from __future__ import annotations

import math

import numpy as np
import pytest

from tests.convert.networks import (
    Builder,
    images,
    residual_network,
    separable_network,
    window,
)
from tvm_shiftadd.convert.equalize import MAX_GAIN, equalize, full_range
from tvm_shiftadd.convert.execute import run_float
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.storage import stored


def scaled(
    graph: Graph, count: int = 40, unsigned: bool = True
) -> tuple[Graph, dict[str, np.ndarray]]:
    feeds = images(graph, count)
    return equalize(graph, stored(graph, unsigned), feeds), feeds


def uneven(graph: Graph) -> Graph:
    """The same network with output channels of every layer but the last of different sizes."""
    for node in graph.nodes[:-1]:
        if node.weight is not None and node.bias is not None:
            factors = np.float32(2.0) ** (np.arange(node.weight.shape[-1]) % 5 - 3)
            node.weight[...] *= factors
            node.bias[...] *= factors
    return graph


@pytest.mark.parametrize("make", [residual_network, separable_network])
def test_the_float_network_stays_the_same(make):
    graph = uneven(make())
    other, feeds = scaled(graph)
    assert any(
        not np.array_equal(a.weight, b.weight)
        for a, b in zip(graph.nodes, other.nodes, strict=True)
        if a.weight is not None
    )
    np.testing.assert_allclose(
        run_float(other, feeds)["scores"], run_float(graph, feeds)["scores"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("unsigned", "most"), [(False, 127), (True, 255)])
def test_channels_fill_the_range_of_their_type(unsigned: bool, most: int):
    graph = uneven(separable_network())
    other, feeds = scaled(graph, unsigned=unsigned)
    for name in ("stem", "deep"):
        before = np.abs(run_float(graph, feeds, keep=(name,))[name]).max((0, 1, 2))
        after = np.abs(run_float(other, feeds, keep=(name,))[name]).max((0, 1, 2))
        assert np.ptp(before) > 0.5 * before.max()
        top = before.max()
        wanted = full_range(float(top), most) * np.minimum(before * MAX_GAIN / top, 1)
        np.testing.assert_allclose(after, wanted, rtol=1e-5)
        assert np.median(after) > 2 * np.median(before)


@pytest.mark.parametrize(("unsigned", "end"), [(False, 127 / 4096), (True, 255 / 8192)])
def test_the_end_of_a_clip_becomes_what_a_stored_tensor_saturates_at(unsigned: bool, end: float):
    b = Builder((-1, 4, 4, 3))
    b.relu("low", b.conv("one", "x", 4), 0.05)
    b.conv("two", "low", 2)
    graph = b.graph("two")
    other, feeds = scaled(graph, unsigned=unsigned)
    assert other.nodes[1].attrs["hi"] == end
    np.testing.assert_allclose(
        run_float(other, feeds)["two"], run_float(graph, feeds)["two"], rtol=1e-4, atol=1e-6
    )
    assert other.nodes[1].attrs["lo"] == 0.0
    assert graph.nodes[1].attrs["hi"] == 0.05


@pytest.mark.parametrize("most", [127, 255])
@pytest.mark.parametrize("top", [1.0, 0.3, 6.0, 127.0, 1e-6])
def test_the_full_range_is_at_most_the_top_and_more_than_half(top: float, most: int):
    full = full_range(top, most)
    assert top / 2 < full <= top
    assert math.frexp(full / most)[0] == 0.5


def unchanged(b: Builder, *outputs: str) -> bool:
    graph = b.graph(*outputs)
    other, _ = scaled(uneven(graph), 4)
    return all(
        a.weight is b.weight and a.attrs == b.attrs
        for a, b in zip(graph.nodes, other.nodes, strict=True)
    )


def test_tensors_the_host_or_the_caller_sees_are_left_alone():
    b = Builder((-1, 4, 4, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.conv("two", "one", 2)
    assert not unchanged(b, "two")
    assert unchanged(b, "two", "one")
    b.add("tanh", "host", "one", (-1, 4, 4, 4), evaluate=np.tanh)
    assert unchanged(b, "two")


def test_channels_that_are_mixed_up_are_left_alone():
    for op, attrs in (
        ("permute", {"axes": (0, 3, 2, 1)}),
        ("concat", {"axis": 3}),
        ("slice", {"axes": [3], "begin": [0], "end": [2], "strides": [1]}),
        ("pad", {"pad_width": ((0, 0), (0, 0), (0, 0), (1, 1))}),
    ):
        b = Builder((-1, 4, 4, 3))
        b.relu("one", b.conv("one.conv", "x", 4))
        shape = {"slice": (-1, 4, 4, 2), "pad": (-1, 4, 4, 6)}.get(op, (-1, 4, 4, 4))
        b.add("moved", op, "one", shape, **attrs)
        b.conv("two", "moved", 2)
        assert unchanged(b, "two"), op


def test_pooling_and_movements_of_positions_pass_channels_on():
    b = Builder((-1, 4, 4, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.add("pool", "max_pool2d", "one", (-1, 2, 2, 4), **window((2, 2), (2, 2)))
    b.add("edge", "pad", "pool", (-1, 3, 2, 4), pad_width=((0, 0), (0, 1), (0, 0), (0, 0)))
    b.add("turn", "permute", "edge", (-1, 2, 3, 4), axes=(0, 2, 1, 3))
    b.conv("two", "turn", 2)
    graph = uneven(b.graph("two"))
    other, feeds = scaled(graph)
    after = run_float(other, feeds, keep=("turn",))["turn"].max((0, 1, 2))
    assert np.ptp(after) < 1e-5 * after.max()
    np.testing.assert_allclose(
        run_float(other, feeds)["two"], run_float(graph, feeds)["two"], rtol=1e-4, atol=1e-5
    )


def test_dead_and_faint_channels_do_not_explode():
    b = Builder((-1, 4, 4, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.conv("two", "one", 2)
    graph = b.graph("two")
    weight, bias = graph.nodes[0].weight, graph.nodes[0].bias
    assert weight is not None and bias is not None
    weight[..., 0] = 0
    bias[0] = -1
    weight[..., 1] *= 1e-6
    bias[1] *= 1e-6
    other, _ = scaled(graph)
    changed = other.nodes[0]
    assert changed.weight is not None and changed.bias is not None
    assert abs(changed.bias[0]) <= MAX_GAIN
    assert np.abs(changed.weight[..., 1]).max() <= MAX_GAIN * 1.01 * np.abs(weight[..., 1]).max()
