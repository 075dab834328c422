"""Float networks as torch modules: the numbers of ``run_float`` for every operator there is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd.bench.torch_network import torch_network
from tvm_shiftadd.convert import Graph, run_float
from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.errors import ModelError

torch = pytest.importorskip("torch")

WINDOW = {"strides": (2, 1), "padding": (1, 0, 1, 1), "dilation": (1, 1)}
POOL = {
    "pool_size": (3, 2),
    "strides": (2, 1),
    "padding": (1, 1, 1, 1),
    "dilation": (1, 1),
    "ceil_mode": False,
}
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def layer(op: str, *shape: int, **attrs: Any) -> Node:
    outputs = shape[-1]
    factor = normal(outputs) if op == "adder_conv2d" else None
    return Node(op, op, ("m",), "y", attrs, normal(*shape), normal(outputs), factor)


def node(op: str, *inputs: str, **attrs: Any) -> Node:
    return Node(op, op, inputs or ("m",), "y", attrs)


#: The last node of a network whose map "m" is [2, 9, 8, 6]; and the axes of its result "y".
OPERATORS = {
    "conv2d": layer("conv2d", 3, 2, 6, 5, groups=1, **WINDOW),
    "grouped": layer("conv2d", 3, 2, 3, 4, groups=2, **WINDOW),
    "adder": layer("adder_conv2d", 3, 2, 6, 5, strides=(2, 1), padding=(1, 0, 1, 1)),
    "even adder": layer("adder_conv2d", 3, 3, 6, 5, strides=(2, 2), padding=(1, 1, 1, 1)),
    "relu": node("clip", lo=0.0, hi=math.inf),
    "clip": node("clip", lo=-0.5, hi=1.5),
    "add": node("add", "m", "m"),
    "max": node("max_pool2d", **POOL),
    "average": node("avg_pool2d", count_include_pad=False, **POOL),
    "pad": node("pad", pad_width=[0, 0, 1, 2, 0, 3, 2, 1]),
    "slice": node("slice", axes=(1, 3), begin=(1, 2), end=(9, 6), strides=(2, 1)),
    "concat": node("concat", "m", "m", axis=3),
    "permute": node("permute", axes=(0, 3, 1, 2)),
    "transpose": node("permute", axes=(0, 2, 1, 3)),
    "reshape": node("reshape", shape=(-1, 18, 4, 6)),
    "host": replace(
        node("host", operator="relax.reshape", shape=(-1, 432)),
        evaluate=lambda x: x.reshape(len(x), 432),
    ),
}


def network(last: Node) -> Graph:
    """x [N, 6, 9, 8] to channels last, then one operator."""
    first = Node("first", "permute", ("x",), "m", {"axes": (0, 2, 3, 1)})
    shapes = {"x": (-1, 6, 9, 8), "m": (-1, 9, 8, 6), "y": (-1, *last.attrs.get("shape", ())[1:])}
    return Graph((first, last), ("x",), ("y",), shapes)


@pytest.mark.parametrize(
    ("name", "distances"),
    [*((name, "cdist") for name in OPERATORS), ("adder", "sums"), ("even adder", "sums")],
)
def test_operators(name: str, distances: Any) -> None:
    graph = network(OPERATORS[name])
    x = normal(2, 6, 9, 8)
    (expected,) = run_float(graph, {"x": x}).values()
    (found,) = torch_network(graph, distances)(torch.from_numpy(x))
    # torch's distances are summed in another order.
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_dense_after_a_map() -> None:
    flat = Node("flat", "reshape", ("m",), "f", {"shape": (-1, 432)})
    last = Node("dense", "dense", ("f",), "y", {}, normal(432, 7), normal(7))
    graph = network(last)
    graph = Graph(
        (graph.nodes[0], flat, last), ("x",), ("y",), {**graph.shapes, "f": (-1, 432), "y": (-1, 7)}
    )
    x = normal(2, 6, 9, 8)
    (expected,) = run_float(graph, {"x": x}).values()
    (found,) = torch_network(graph)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"operator relax\.nn\.softmax"):
        torch_network(network(node("host", operator="relax.nn.softmax")))
    with pytest.raises(ModelError, match="upsample2d"):
        torch_network(network(node("upsample2d", scale=(2, 2))))
    uneven = {**POOL, "padding": (0, 0, 1, 1)}
    with pytest.raises(ModelError, match="one side"):
        torch_network(network(node("max_pool2d", **uneven)))
