"""One operator at a time: every node of a :class:`Graph` on float arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.graph import ADDER_OPS, Graph, Node
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats import distance, linear
from tvm_shiftadd.formats.windows import pool_counts

Array = NDArray[Any]
Float = NDArray[np.float32]

#: Operators that only move values; they run alike on floats and on integers.
MOVEMENT_OPS = frozenset({"pad", "concat", "upsample2d", "reshape", "permute", "slice"})


def run_node(node: Node, inputs: Sequence[Array], graph: Graph | None = None) -> Array:
    """The float32 result of one node of ``graph``.

    A network of a fixed batch size can be run on more images: its host nodes are then called once
    for each batch. Axis 0 of every tensor holds the batches one after another.

    Raises ConversionError for an operator this project does not know.
    """
    if node.op == "host":
        return _run_host(node, inputs, graph)
    if node.op in MOVEMENT_OPS:
        return move(node, inputs)
    if node.op in ("conv2d", "conv2d_transpose", "dense"):
        return run_linear(node, inputs[0], node.weight, node.bias)
    if node.op in ADDER_OPS:
        return run_adder(node, inputs[0])
    if node.op == "add":
        return np.asarray(inputs[0] + inputs[1])
    if node.op == "clip":
        return np.clip(inputs[0], np.float32(node.attrs["lo"]), np.float32(node.attrs["hi"]))
    if node.op == "max_pool2d":
        return _pool(node, inputs[0], average=False)
    if node.op == "avg_pool2d":
        return _pool(node, inputs[0], average=True)
    raise ConversionError(f"layer '{node.name}' is a {node.op}, which the converter cannot run")


def run_linear(node: Node, x: Array, weight: Array | None, bias: Array | None) -> Array:
    """A weight layer with the given weight and bias, in the weight's dtype."""
    if weight is None:
        raise ConversionError(f"layer '{node.name}' ({node.op}) has no weight; rebuild the graph")
    if node.op == "dense":
        return linear.dense(x, weight, bias)
    where: dict[str, Any] = {
        key: tuple(node.attrs[key]) for key in ("strides", "padding", "dilation")
    }
    where["groups"] = int(node.attrs.get("groups", 1))
    if node.op == "conv2d":
        return linear.conv2d(x, weight, bias, **where)
    where["output_padding"] = tuple(node.attrs["output_padding"])
    return linear.conv2d_transpose(x, weight, bias, **where)


def run_adder(node: Node, x: Float) -> Float:
    """An adder layer in float32: ``factor * -sum |x - weight| + bias``."""
    if node.weight is None:
        raise ConversionError(f"layer '{node.name}' ({node.op}) has no weight; rebuild the graph")
    result = distances(node, x, node.weight)
    np.negative(result, out=result)
    if node.factor is not None:
        result *= node.factor
    if node.bias is not None:
        result += node.bias
    return result


def distances(node: Node, x: Array, weight: Array) -> Array:
    """``sum |x - weight|`` of an adder layer, for float32 or int8 arrays."""
    if node.op == "adder_dense":
        return distance.dense(x, weight)
    strides, padding = (tuple(node.attrs[key]) for key in ("strides", "padding"))
    return distance.conv2d(x, weight, strides=strides, padding=padding)


def move(node: Node, inputs: Sequence[Array]) -> Array:
    """A data movement operator on arrays of any dtype."""
    x = inputs[0]
    if node.op == "pad":
        return np.pad(x, np.reshape(np.asarray(node.attrs["pad_width"]), (x.ndim, 2)))
    if node.op == "concat":
        return np.concatenate(list(inputs), axis=node.attrs["axis"])
    if node.op == "upsample2d":
        tall, wide = node.attrs["scale"]
        return np.repeat(np.repeat(x, tall, axis=1), wide, axis=2)
    if node.op == "reshape":
        return x.reshape((x.shape[0], *node.attrs["shape"][1:]))
    if node.op == "permute":
        return x.transpose(node.attrs["axes"])
    return x[_slices(node, x.ndim)]


def pool_window(node: Node) -> dict[str, Any]:
    """The window of a pooling node as keyword arguments of ``formats``."""
    window: dict[str, Any] = {
        key: tuple(node.attrs[key]) for key in ("pool_size", "strides", "padding", "dilation")
    }
    window["ceil_mode"] = bool(node.attrs["ceil_mode"])
    if node.op == "avg_pool2d":
        window["count_include_pad"] = bool(node.attrs["count_include_pad"])
    return window


def _slices(node: Node, rank: int) -> tuple[slice, ...]:
    slices = [slice(None)] * rank
    keys = ("axes", "begin", "end", "strides")
    for axis, begin, end, step in zip(*(node.attrs[key] for key in keys), strict=True):
        # Going down, an end before the first element has no non-negative spelling.
        stop = None if step < 0 and end < 0 else end
        slices[axis] = slice(begin, stop, step)
    return tuple(slices)


def _run_host(node: Node, inputs: Sequence[Array], graph: Graph | None) -> Array:
    """Run the node's own function, batch by batch where the model's batch size is fixed."""
    if node.evaluate is None:
        raise ConversionError(f"host layer '{node.name}' cannot be run; rebuild the graph")
    if graph is None or graph.batch is None or not inputs:
        return np.asarray(node.evaluate(*inputs))
    # A host operator may have dropped the batch axis: what one batch makes of axis 0 counts.
    rows = [graph.shapes[name][0] for name in node.inputs]
    runs = max(-(-len(array) // size) for array, size in zip(inputs, rows, strict=True))
    pieces = []
    for run in range(runs):
        piece = [_batch(array, size, run) for array, size in zip(inputs, rows, strict=True)]
        pieces.append(np.asarray(node.evaluate(*piece)))
    result = np.concatenate(pieces) if runs > 1 else pieces[0]
    filled = rows[0] == graph.batch == len(pieces[0])
    return result[: len(inputs[0])] if filled else result


def _batch(array: Array, size: int, run: int) -> Array:
    """Rows of batch number ``run``, filled up with the last row."""
    part = array[run * size : (run + 1) * size]
    missing = size - len(part)
    return part if not missing else np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])


def _pool(node: Node, x: Float, average: bool) -> Float:
    window = pool_window(node)
    counts = pool_counts((x.shape[1], x.shape[2]), **window)
    height, width = counts.shape
    top, left = window["padding"][:2]
    (step_y, step_x), (spread_y, spread_x) = window["strides"], window["dilation"]
    kernel_y, kernel_x = window["pool_size"]
    reach_y = (height - 1) * step_y + spread_y * (kernel_y - 1) + 1
    reach_x = (width - 1) * step_x + spread_x * (kernel_x - 1) + 1
    full = np.full(
        (x.shape[0], max(reach_y, top + x.shape[1]), max(reach_x, left + x.shape[2]), x.shape[3]),
        0 if average else -np.inf,
        dtype=np.float32,
    )
    full[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    combine = np.add if average else np.maximum
    views: list[Float] = []
    for ky in range(kernel_y):
        rows = slice(ky * spread_y, ky * spread_y + (height - 1) * step_y + 1, step_y)
        for kx in range(kernel_x):
            columns = slice(kx * spread_x, kx * spread_x + (width - 1) * step_x + 1, step_x)
            views.append(full[:, rows, columns])
    result = views[0].copy()
    for view in views[1:]:
        combine(result, view, out=result)
    if average:
        result /= counts[None, :, :, None].astype(np.float32)
    return result
