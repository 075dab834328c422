"""Each kind of layer loses less where the errors of its weights are made to cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.convert.networks import Builder
from tvm_shiftadd.convert import ConvertOptions, Graph, convert, run_float, run_integer
from tvm_shiftadd.convert import blocks as blocks_module
from tvm_shiftadd.convert import sequence as sequence_module
from tvm_shiftadd.convert.moments import gather, total
from tvm_shiftadd.convert.operators import run_node
from tvm_shiftadd.convert.report import snr_db
from tvm_shiftadd.convert.terms import TermLimits, group_weight


def smooth(graph: Graph, count: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs in which neighbours resemble each other, as in pictures."""
    shape = (count, *graph.shapes["x"][1:])
    x = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(1, len(shape)):
        x = sum(np.roll(x, step, axis) for step in range(3)) / 1.7
    return {"x": x.astype(np.float32)}


def snr(graph: Graph, **options: Any) -> float:
    feeds = smooth(graph, 60, 1)
    plan = convert(graph, lambda: [feeds], ConvertOptions(**options)).plan
    test = smooth(graph, 60, 2)
    (name,) = graph.outputs
    wanted = run_float(graph, test)[name]
    ratio = snr_db(wanted - wanted.mean(0), run_integer(graph, plan, test)[0][name] - wanted)
    assert ratio is not None
    return ratio


def transposed(stride: int, kernel: int = 4, dilation: int = 1, more: int = 0) -> Graph:
    b = Builder((-1, 6, 6, 5))
    reach = dilation * (kernel - 1) + 1
    size = 5 * stride + reach - 2 + more
    b.add(
        "up", "conv2d_transpose", "x", (-1, size, size, 4), strides=(stride, stride),
        padding=(1, 0, 1, 2), output_padding=(more, more), dilation=(dilation, dilation),
        groups=1, weight=b.normal((kernel, kernel, 5, 4), 0.2), bias=b.normal((4,), 0.1),
    )  # fmt: skip
    b.shapes["up"] = (-1, size, size, 4)
    return b.graph("up")


@pytest.mark.parametrize("options", [(1, 3), (2, 4), (3, 2), (2, 3, 2), (3, 3, 1, 2)])
def test_windows_of_a_transposed_convolution_make_its_result(options: tuple[int, ...]):
    node = transposed(*options).nodes[0]
    random = np.random.default_rng(3)
    x = random.integers(-60, 61, (40, 6, 6, 5)).astype(np.int8)
    target = run_node(node, [np.ldexp(x.astype(np.float32), -5)])
    weight = group_weight(node)
    sums = total(gather(node, x, 5, target, weight.shape))
    # The weights that made the target leave nothing over, whatever they are drawn from.
    assert sums.loss(weight, sums) < 1e-4 * sums.loss(weight * 0, sums)


def test_weights_of_a_transposed_convolution_that_never_meet_do_not_correlate():
    node = transposed(2, 2).nodes[0]
    x = np.random.default_rng(3).integers(-60, 61, (40, 6, 6, 5)).astype(np.int8)
    target = run_node(node, [np.ldexp(x.astype(np.float32), -5)])
    weight = group_weight(node)
    products = total(gather(node, x, 5, target, weight.shape)).xx[0].reshape(4, 5, 4, 5)
    inside = np.abs(products[np.arange(4), :, np.arange(4)]).max()
    centred = products - products.mean()
    centred[np.arange(4), :, np.arange(4)] = 0
    assert np.abs(centred).max() < 0.3 * inside


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions_are_compensated(stride: int):
    graph = transposed(stride)
    assert snr(graph, terms=1) > snr(graph, terms=1, compensation=False) + 2


def convolution(groups: int, stride: int = 1) -> Graph:
    b = Builder((-1, 7, 7, 6))
    b.conv("l", "x", 6, 3, stride, groups)
    return b.graph("l")


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions_are_compensated(groups: int):
    graph = convolution(groups, stride=2 if groups == 2 else 1)
    assert snr(graph, terms=1) > snr(graph, terms=1, compensation=False) + 1.5


def dense(reduction: int) -> Graph:
    b = Builder((-1, reduction))
    b.dense("l", "x", 10)
    return b.graph("l")


def test_dense_layers_are_compensated():
    graph = dense(40)
    assert snr(graph, terms=1) > snr(graph, terms=1, compensation=False) + 2


@pytest.mark.parametrize("groups", [1, 2])
def test_long_reductions_are_compensated_in_blocks(groups: int, monkeypatch: pytest.MonkeyPatch):
    graph = convolution(groups)
    nearest = snr(graph, terms=1, compensation=False)
    whole = snr(graph, terms=1)
    monkeypatch.setattr(sequence_module, "MAX_REDUCTION", 10)
    monkeypatch.setattr(blocks_module, "BLOCK_REDUCTION", 10)
    blocks = snr(graph, terms=1)
    assert nearest + 1 < blocks < whole + 1


def test_blocks_heed_the_limits_of_terms(monkeypatch: pytest.MonkeyPatch):
    graph = convolution(2)
    monkeypatch.setattr(sequence_module, "MAX_REDUCTION", 10)
    monkeypatch.setattr(blocks_module, "BLOCK_REDUCTION", 10)
    most = np.random.default_rng(0).integers(0, 3, (27, 6)).astype(np.uint8)
    feeds = smooth(graph, 20, 1)
    options = ConvertOptions(allocation={"l": TermLimits(2, most)})
    plan = convert(graph, lambda: [feeds], options).plan
    assert (np.count_nonzero(plan.layers["l"].codes, axis=0) <= most).all()
