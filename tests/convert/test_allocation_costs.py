"""What terms cost: tiles, passes, bytes, energy; and how a budget is written."""

from __future__ import annotations

import numpy as np
import pytest

from tests.convert.networks import Builder
from tvm_shiftadd.convert import Budget, ConvertOptions
from tvm_shiftadd.convert.allocate_costs import (
    TERM_PICOJOULES,
    layer_cost,
    positions,
    term_counts,
    tiles,
    totals,
)
from tvm_shiftadd.convert.graph import Graph
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.costs.energy import operation_energy
from tvm_shiftadd.costs.operations import weight_positions
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes


@pytest.fixture(scope="module")
def graph() -> Graph:
    build = Builder((-1, 8, 8, 20))
    build.conv("full", "x", 36)
    build.conv("depthwise", "full", 36, groups=36)
    build.conv("grouped", "depthwise", 8, groups=2, stride=2)
    return build.graph("grouped")


def node(graph: Graph, name: str):
    return next(node for node in graph.nodes if node.name == name)


def test_terms_are_counted_as_the_codes_have_them() -> None:
    values = codes.representable(3).astype(np.int32)
    counts = term_counts(values)
    for value, count in zip(values, counts, strict=True):
        assert codes.count_terms(codes.encode(np.array([value]), 3)) == count


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", 9 * 2 * 3),  # 20 inputs are 2 blocks, 36 outputs 3
        ("depthwise", 9 * 3),  # one input: 16 channels at one kernel position
        ("grouped", 9 * 2 * 2),  # 18 inputs and 4 outputs in each of two groups
    ],
)
def test_tiles_are_blocks_of_16_at_one_kernel_position(
    graph: Graph, name: str, expected: int
) -> None:
    layer = node(graph, name)
    index = tiles(layer)
    assert index.shape == (layer.weight[..., 0].size, layer.weight.shape[-1])
    np.testing.assert_array_equal(np.unique(index), np.arange(expected))
    assert np.bincount(index.ravel()).max() <= 256


def test_a_second_pass_runs_only_where_a_tile_has_a_second_term(graph: Graph) -> None:
    layer = node(graph, "full")
    index = tiles(layer)
    values = np.ones(index.shape, np.int32)
    values[index == 7] = 0
    values[tuple(np.argwhere(index == 5)[0])] = 3
    cost = layer_cost(graph, layer, values, 2)
    assert positions(graph, layer) == 64
    assert cost.cycles == 64 * (54 - 1 + 1)
    assert cost.terms == values.size - (index == 7).sum() + 1
    assert cost.bytes == 2 * (180 // 2) * 36
    assert cost.energy == pytest.approx(1e-6 * cost.terms * 64 * TERM_PICOJOULES)
    assert totals({"full": cost})["terms"] == cost.terms / values.size


def test_costs_are_those_of_the_cost_report(graph: Graph) -> None:
    picojoules = operation_energy("shift", "int8") + operation_energy("add", "int32")
    assert picojoules == pytest.approx(TERM_PICOJOULES)
    for layer in graph.nodes:
        assert positions(graph, layer) == weight_positions(graph, layer)


def test_a_budget_is_read() -> None:
    assert Budget.parse("terms=1.3") == Budget("terms", 1.3)
    assert Budget.parse("energy=4.5", "tile") == Budget("energy", 4.5, None, "tile")
    assert [
        Budget.parse(f"{unit}=1").chosen_grain for unit in ("terms", "energy", "cycles", "bytes")
    ] == ["weight", "weight", "tile", "layer"]
    assert ConvertOptions.choose("auto").budget == Budget("terms", 1.3)
    assert ConvertOptions.choose("auto", max_drop=0.5).budget == Budget(max_drop=0.5)
    assert ConvertOptions.choose("auto", budget=Budget("cycles", 9), grain="layer").budget == (
        Budget("cycles", 9, None, "layer")
    )
    assert ConvertOptions.choose(1) == ConvertOptions(terms=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": "1.3"}, "UNIT=AMOUNT, not '1.3'"),
        ({"budget": "terms=few"}, "UNIT=AMOUNT"),
        ({"budget": "terms=nan"}, "UNIT=AMOUNT"),
        ({"budget": "joules=3"}, "unit 'joules' is not known"),
        ({"budget": "terms=-1"}, "must be a positive number, not -1"),
        ({"budget": "terms=inf"}, "must be a positive number"),
        ({"budget": "bytes=9", "grain": "weight"}, "--grain layer"),
        ({"budget": "cycles=9", "grain": "weight"}, "--grain layer or tile"),
        ({"budget": "terms=1", "grain": "pixel"}, "not 'pixel'"),
        ({"budget": "terms=1", "max_drop": 1.0}, "give one of them"),
        ({"max_drop": 0.0}, "must be a positive number"),
        ({"max_drop": 100.0}, "percentage points"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ConvertOptions.choose("auto", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"budget": "terms=1"}, {"max_drop": 1.0}, {"grain": "tile"}, {"frontier": True}],
)
def test_limits_without_auto_are_refused(arguments: dict) -> None:
    with pytest.raises(InputError, match="give --terms auto"):
        ConvertOptions.choose(2, **arguments)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="one of them"):
        ConvertOptions(budget=Budget("terms", 1), allocation={"a": TermLimits(1)})
    with pytest.raises(InputError, match="around a budget"):
        ConvertOptions(frontier=True)
    with pytest.raises(InputError, match="1, 2, 3 or auto"):
        ConvertOptions.choose("many")
