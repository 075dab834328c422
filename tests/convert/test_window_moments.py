from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.convert.networks import Builder
from tvm_shiftadd.convert import ConvertOptions, compensate, convert
from tvm_shiftadd.convert import moments as module
from tvm_shiftadd.convert.compensate import DAMPINGS, choose_damping
from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.moments import DAMPING, Moments, gather, total
from tvm_shiftadd.convert.operators import run_linear, run_node
from tvm_shiftadd.convert.terms import TermLimits, group_weight


def damped(
    node: Node, x: np.ndarray, exponent: int, target: np.ndarray, weight: np.ndarray
) -> Moments:
    return total(gather(node, x, exponent, target, weight.shape)).moments(weight, DAMPING)


@pytest.mark.parametrize(
    ("groups", "stride", "kernel"), [(1, 1, 3), (1, 2, 3), (6, 2, 3), (2, 1, 1)]
)
def test_moments_find_the_weights_that_made_the_target(groups: int, stride: int, kernel: int):
    b = Builder((-1, 7, 7, 6))
    b.conv("l", "x", 6, kernel, stride, groups)
    node = b.nodes[0]
    random = np.random.default_rng(3)
    x = random.integers(-60, 61, (60, 7, 7, 6)).astype(np.int8)
    target = run_node(node, [np.ldexp(x.astype(np.float32), -5)])
    true = group_weight(node)
    # The layer is told a wrong weight; regression on the target finds most of the right one.
    found = damped(node, x, 5, target, true * 0.5).ideal
    assert np.abs(found - true).max() < 0.3 * np.abs(true * 0.5).max()
    same = damped(node, x, 5, target, true)
    np.testing.assert_allclose(same.ideal, true, atol=1e-4)
    np.testing.assert_allclose(same.hessian, same.hessian.transpose(0, 2, 1), rtol=1e-6)


def test_moments_of_a_dense_layer_are_the_damped_covariance():
    b = Builder((-1, 4))
    b.dense("l", "x", 2)
    node = b.nodes[0]
    random = np.random.default_rng(0)
    x = random.integers(-50, 51, (200, 4)).astype(np.int8)
    target = (x @ node.weight).astype(np.float32)
    moments = damped(node, x, 0, target, group_weight(node))
    covariance = np.cov(x.T.astype(float), bias=True)
    extra = moments.hessian[0] - covariance
    np.testing.assert_allclose(extra - np.diag(np.diag(extra)), 0, atol=1e-3 * covariance.max())
    assert np.ptp(np.diag(extra)) < 1e-3 * covariance.max()
    assert 0 < np.diag(extra)[0] < 0.2 * np.trace(covariance) / 4


def layer(kernel: int = 3, groups: int = 1) -> tuple[Node, np.ndarray, np.ndarray]:
    b = Builder((-1, 7, 7, 6))
    b.conv("l", "x", 6, kernel, groups=groups)
    node = b.nodes[0]
    random = np.random.default_rng(3)
    x = random.integers(-60, 61, (30, 7, 7, 6)).astype(np.int8)
    target = run_node(node, [np.ldexp(x.astype(np.float32), -5)])
    return node, x, target + random.standard_normal(target.shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 3])
def test_parts_and_chunks_add_up_to_the_whole(groups: int, monkeypatch: pytest.MonkeyPatch):
    node, x, target = layer(groups=groups)
    weight = group_weight(node)
    parts = gather(node, x, 5, target, weight.shape)
    assert len(parts) == 4
    assert [part.count for part in parts] == [8 * 49, 8 * 49, 7 * 49, 7 * 49]
    whole = total(parts).moments(weight, 0.2)
    monkeypatch.setattr(module, "CHUNK", 10000)
    monkeypatch.setattr(module, "PARTS", 1)
    (alone,) = gather(node, x, 5, target, weight.shape)
    other = alone.moments(weight, 0.2)
    np.testing.assert_allclose(whole.hessian, other.hessian, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(whole.ideal, other.ideal, atol=1e-6)


def test_the_loss_is_the_squared_error_with_the_bias_of_the_others():
    node, x, target = layer(kernel=1)
    weight = group_weight(node)
    parts = gather(node, x, 5, target, weight.shape)
    fitted = total(parts[1:])
    held = np.arange(30) % 4 == 0
    made = x.reshape(-1, 6) @ weight[0]
    wanted = np.ldexp(target.astype(np.float64), 5).reshape(-1, 6)
    rows = np.repeat(held, 49)
    bias = (wanted - made)[~rows].mean(0)
    error = np.square(wanted - made - bias)[rows].sum(1).mean()
    assert parts[0].loss(weight, fitted) == pytest.approx(error, rel=1e-5)


def test_a_single_image_is_one_part_and_gets_the_usual_damping():
    node, x, target = layer()
    weight = group_weight(node)
    parts = gather(node, x[:1], 5, target[:1], weight.shape)
    assert len(parts) == 1
    assert choose_damping(parts, weight, TermLimits(1)) == DAMPING + 54 / 49


def test_sums_of_some_rows_are_those_of_what_the_others_leave():
    node, x, target = layer()
    weight = group_weight(node)
    rows = slice(12, 30)
    sums = total(gather(node, x, 5, target, weight.shape)).rows(rows, weight)
    others = weight.copy()
    others[:, rows] = 0
    flat = others[0].reshape(3, 3, 6, 6).astype(np.float32)
    rest = target - run_linear(node, np.ldexp(x.astype(np.float32), -5), flat, None)
    again = total(gather(node, x, 5, rest, weight.shape, rows))
    for one, other in ((sums, again), (again, sums)):
        moments = one.moments(weight[:, rows], 0.1)
        expected = other.moments(weight[:, rows], 0.1)
        np.testing.assert_allclose(moments.hessian, expected.hessian)
        np.testing.assert_allclose(moments.ideal, expected.ideal, atol=1e-3)
        np.testing.assert_allclose(
            one.loss(moments.ideal, one), other.loss(moments.ideal, other), rtol=1e-3
        )


@pytest.mark.parametrize("long", [1536, 40])
def test_damping_grows_where_images_are_few_and_shrinks_where_they_are_many(
    long: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compensate, "LONG", long)
    b = Builder((-1, 48))
    b.dense("l", "x", 20)
    node = b.nodes[0]
    random = np.random.default_rng(0)
    mixing = random.standard_normal((48, 48)) / 7

    def chosen(images: int, positions: int, noise: float) -> float:
        # The positions of an image hardly differ, so their number says little.
        x = np.repeat(random.standard_normal((images, 1, 48)), positions, axis=1)
        x = np.clip(np.rint((x + 0.01 * random.standard_normal(x.shape)) @ mixing * 30), -128, 127)
        target = np.ldexp((x @ group_weight(node)[0]).astype(np.float32), -5)
        target += noise * target.std() * random.standard_normal((images, 1, 20)).astype(np.float32)
        parts = gather(node, x.astype(np.int8), 5, target, (1, 48, 20))
        return choose_damping(parts, group_weight(node), TermLimits(1))

    few, many = chosen(24, 100, 0.5), chosen(4000, 1, 0.02)
    assert few > DAMPING >= many
    assert {few, many} <= set(DAMPINGS)


def test_memory_does_not_grow_with_the_images():
    b = Builder((-1, 32, 32, 8))
    b.conv("l", "x", 8)
    node = b.nodes[0]
    peaks = []
    for count in (40, 400):
        x = np.random.default_rng(0).integers(-9, 9, (count, 32, 32, 8)).astype(np.int8)
        target = np.zeros((count, 32, 32, 8), np.float32)
        tracemalloc.start()
        gather(node, x, 5, target, (1, 72, 8))
        peaks.append(tracemalloc.get_traced_memory()[1] - x.size)
        tracemalloc.stop()
    # Padding copies the integers; beside that only the choice of positions is of their number.
    assert peaks[1] < peaks[0] + 2 * 360 * 32 * 32 * 8 + (8 << 20)


def test_windows_that_hardly_vary_leave_a_covariance_that_can_be_inverted():
    # The first image shows another constant than the others, so that the sums of these, which are
    # about the first one's mean, are large and cancel.
    b = Builder((-1, 7, 7, 6))
    b.conv("l", "x", 6, 3, groups=6)
    node = b.nodes[0]
    random = np.random.default_rng(0)
    x = np.broadcast_to(random.integers(-128, 128, (4, 1, 1, 6)), (4, 7, 7, 6)).astype(np.int8)
    x = np.concatenate([x[:1], np.repeat(x[1:2], 3, axis=0)])
    target = run_node(node, [np.ldexp(x.astype(np.float32), -5)])
    parts = gather(node, x, 5, target, group_weight(node).shape)
    weight = group_weight(node)
    for damping in (0.0, min(DAMPINGS)):
        hessian = total(parts[1:]).moments(weight, damping).hessian
        assert np.linalg.eigvalsh(hessian).min() > 0
        np.linalg.cholesky(np.linalg.inv(hessian))


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_few_calibration_images_are_enough_to_convert(images: int):
    b = Builder((-1, 6, 6, 4))
    b.conv("depthwise", "x", 4, 3, groups=4)
    b.conv("pointwise", "depthwise", 40, 1)
    graph = b.graph("pointwise")
    random = np.random.default_rng(1)
    data = random.normal(size=(images, 6, 6, 4)).astype(np.float32)
    data[:, :, :, 1] = 0.25
    conversion = convert(graph, lambda: iter([{"x": data}]), ConvertOptions())
    for layer in conversion.report.layers:
        assert layer.output_snr_db is not None and layer.output_snr_db > 20
