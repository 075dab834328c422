"""Terms given out within a budget, from measurement to the converted network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.convert.networks import Builder, images, residual_network, separable_network
from tvm_shiftadd._json import encode
from tvm_shiftadd.convert import (
    Budget,
    Conversion,
    ConvertOptions,
    Graph,
    convert,
    run_float,
    run_integer,
)
from tvm_shiftadd.convert.allocate_costs import layer_costs, term_counts, tiles, totals
from tvm_shiftadd.errors import ConversionError, DataError, InputError
from tvm_shiftadd.formats import codes


@pytest.fixture(scope="module")
def graph() -> Graph:
    return residual_network(3)


def converted(graph: Graph, count: int = 48, **options: object) -> Conversion:
    feeds = images(graph, count)

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        yield feeds

    return convert(graph, batches, ConvertOptions(**options))  # type: ignore[arg-type]


def auto(graph: Graph, budget: str, grain: str | None = None, **options: object) -> Conversion:
    return converted(graph, budget=Budget.parse(budget, grain), **options)


def error(graph: Graph, conversion: Conversion) -> float:
    """Mean squared error of the outputs on images that were not seen."""
    feeds = images(graph, 64, seed=9)
    wanted = run_float(graph, feeds)
    have, _ = run_integer(graph, conversion.plan, feeds)
    return sum(float(np.square(have[name] - wanted[name]).mean()) for name in wanted)


@pytest.mark.parametrize(
    ("budget", "grain"),
    [
        ("terms=1.3", "weight"),
        ("terms=1.2", "tile"),
        ("terms=1.4", "layer"),
        ("energy=0.02", "weight"),
        ("energy=0.025", "layer"),
        ("cycles=4000", "tile"),
        ("cycles=4000", "layer"),
        ("bytes=4500", "layer"),
    ],
)
def test_a_budget_is_met_from_below(graph: Graph, budget: str, grain: str) -> None:
    conversion = auto(graph, budget, grain)
    unit, amount = budget.split("=")
    measured = totals(layer_costs(graph, conversion.plan.layers))[unit]  # type: ignore[index]
    allocation = conversion.report.allocation
    assert allocation is not None
    assert allocation.cost == pytest.approx(measured) == allocation.costs[unit]
    assert measured <= float(amount)
    # What is left must be less than the smallest change, which is coarse where layers change.
    assert measured >= {"weight": 0.97, "tile": 0.93, "layer": 0.75}[grain] * float(amount)
    assert sum(layer.cost for layer in allocation.layers) == pytest.approx(measured)
    low, high = allocation.reachable
    assert low < measured < high


@pytest.mark.parametrize("make", [residual_network, separable_network])
def test_terms_are_put_where_they_count(make) -> None:
    graph = make(1)
    one, two = converted(graph, terms=1), converted(graph, terms=2)
    conversion = auto(graph, "terms=1.4")
    errors = [error(graph, one), error(graph, conversion), error(graph, two)]
    # 0.4 terms more than one everywhere take away most of the error.
    assert errors[1] < errors[0] / 2
    assert errors[1] < 10 * errors[2]
    assert conversion.report.terms_per_weight <= 1.4 < two.report.terms_per_weight


def test_fewer_terms_than_one_everywhere_and_still_better(graph: Graph) -> None:
    one = converted(graph, terms=1)
    amount = one.report.terms_per_weight
    conversion = auto(graph, f"terms={amount}")
    assert conversion.report.terms_per_weight <= amount
    assert error(graph, conversion) < error(graph, one)


def test_every_tile_has_a_number_of_terms_of_its_own(graph: Graph) -> None:
    conversion = auto(graph, "terms=1.3", "tile")
    mixed = 0
    for node in graph.nodes:
        if node.name in conversion.plan.layers:
            counts = term_counts(codes.decode(conversion.plan.layers[node.name].codes))
            most = np.zeros(int(tiles(node).max()) + 1, np.int64)
            np.maximum.at(most, tiles(node), counts)
            mixed += len(set(most.tolist()) & {1, 2, 3}) > 1
    assert mixed >= 1


def test_the_layer_choice_is_reported_as_optimal(graph: Graph) -> None:
    allocation = auto(graph, "bytes=4500").report.allocation
    assert allocation is not None
    assert (allocation.grain, allocation.gap) == ("layer", 0.0)
    assert {layer.terms for layer in allocation.layers} > {1}
    for layer in allocation.layers:
        assert layer.effect[0] > layer.effect[1] > layer.effect[2] > 0
        assert layer.sensitivity > 0


def test_more_than_can_be_used_gives_the_most(graph: Graph) -> None:
    conversion = auto(graph, "terms=3")
    assert {layer.terms for layer in conversion.report.layers} == {3}
    assert conversion.report.allocation is not None
    assert conversion.report.allocation.trials == 1


@pytest.mark.parametrize(
    ("budget", "words"),
    [("terms=0.01", "0.2"), ("cycles=10", "cycles; raise it"), ("bytes=100", "2520 to 7560")],
)
def test_a_budget_out_of_reach_names_the_range(graph: Graph, budget: str, words: str) -> None:
    with pytest.raises(InputError, match="out of reach.*needs.*" + words.replace(".", r"\.")) as it:
        auto(graph, budget)
    assert str(it.value).count("\n") == 0


def close_classes() -> Graph:
    """Many classes, each nearly as good as the next."""
    b = Builder((-1, 8, 8, 3), 4)
    b.relu("stem", b.conv("stem.conv", "x", 8, stride=2))
    b.dense("scores", b.flat("flat", b.relu("wide", b.conv("wide.conv", "stem", 8, stride=2))), 48)
    return b.graph("scores")


def test_a_largest_drop_holds_on_held_out_images() -> None:
    graph = close_classes()
    costs = []
    for drop in (30.0, 12.0):
        allocation = converted(graph, 300, budget=Budget(max_drop=drop)).report.allocation
        assert allocation is not None and allocation.disagreement is not None
        assert allocation.held_out == 100
        assert (allocation.disagreement * 100 + 100) / 101 <= drop
        costs.append(allocation.cost)
    assert costs[0] < costs[1] < 2.0


def test_a_drop_that_cannot_be_held_is_refused(graph: Graph) -> None:
    with pytest.raises(ConversionError, match=r"even with 3 terms .* of 16 held-out images"):
        converted(graph, budget=Budget(max_drop=0.5))
    with pytest.raises(InputError, match="5 images are too few"):
        converted(graph, 5, budget=Budget(max_drop=5.0))


def test_a_drop_needs_classes() -> None:
    b = Builder((-1, 8, 8, 3))
    b.relu("y", b.conv("conv", "x", 8))
    with pytest.raises(InputError, match="row of class scores"):
        converted(b.graph("y"), budget=Budget(max_drop=5.0))


def test_a_network_without_weights_is_refused() -> None:
    b = Builder((-1, 8, 8, 3))
    b.relu("y", "x")
    with pytest.raises((InputError, DataError), match="no layer whose terms"):
        auto(b.graph("y"), "terms=1.3")


def test_the_frontier_falls(graph: Graph) -> None:
    conversion = converted(graph, 60, budget=Budget("terms", 1.3), frontier=True)
    allocation = conversion.report.allocation
    assert allocation is not None
    points = allocation.frontier
    assert [point.label for point in points if point.chosen] == ["auto"]
    assert {point.label for point in points} == {"auto", "K=1", "K=2", "K=3"}
    costs = [point.costs["terms"] for point in points]
    assert costs == sorted(costs)
    assert points[0].error > 4 * points[-1].error
    assert all(point.agreement is not None for point in points)
    assert allocation.held_out == 20
    written = json.loads(encode(conversion.report.to_dict()))
    assert len(written["allocation"]["frontier"]) == len(points)
    assert written["allocation"]["layers"][0]["effect"][0] > 0


def test_layers_rounded_to_nearest_get_their_terms_by_tile(graph: Graph) -> None:
    conversion = auto(graph, "terms=1.3", compensation=False)
    assert 1.2 < conversion.report.terms_per_weight <= 1.3


def test_progress_tells_what_is_done(graph: Graph) -> None:
    told: list[tuple[str, int, int]] = []
    feeds = images(graph, 16)
    convert(
        graph,
        lambda: [feeds],
        ConvertOptions(budget=Budget("terms", 1.3)),
        lambda *now: told.append(now),
    )
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases == ["calibrate", "measure", "allocate", "convert"]
    layers = sum(node.weight is not None for node in graph.nodes)
    assert [now for now in told if now[0] == "measure"][-1] == ("measure", 2 * layers, 2 * layers)
