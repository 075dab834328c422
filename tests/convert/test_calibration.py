from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from tests.convert.networks import Builder, images, residual_network
from tvm_shiftadd.convert.calibrate import (
    SAMPLE_SIZE,
    TensorStatistics,
    calibrate,
    choose_exponent,
)
from tvm_shiftadd.convert.feeds import checked, hold
from tvm_shiftadd.convert.storage import stored
from tvm_shiftadd.errors import DataError, ModelError


def batches_of(array: np.ndarray, size: int, name: str = "x"):
    def start() -> Iterator[dict[str, np.ndarray]]:
        for place in range(0, len(array), size):
            yield {name: array[place : place + size]}

    return start


def test_the_exponent_covers_a_uniform_tensor_and_saturates_a_long_tail():
    uniform = np.linspace(-1.5, 1.5, 10001, dtype=np.float32)
    assert choose_exponent(1.5, uniform) == 6
    tailed = np.concatenate([np.random.default_rng(0).standard_normal(10**5), [20.0]])
    covering = math.floor(math.log2(127 / 20))
    assert choose_exponent(20.0, tailed.astype(np.float32)) > covering


def test_the_exponent_has_the_least_squared_error_of_its_candidates():
    values = np.random.default_rng(3).laplace(size=20000).astype(np.float32)
    top = float(np.abs(values).max())

    def error(exponent: int) -> float:
        step = 2.0**-exponent
        return float(np.square(np.clip(np.rint(values / step), -128, 127) * step - values).mean())

    covering = math.floor(math.log2(127 / top))
    best = min(range(covering, covering + 4), key=error)
    assert choose_exponent(top, values) == best


def test_an_unsigned_tensor_gets_one_bit_more():
    uniform = np.linspace(0, 1.5, 10001, dtype=np.float32)
    assert choose_exponent(1.5, uniform, "uint8") == 7
    assert choose_exponent(1.5, uniform, "int8") == 6


def test_a_tensor_of_zeros_gets_an_exponent():
    assert choose_exponent(0.0, np.zeros(5, np.float32)) == 7


def test_statistics_are_bounded_deterministic_and_uniform():
    batches = [np.full((4, 50, 50, 16), value, np.float32) for value in range(60)]
    batches[7][0, 0, 0, 0] = -500.0

    def collect() -> TensorStatistics:
        statistics = TensorStatistics(5)
        for batch in batches:
            statistics.update(batch)
        return statistics

    one, two = collect(), collect()
    assert one.maximum == 500.0
    np.testing.assert_array_equal(one.sample(), two.sample())
    assert SAMPLE_SIZE // 4 < one.sample().size <= SAMPLE_SIZE
    # Early and late batches have the same weight.
    assert abs(one.sample()[one.sample() >= 0].mean() - 29.5) < 0.5


def test_all_stored_tensors_get_exponents_and_groups_share_them():
    graph = residual_network()
    storage = stored(graph)
    done: list[tuple[str, int, int]] = []
    x = images(graph, 20)["x"]
    exponents = calibrate(
        graph, storage, batches_of(x, 8), progress=lambda *step: done.append(step)
    )
    assert set(exponents) == storage.tensors
    assert exponents["mean"] == exponents["flat"]
    assert done == [("calibrate", 8, 0), ("calibrate", 16, 0), ("calibrate", 20, 0)]


def test_the_limit_counts_images():
    graph = residual_network()
    x = images(graph, 20)["x"]
    sizes = [len(feeds["x"]) for feeds in checked(graph, batches_of(x, 8), limit=11)]
    assert sizes == [8, 3]


@pytest.mark.parametrize("most", [1, 7, 16, 100])
def test_held_images_are_spread_over_the_whole_set(most: int):
    graph = residual_network()
    x = np.broadcast_to(np.arange(90, dtype=np.float32)[:, None, None, None], (90, 8, 8, 3))
    feeds, seen = hold(graph, batches_of(x, 13), most)
    numbers = feeds["x"][:, 0, 0, 0]
    assert seen == 90
    assert len(numbers) == min(most, 90)
    assert (np.diff(numbers) > 0).all()
    assert most == 1 or numbers[-1] >= 90 - 2 * 90 / most - 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.float32), "needs at least one image"),
        (np.zeros((2, 8, 8, 3), np.float64), "must be float32, not float64"),
        (np.zeros((2, 3, 8, 8), np.float32), r"shape \[N, 8, 8, 3\], not \[2, 3, 8, 8\]"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "NaN or infinity"),
        (np.full((2, 8, 8, 3), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_unusable_data_is_refused(array: np.ndarray, message: str):
    graph = residual_network()
    with pytest.raises(DataError, match=message):
        calibrate(graph, stored(graph), lambda: [{"x": array}])


def test_no_batch_and_a_wrong_name_are_refused():
    graph = residual_network()
    with pytest.raises(DataError, match="at least one image"):
        calibrate(graph, stored(graph), lambda: [])
    with pytest.raises(DataError, match="for the inputs"):
        calibrate(graph, stored(graph), batches_of(images(graph, 2)["x"], 2, "image"))


def test_inputs_of_different_lengths_are_refused():
    b = Builder((-1, 2))
    b.shapes["y"] = (-1, 2)
    b.inputs = ("x", "y")
    b.plus("sum", "x", "y")
    graph = b.graph("sum")
    feeds = {"x": np.zeros((2, 2), np.float32), "y": np.zeros((3, 2), np.float32)}
    with pytest.raises(DataError, match="same number of images"):
        calibrate(graph, stored(graph), lambda: [feeds])


def test_a_network_that_is_not_finite_is_refused():
    b = Builder((-1, 2))
    b.add("log", "host", "x", (-1, 2), evaluate=lambda x: np.full_like(x, np.inf))
    b.relu("positive", "log")
    graph = b.graph("positive")
    with pytest.raises(ModelError, match="'positive' is not finite"):
        calibrate(graph, stored(graph), lambda: [images(graph, 2)])
