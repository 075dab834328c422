"""Small networks as converter graphs, with seeded random weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Graph, Node

Shape = tuple[int, ...]

RELU = {"lo": 0.0, "hi": math.inf}


class Builder:
    """Adds nodes one after another and keeps their shapes."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {"x": shape}
        self.inputs: tuple[str, ...] = ("x",)

    def add(self, name: str, op: str, inputs: str, shape: Shape, /, **rest: Any) -> str:
        """A node called ``name`` whose result has the same name."""
        fields = {key: rest.pop(key) for key in ("weight", "bias", "evaluate") if key in rest}
        node = Node(name, op, tuple(inputs.split()), name, rest, **fields)
        self.nodes.append(node)
        self.shapes[name] = shape
        return name

    def conv(
        self, name: str, source: str, out: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> str:
        """A convolution with the padding that keeps (or halves) the size, and a bias."""
        batch, height, width, channels = self.shapes[source]
        shape = (kernel, kernel, channels // groups, out)
        spread = 1 / math.sqrt(math.prod(shape[:3]))
        edge = (kernel - 1) // 2
        size = [(length + 2 * edge - kernel) // stride + 1 for length in (height, width)]
        return self.add(
            name,
            "conv2d",
            source,
            (batch, size[0], size[1], out),
            strides=(stride, stride),
            padding=(edge, edge, edge, edge),
            dilation=(1, 1),
            groups=groups,
            weight=self.normal(shape, spread),
            bias=self.normal((out,), 0.1),
        )

    def relu(self, name: str, source: str, hi: float = math.inf) -> str:
        return self.add(name, "clip", source, self.shapes[source], lo=0.0, hi=hi)

    def plus(self, name: str, lhs: str, rhs: str) -> str:
        return self.add(name, "add", f"{lhs} {rhs}", self.shapes[lhs])

    def mean(self, name: str, source: str) -> str:
        """Global average pooling."""
        batch, height, width, channels = self.shapes[source]
        return self.add(
            name,
            "avg_pool2d",
            source,
            (batch, 1, 1, channels),
            count_include_pad=False,
            **window((height, width), (1, 1)),
        )

    def flat(self, name: str, source: str) -> str:
        count = math.prod(self.shapes[source][1:])
        return self.add(name, "reshape", source, (-1, count), shape=(-1, count))

    def dense(self, name: str, source: str, out: int) -> str:
        made = self.shapes[source][-1]
        return self.add(
            name,
            "dense",
            source,
            (*self.shapes[source][:-1], out),
            weight=self.normal((made, out), 1 / math.sqrt(made)),
            bias=self.normal((out,), 0.1),
        )

    def normal(self, shape: Shape, spread: float) -> NDArray[np.float32]:
        return (self.random.standard_normal(shape) * spread).astype(np.float32)

    def graph(self, *outputs: str, batch: int | None = None) -> Graph:
        return Graph(tuple(self.nodes), self.inputs, outputs, self.shapes, batch)


def window(size: tuple[int, int], strides: tuple[int, int]) -> dict[str, Any]:
    """Attributes of a pooling node without padding."""
    return {
        "pool_size": size,
        "strides": strides,
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }


def residual_network(seed: int = 0) -> Graph:
    """Convolutions with an identity and a projected shortcut, mean, dense: 8x8x3 to 5 scores."""
    b = Builder((-1, 8, 8, 3), seed)
    b.relu("stem", b.conv("stem.conv", "x", 8))
    b.relu("a", b.conv("a.conv", "stem", 8))
    b.relu("first", b.plus("first.add", b.conv("b.conv", "a", 8), "stem"))
    b.relu("c", b.conv("c.conv", "first", 16, stride=2))
    left = b.conv("d.conv", "c", 16)
    right = b.conv("shortcut", "first", 16, kernel=1, stride=2)
    b.relu("second", b.plus("second.add", left, right))
    b.dense("scores", b.flat("flat", b.mean("mean", "second")), 5)
    return b.graph("scores")


def separable_network(seed: int = 0) -> Graph:
    """Depthwise and pointwise convolutions with a clip at 6: 8x8x3 to 5 scores."""
    b = Builder((-1, 8, 8, 3), seed)
    b.relu("stem", b.conv("stem.conv", "x", 8), 6.0)
    b.relu("deep", b.conv("deep.conv", "stem", 8, groups=8), 6.0)
    b.relu("wide", b.conv("wide.conv", "deep", 16, kernel=1), 6.0)
    b.dense("scores", b.flat("flat", b.mean("mean", "wide")), 5)
    return b.graph("scores")


def images(graph: Graph, count: int, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Random inputs for ``graph``."""
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal((count, *graph.shapes[name][1:])).astype(np.float32)
        for name in graph.inputs
    }
