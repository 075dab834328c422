"""A float network as a ``torch.fx`` module, for torch to run as its own.

Made of torch's layers, so that its compiler and its quantiser find what they know. Maps are
channels first to torch, in the memory format that the caller gives the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import Graph, Node
from tvm_shiftadd.errors import ModelError

Distances = Literal["cdist", "sums"]

#: Axes of a map [N, H, W, C] where torch has [N, C, H, W].
_TO_TORCH = {0: 0, 1: 2, 2: 3, 3: 1}
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
#: torch's order of a layer's weight where ours is [kh, kw, I, O], and [I, O].
_OIHW, _OI = (3, 2, 0, 1), (1, 0)


def torch_network(graph: Graph, distances: Distances = "cdist") -> Any:
    """The network as a ``torch.fx.GraphModule`` in evaluation mode, float32.

    Its inputs and outputs are those of ``graph``, in its order. Adder layers are ``unfold`` and
    then torch's ``cdist``, or with ``sums`` sums of absolute differences, as the authors of
    AdderNet write them. Raises ModelError for an operator that is not there.
    """
    return _Builder(graph, distances).build()


class _Builder:
    """Nodes of ``torch.fx`` by tensor; ``_first`` names the maps that are channels first there."""

    def __init__(self, graph: Graph, distances: Distances) -> None:
        import torch

        self._graph, self._distances = graph, distances
        self._root = torch.nn.Module()
        self._fx = torch.fx.Graph()
        self._values: dict[str, Any] = {}
        self._first: set[str] = set()

    def build(self) -> Any:
        import torch

        for index, name in enumerate(self._graph.inputs):
            self._values[name] = self._fx.placeholder(f"input_{index}")
        for node in self._graph.nodes:
            make: Callable[[Node], Any] | None = getattr(self, f"_{node.op}", None)
            if make is None:
                raise ModelError(f"torch: operator {_operator(node)} is not among those built")
            self._values[node.output] = make(node)
        self._fx.output(tuple(self._plain(name) for name in self._graph.outputs))
        return torch.fx.GraphModule(self._root, self._fx).eval()

    def _module(self, module: Any, *arguments: Any) -> Any:
        name = f"layer_{len(self._fx.nodes)}"
        self._root.add_module(name, module)
        return self._fx.call_module(name, arguments)

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._fx.call_function(function, arguments, named)

    def _plain(self, name: str) -> Any:
        """A tensor with the axes of the graph."""
        import torch

        value = self._values[name]
        return self._call(torch.permute, value, _CHANNELS_LAST) if name in self._first else value

    def _map(self, node: Node) -> Any:
        """The first operand as a map channels first; so is then the result."""
        import torch

        self._first.add(node.output)
        name = node.inputs[0]
        value = self._values[name]
        return value if name in self._first else self._call(torch.permute, value, _CHANNELS_FIRST)

    def _alike(self, node: Node) -> list[Any]:
        """Operands all in one order of axes, which the result has too."""
        if all(name in self._first for name in node.inputs):
            self._first.add(node.output)
            return [self._values[name] for name in node.inputs]
        return [self._plain(name) for name in node.inputs]

    def _padded(self, node: Node, x: Any) -> tuple[Any, tuple[int, int]]:
        """The map, and the padding that is left to the layer because both sides have as much."""
        import torch

        top, left, bottom, right = node.attrs["padding"]
        if (top, left) == (bottom, right):
            return x, (top, left)
        return self._call(torch.nn.functional.pad, x, [left, right, top, bottom]), (0, 0)

    def _conv2d(self, node: Node) -> Any:
        import torch

        x, padding = self._padded(node, self._map(node))
        weight, groups = _weight(node, _OIHW), int(node.attrs["groups"])
        outputs, inputs, *kernel = weight.shape
        layer = torch.nn.Conv2d(
            inputs * groups,
            outputs,
            tuple(kernel),
            tuple(node.attrs["strides"]),
            padding,
            tuple(node.attrs["dilation"]),
            groups,
            bias=node.bias is not None,
        )
        return self._module(_filled(layer, weight, node.bias), x)

    def _dense(self, node: Node) -> Any:
        import torch

        weight = _weight(node, _OI)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=node.bias is not None)
        return self._module(_filled(layer, weight, node.bias), self._plain(node.inputs[0]))

    def _adder_conv2d(self, node: Node) -> Any:
        x, padding = self._padded(node, self._map(node))
        weight = _weight(node, _OIHW)
        layer = adder_layer(weight, tuple(node.attrs["strides"]), padding, self._distances)
        return self._affine(node, self._module(layer, x), (1, -1, 1, 1))

    def _affine(self, node: Node, value: Any, shape: tuple[int, ...]) -> Any:
        """What follows an adder layer: a batch norm's factor, and a bias."""
        import torch

        for function, constant in ((torch.mul, node.factor), (torch.add, node.bias)):
            if constant is not None:
                name = f"constant_{len(self._fx.nodes)}"
                self._root.register_buffer(name, _tensor(constant.reshape(shape)))
                value = self._call(function, value, self._fx.get_attr(name))
        return value

    def _clip(self, node: Node) -> Any:
        import torch

        (x,) = self._alike(node)
        lo, hi = float(node.attrs["lo"]), float(node.attrs["hi"])
        if (lo, hi) == (0.0, math.inf):
            return self._module(torch.nn.ReLU(), x)
        return self._module(torch.nn.Hardtanh(lo, hi), x)

    def _add(self, node: Node) -> Any:
        import operator

        return self._call(operator.add, *self._alike(node))

    def _max_pool2d(self, node: Node) -> Any:
        import torch

        top, left, bottom, right = node.attrs["padding"]
        if (top, left) != (bottom, right):
            raise ModelError(f"torch: {node.name} pads one side more than the other")
        pool = torch.nn.MaxPool2d(
            tuple(node.attrs["pool_size"]),
            tuple(node.attrs["strides"]),
            (top, left),
            tuple(node.attrs["dilation"]),
            ceil_mode=bool(node.attrs["ceil_mode"]),
        )
        return self._module(pool, self._map(node))

    def _avg_pool2d(self, node: Node) -> Any:
        import torch

        top, left, bottom, right = node.attrs["padding"]
        if (top, left) != (bottom, right) or tuple(node.attrs["dilation"]) != (1, 1):
            raise ModelError(f"torch: {node.name} is a pooling that torch does not have")
        pool = torch.nn.AvgPool2d(
            tuple(node.attrs["pool_size"]),
            tuple(node.attrs["strides"]),
            (top, left),
            bool(node.attrs["ceil_mode"]),
            bool(node.attrs["count_include_pad"]),
        )
        return self._module(pool, self._map(node))

    def _permute(self, node: Node) -> Any:
        import torch

        (name,), axes = node.inputs, tuple(node.attrs["axes"])
        if name not in self._first and axes == _CHANNELS_LAST:
            self._first.add(node.output)
            return self._values[name]
        if name in self._first and axes == _CHANNELS_FIRST:
            return self._values[name]
        return self._call(torch.permute, self._plain(name), axes)

    def _reshape(self, node: Node) -> Any:
        import torch

        shape = [-1, *self._graph.shapes[node.output][1:]]
        return self._call(torch.reshape, self._plain(node.inputs[0]), shape)

    def _host(self, node: Node) -> Any:
        if _operator(node) not in ("relax.reshape", "relax.squeeze"):
            raise ModelError(f"torch: operator {_operator(node)} is not among those built")
        return self._reshape(node)

    def _pad(self, node: Node) -> Any:
        import torch

        pairs = np.reshape(np.asarray(node.attrs["pad_width"]), (-1, 2))
        (x,) = self._alike(node)
        if node.output in self._first:
            pairs = pairs[list(_CHANNELS_FIRST)]
        return self._call(torch.nn.functional.pad, x, [int(n) for n in pairs[::-1].reshape(-1)])

    def _slice(self, node: Node) -> Any:
        import operator

        (x,) = self._alike(node)
        taken = [slice(None)] * len(self._graph.shapes[node.inputs[0]])
        keys = ("axes", "begin", "end", "strides")
        for axis, begin, end, step in zip(*(node.attrs[key] for key in keys), strict=True):
            at = _TO_TORCH[axis] if node.output in self._first else axis
            taken[at] = slice(begin, end, step)
        return self._call(operator.getitem, x, tuple(taken))

    def _concat(self, node: Node) -> Any:
        import torch

        parts, axis = self._alike(node), int(node.attrs["axis"])
        return self._call(torch.cat, parts, _TO_TORCH[axis] if node.output in self._first else axis)


def adder_layer(
    weight: NDArray[np.float32],
    strides: tuple[int, int],
    padding: tuple[int, int],
    distances: Distances,
) -> Any:
    """``-sum |x - weight|`` over windows as a ``torch.nn.Module``; weight ``[O, I, kh, kw]``.

    Formulation: Chen et al., AdderNet, 2020, whose layer unfolds the map and sums; ``cdist`` is
    the same by torch's own kernel for distances.
    """
    import torch

    class Adder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", _tensor(weight.reshape(len(weight), -1)))

        def forward(self, x: Any) -> Any:
            columns = torch.nn.functional.unfold(x, weight.shape[2:], 1, padding, strides)
            if distances == "cdist":
                found = -torch.cdist(self.weight, columns.transpose(1, 2), p=1.0)
            else:
                found = -(self.weight[:, :, None] - columns[:, None]).abs().sum(2)
            rows = (x.shape[2] + 2 * padding[0] - weight.shape[2]) // strides[0] + 1
            return found.reshape(x.shape[0], len(weight), rows, -1)

    return Adder()


def _operator(node: Node) -> str:
    return str(node.attrs.get("operator", node.op))


def _weight(node: Node, order: tuple[int, ...]) -> NDArray[np.float32]:
    if node.weight is None:
        raise ModelError(f"layer '{node.name}' ({node.op}) has no weight; load the network again")
    return node.weight.transpose(order)


def _tensor(array: NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _filled(layer: Any, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> Any:
    import torch

    with torch.no_grad():
        layer.weight.copy_(_tensor(weight))
        if bias is not None:
            layer.bias.copy_(_tensor(bias))
    return layer.requires_grad_(False)
