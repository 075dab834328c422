"""Counts are compared with numbers worked out by hand in the comments."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.convert.plan import LayerPlan, Plan
from tvm_shiftadd.costs import CostReport, LayerCost, Operations, count
from tvm_shiftadd.costs.energy import MEMORY, OPERATIONS, operation_energy
from tvm_shiftadd.formats.codes import encode

ONES = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}


def layer_plan(values: np.ndarray, terms: int) -> LayerPlan:
    matrix = values.reshape(-1, values.shape[-1]).astype(np.int32)
    outputs = matrix.shape[1]
    zeros = np.zeros(outputs, np.int32)
    return LayerPlan(encode(matrix, terms), zeros, zeros)


def conv_node(name: str, source: str, weight: np.ndarray, **attrs: object) -> Node:
    bias = np.zeros(weight.shape[-1], np.float32)
    merged = {**ONES, "groups": 1, **attrs}
    return Node(name, "conv2d", (source,), name, merged, weight.astype(np.float32), bias)


def network() -> tuple[Graph, Plan]:
    """x [4, 4, 3] -> conv 3x3x3x2 -> ReLU -> (+ r) -> mean over 4x4 -> dense 2x5 -> softmax.

    ``r`` is a depthwise convolution of the ReLU's result.
    """
    weight = np.full((3, 3, 3, 2), 3)
    weight[0, 0] = 0
    weight[1, 1] = 4
    depthwise = np.full((3, 3, 1, 2), 1)
    matrix = np.full((2, 5), 5)
    pool = {**ONES, "padding": (0,) * 4, "pool_size": (4, 4), "ceil_mode": False}
    nodes = (
        conv_node("conv", "x", weight),
        Node("relu", "clip", ("conv",), "relu", {"lo": 0.0, "hi": float("inf")}),
        conv_node("depthwise", "relu", depthwise, groups=2),
        Node("sum", "add", ("relu", "depthwise"), "sum"),
        Node("mean", "avg_pool2d", ("sum",), "mean", {**pool, "count_include_pad": False}),
        Node("flat", "reshape", ("mean",), "flat", {"shape": (-1, 2)}),
        Node("fc", "dense", ("flat",), "fc", {}, matrix.astype(np.float32)),
        Node(
            "softmax", "host", ("fc",), "y", {"operator": "relax.nn.softmax"}, reason="exponential"
        ),
    )
    maps = dict.fromkeys(("conv", "relu", "depthwise", "sum"), (-1, 4, 4, 2))
    shapes = {"x": (-1, 4, 4, 3), **maps, "mean": (-1, 1, 1, 2), "flat": (-1, 2)}
    shapes |= {"fc": (-1, 5), "y": (-1, 5)}
    plan = Plan(
        layers={
            "conv": layer_plan(weight, 2),
            "depthwise": layer_plan(depthwise, 1),
            "fc": layer_plan(matrix, 2),
        },
        exponents={"x": 5, "relu": 4, "sum": 4, "mean": 5, "flat": 5},
    )
    return Graph(nodes, ("x",), ("y",), shapes), plan


@pytest.fixture(scope="module")
def report() -> CostReport:
    return count(*network())


def layer(report: CostReport, name: str) -> LayerCost:
    return next(c for c in report.layers if c.name == name)


def test_convolution(report: CostReport) -> None:
    conv = layer(report, "conv")
    # 54 weights at 16 pixels; 32 outputs take a bias.
    assert conv.macs == 54 * 16
    assert conv.float32 == Operations(multiplies=864, adds=864 + 32)
    # 6 of the 54 weights are 0, 6 are 4 (one term), the others 3 = 4 - 1 (two terms). The
    # accumulator is not requantised here: the ReLU does that.
    assert conv.terms == 6 + 2 * 42
    assert conv.shift_add == Operations(adds=90 * 16 + 32, shifts=90 * 16)
    # Two planes of ceil(27 / 2) bytes for each of two outputs.
    assert conv.weight_bytes == 2 * 14 * 2
    # Weights and two biases; x goes in at 4 or 1 bytes, the accumulator is not charged.
    assert conv.float32_traffic.weights == 4 * 54 + 8
    assert conv.int8_traffic.weights == 54 + 8
    assert conv.shift_add_traffic.weights == 56 + 8
    assert conv.float32_traffic.activations == 4 * 48
    assert conv.shift_add_traffic.activations == 48


def test_depthwise_convolution(report: CostReport) -> None:
    depthwise = layer(report, "depthwise")
    assert depthwise.macs == 18 * 16
    assert depthwise.shift_add == Operations(adds=18 * 16 + 32, shifts=18 * 16)


def test_requantisation_is_counted_where_int8_is_made(report: CostReport) -> None:
    # 32 elements: rounding addend and shift.
    assert layer(report, "relu").shift_add == Operations(adds=32, shifts=32)
    # Addition itself aligns (shift) and adds.
    assert layer(report, "sum").shift_add == Operations(adds=64, shifts=64)
    assert layer(report, "sum").float32 == Operations(adds=32)


def test_average_pool(report: CostReport) -> None:
    mean = layer(report, "mean")
    assert mean.float32 == Operations(multiplies=2, adds=2 * 16)
    # 1/16 is one term: 16 additions and one shift each, then requantisation of two elements.
    assert mean.shift_add == Operations(adds=2 * 16 + 2, shifts=2 + 2)


def test_dense_and_host(report: CostReport) -> None:
    fc, softmax = layer(report, "fc"), layer(report, "softmax")
    # 5 = 4 + 1: two terms for each of ten weights, and five biases.
    assert fc.shift_add == Operations(adds=20 + 5, shifts=20)
    assert softmax.on_host
    assert softmax.float32 == softmax.shift_add == Operations(multiplies=10, adds=5)
    assert softmax.shift_add_traffic.activations == 4 * 10


def test_casts_cost_traffic_but_no_multiplication(report: CostReport) -> None:
    assert layer(report, "quantize x").shift_add_traffic.activations == 48 * 5
    assert layer(report, "dequantize fc").shift_add_traffic.activations == 5 * 8
    assert layer(report, "quantize x").float32_traffic.total == 0


def test_totals(report: CostReport) -> None:
    assert report.macs == 864 + 288 + 10
    assert report.shift_add_share == 1.0
    assert report.multiplications == 10
    assert report.uncounted == ()
    assert report.terms_per_weight == pytest.approx((90 + 18 + 20) / (54 + 18 + 10))
    assert report.weight_bytes == 56 + 5 * 2 + 2 * 1 * 5
    total = report.operations()
    assert total["float32"].multiplies == 864 + 288 + 2 + 10 + 10
    assert total["shift_add"].multiplies == 10


def test_energy_is_the_tables(report: CostReport) -> None:
    energy, total = report.energy(), report.operations()["float32"]
    expected = (total.multiplies * 3.7 + total.adds * 0.9) * 1e-6
    assert energy["float32"].compute == pytest.approx(expected)
    after = report.operations()["shift_add"]
    host = 10 * 3.7 + 5 * 0.9
    # The shifts by a term are of int8 activations, the others of accumulators.
    terms = 90 * 16 + 18 * 16 + 20
    shifts = terms * 0.024 + (after.shifts - terms) * 0.13
    expected = ((after.adds - 5) * 0.1 + shifts + host) * 1e-6
    assert energy["shift_add"].compute == pytest.approx(expected)
    products = report.macs
    sums = after.adds - 5 - terms + products
    expected = (products * 0.2 + sums * 0.1 + (after.shifts - terms) * 0.13 + host) * 1e-6
    assert energy["int8"].compute == pytest.approx(expected)
    moved = sum(c.shift_add_traffic.total for c in report.layers)
    assert energy["shift_add"].memory == pytest.approx(moved / 2 * (200 + 22.2 + 7.4 + 3.7) * 1e-6)
    assert energy["shift_add"].total < energy["int8"].total < energy["float32"].total


def test_every_layer_is_charged_for_memory(report: CostReport) -> None:
    for cost in report.layers:
        if cost.op in ("conv2d", "dense", "host", "avg_pool2d"):
            assert cost.float32_traffic.total > 0, cost.name
            assert cost.shift_add_traffic.total > 0, cost.name


def test_json_is_complete(report: CostReport) -> None:
    plain = msgspec.json.decode(msgspec.json.encode(report.to_dict()))
    assert plain["weight_bytes"] == 76
    assert plain["weight_bytes_int8"] == 82
    assert plain["weight_bytes_float32"] == 328
    assert len(plain["layers"]) == len(report.layers)
    assert any("DRAM" in text for text in plain["assumptions"])
    assert {row["source"] for row in plain["unit_energies"]["picojoules"]}


def host_graph(operator: str, shapes: dict[str, tuple[int, ...]]) -> Graph:
    inputs = tuple(name for name in shapes if name != "y")
    node = Node("op", "host", inputs, "y", {"operator": operator})
    return Graph((node,), inputs, ("y",), shapes, batch=1)


@pytest.mark.parametrize(
    ("operator", "shapes", "multiplies"),
    [
        ("relax.matmul", {"a": (1, 6, 7), "b": (1, 7, 5), "y": (1, 6, 5)}, 6 * 7 * 5),
        (
            "relax.nn.conv2d",
            {"a": (1, 8, 8, 4), "b": (3, 3, 4, 2), "y": (1, 6, 6, 2)},
            3 * 3 * 4 * 2 * 36,
        ),
        ("relax.multiply", {"a": (1, 6), "y": (1, 6)}, 6),
        ("relax.variance", {"a": (1, 6), "y": (1, 1)}, 6),
        ("relax.reshape", {"a": (1, 6), "y": (1, 2, 3)}, 0),
        ("relax.matmul", {"a": (1, 6), "y": (1, 5)}, None),
        ("my.operator", {"a": (1, 6), "y": (1, 5)}, None),
    ],
)
def test_host_operators(
    operator: str, shapes: dict[str, tuple[int, ...]], multiplies: int | None
) -> None:
    report = count(host_graph(operator, shapes), Plan({}, {}))
    (cost,) = report.layers
    assert (cost.shift_add.multiplies if cost.shift_add else None) == multiplies
    assert report.uncounted == (("op",) if multiplies is None else ())
    assert report.shift_add_share == 0.0


def test_transposed_convolution_counts_input_pixels() -> None:
    weight = np.ones((2, 2, 3, 4))
    attrs = {**ONES, "strides": (2, 2), "output_padding": (0, 0), "groups": 1}
    node = Node("up", "conv2d_transpose", ("x",), "y", attrs, weight.astype(np.float32))
    graph = Graph((node,), ("x",), ("y",), {"x": (-1, 5, 5, 3), "y": (-1, 10, 10, 4)})
    report = count(graph, Plan({"up": layer_plan(weight, 1)}, {"x": 3}))
    assert layer(report, "up").macs == 48 * 25
    assert layer(report, "up").shift_add == Operations(adds=48 * 25 + 400, shifts=48 * 25)


def test_the_table_has_sources_and_no_doubles() -> None:
    assert all(row.source and row.picojoules > 0 for row in (*OPERATIONS, *MEMORY))
    assert len({(r.operation, r.number) for r in OPERATIONS}) == len(OPERATIONS)
    assert operation_energy("multiply", "int8") == 0.2
    assert {row.level: row.picojoules for row in MEMORY}["DRAM"] == 200.0
    with pytest.raises(KeyError):
        operation_energy("shift", "float32")
