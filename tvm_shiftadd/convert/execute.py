"""The network on NumPy arrays: in float, and in the integers of a conversion.

:func:`run_integer` is the oracle of every back end. It follows the integer specification to the
bit, with the operators of :mod:`tvm_shiftadd.formats.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tvm_shiftadd.convert.feeds import Feeds
from tvm_shiftadd.convert.graph import ADDER_OPS, WEIGHT_OPS, Graph, Node
from tvm_shiftadd.convert.operators import MOVEMENT_OPS, move, pool_window, run_node
from tvm_shiftadd.convert.plan import AdderPlan, ChannelFactor, LayerPlan, Plan
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats import codes, reference
from tvm_shiftadd.formats.pooling import Activations
from tvm_shiftadd.formats.ranges import activation_range

Value = TypeVar("Value")

Float = NDArray[np.float32]


@dataclass(frozen=True)
class QTensor:
    """Integers and their scale: the real value is ``values * 2^-exponent``.

    values: int8 or uint8, or int32 while wide; exponent: int32 ``[1]`` or ``[C]``, along the last
    axis; bounds: clip bounds (real numbers) that the next requantisation applies.
    """

    values: NDArray[Any]
    exponent: NDArray[np.int32]
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def wide(self) -> bool:
        """Whether these are accumulators rather than stored values."""
        return self.values.dtype == np.int32


def run_float(graph: Graph, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Float]:
    """The outputs and the tensors named in ``keep`` of the float network, float32.

    Every other tensor is freed as soon as nothing needs it.
    """

    def step(node: Node, inputs: Sequence[Float]) -> Float:
        return run_node(node, inputs, graph)

    return _run(graph, feeds, keep, step)


def run_integer(
    graph: Graph, plan: Plan, feeds: Feeds, keep: Collection[str] = ()
) -> tuple[dict[str, Float], dict[str, QTensor]]:
    """The converted network: (outputs as float32, the integer tensors named in ``keep``).

    Raises ConversionError where ``plan`` does not fit ``graph``.
    """

    def step(node: Node, inputs: Sequence[QTensor | Float]) -> QTensor | Float:
        return integer_node(graph, plan, node, inputs)

    values = _run(graph, feeds, keep, step)
    outputs = {name: to_float(values[name]) for name in graph.outputs}
    taps = {
        name: to_integers(values[name], name, plan)
        for name in keep
        if isinstance(values[name], QTensor) or name in plan.exponents
    }
    return outputs, taps


def integer_node(
    graph: Graph, plan: Plan, node: Node, inputs: Sequence[QTensor | Float]
) -> QTensor | Float:
    """One node of the converted network; a stored result comes requantised."""
    if node.on_host:
        return run_node(node, [to_float(value) for value in inputs], graph)
    operands = [
        to_integers(value, name, plan) for value, name in zip(inputs, node.inputs, strict=True)
    ]
    return store(_operate(node, operands, plan), node.output, plan)


def to_float(value: QTensor | Float) -> Float:
    """A tensor as the host sees it."""
    if not isinstance(value, QTensor):
        return value
    if value.bounds != (-math.inf, math.inf):
        raise ConversionError("a clipped accumulator reached the host; store it as int8 first")
    return reference.dequantize(value.values, value.exponent)


def to_integers(value: QTensor | Float, name: str, plan: Plan) -> QTensor:
    """A tensor as a region sees it: floats are quantised with exponent and type of their name."""
    if isinstance(value, QTensor):
        return value
    exponent = exponent_of(name, plan)
    return QTensor(reference.quantize(value, exponent, plan.dtype(name)), as_exponent(exponent))


def store(value: QTensor, name: str, plan: Plan) -> QTensor:
    """Requantise a wide tensor that the plan stores; any other stays as it is."""
    if name not in plan.exponents:
        return value
    exponent, dtype = plan.exponents[name], plan.dtype(name)
    if value.wide:
        lo, hi = integer_bounds(value.bounds, exponent, dtype)
        shift = (value.exponent - exponent).astype(np.int32)
        values = reference.requantize(value.values, shift, lo, hi, dtype)
        return QTensor(values, as_exponent(exponent))
    if int(value.exponent[0]) != exponent or value.values.dtype != dtype:
        raise ConversionError(
            f"tensor '{name}' keeps the exponent {int(value.exponent[0])} and the type "
            f"{value.values.dtype} of its input, but the plan says {exponent} and {dtype}; "
            "convert the network again"
        )
    return value


def integer_bounds(
    bounds: tuple[float, float], exponent: int, dtype: DTypeLike = np.int8
) -> tuple[int, int]:
    """Clip bounds as values of ``dtype`` on the scale 2^-exponent, rounded half to even."""
    ends = activation_range(dtype)

    def scaled(bound: float) -> int:
        return int(np.clip(np.rint(np.ldexp(np.float64(bound), exponent)), *ends))

    return scaled(bounds[0]), scaled(bounds[1])


def layer_weight(node: Node, layer: LayerPlan) -> NDArray[np.int32]:
    """The decoded integers of a layer in the shape of its float weight."""
    if node.weight is None:
        raise ConversionError(f"layer '{node.name}' ({node.op}) has no weight; rebuild the graph")
    return codes.decode(layer.codes).reshape(node.weight.shape)


def as_exponent(exponent: int) -> NDArray[np.int32]:
    """One exponent for all channels, int32 [1]."""
    return np.array([exponent], dtype=np.int32)


def exponent_of(name: str, plan: Plan) -> int:
    """The exponent of a stored tensor. Raises ConversionError where the plan has none."""
    if name not in plan.exponents:
        raise ConversionError(f"the plan has no exponent for tensor '{name}'; convert again")
    return plan.exponents[name]


def run_layer(
    node: Node, x: Activations, weight: NDArray[np.int32], bias: NDArray[np.int32] | None
) -> NDArray[np.int32]:
    """The accumulators of a weight layer."""
    if node.op == "dense":
        return reference.dense(x, weight, bias)
    where: dict[str, Any] = {
        key: tuple(node.attrs[key]) for key in ("strides", "padding", "dilation")
    }
    if node.op == "conv2d":
        return reference.conv2d(x, weight, bias, groups=int(node.attrs["groups"]), **where)
    where["output_padding"] = tuple(node.attrs["output_padding"])
    return reference.conv2d_transpose(x, weight, bias, **where)


def run_adder(node: Node, x: NDArray[np.int8], adder: AdderPlan) -> NDArray[np.int32]:
    """The accumulators of an adder layer, bias included, before its factor."""
    if node.weight is None:
        raise ConversionError(f"layer '{node.name}' ({node.op}) has no weight; rebuild the graph")
    weight = adder.weight.reshape(node.weight.shape)
    if node.op == "adder_dense":
        return reference.adder_dense(x, weight, adder.bias)
    strides, padding = (tuple(node.attrs[key]) for key in ("strides", "padding"))
    return reference.adder_conv2d(x, weight, adder.bias, strides=strides, padding=padding)


def scaled(value: QTensor, factor: ChannelFactor | None) -> QTensor:
    """Accumulators times a factor a channel, where there is one."""
    if factor is None:
        return value
    exponent = (value.exponent + factor.exponent).astype(np.int32)
    return QTensor(reference.scale(value.values, factor.codes), exponent)


def clip(node: Node, operand: QTensor) -> QTensor:
    """A clip: at once on stored values, noted for the next requantisation on a wide tensor."""
    lo, hi = float(node.attrs["lo"]), float(node.attrs["hi"])
    if not operand.wide:
        bounds = integer_bounds((lo, hi), int(operand.exponent[0]), operand.values.dtype)
        return replace(operand, values=reference.clip(operand.values, *bounds))
    before, after = operand.bounds
    return replace(operand, bounds=(min(max(before, lo), hi), min(max(after, lo), hi)))


def _operate(node: Node, operands: Sequence[QTensor], plan: Plan) -> QTensor:
    first = operands[0]
    if node.op in WEIGHT_OPS:
        layer = plan.layers[node.name]
        acc = run_layer(node, first.values, layer_weight(node, layer), layer.bias)
        return scaled(QTensor(acc, first.exponent + layer.weight_exponent), layer.factor)
    if node.op in ADDER_OPS:
        adder = plan.adders[node.name]
        acc = run_adder(node, first.values, adder)
        return scaled(QTensor(acc, first.exponent), adder.factor)
    if node.op == "add":
        return _add(node, first, operands[1])
    if node.op == "clip":
        return clip(node, first)
    if node.op == "avg_pool2d":
        window = pool_window(node)
        size = (first.values.shape[1], first.values.shape[2])
        scale = reference.avg_pool_reciprocal(size, **window)
        acc = reference.avg_pool2d(first.values, **window)
        return QTensor(acc, first.exponent + np.int32(scale.shift))
    if node.op == "max_pool2d":
        return replace(first, values=reference.max_pool2d(first.values, **pool_window(node)))
    if node.op == "concat":
        exponent = exponent_of(node.output, plan)
        dtype = np.dtype(plan.dtype(node.output))
        parts = [_on_scale(operand, exponent, dtype) for operand in operands]
        return QTensor(move(node, parts), as_exponent(exponent))
    if node.op in MOVEMENT_OPS:
        return replace(first, values=move(node, [operand.values for operand in operands]))
    raise ConversionError(f"layer '{node.name}' is a {node.op}, which no region can hold")


def _on_scale(operand: QTensor, exponent: int, dtype: np.dtype[Any]) -> Activations:
    """Stored values on another scale or of another type, rounded and saturated where they must."""
    shift = (operand.exponent - exponent).astype(np.int32)
    if operand.values.dtype == dtype and not shift.any():
        return operand.values
    return reference.requantize(operand.values, shift, dtype=dtype)


def _add(node: Node, lhs: QTensor, rhs: QTensor) -> QTensor:
    if lhs.bounds != rhs.bounds or lhs.bounds != (-math.inf, math.inf):
        raise ConversionError(
            f"'{node.name}' adds a clipped accumulator; the plan must store it as int8 first"
        )
    exponent = np.maximum(lhs.exponent, rhs.exponent)
    values = reference.add(lhs.values, rhs.values, exponent - lhs.exponent, exponent - rhs.exponent)
    return QTensor(values, exponent)


def _run(
    graph: Graph,
    feeds: Mapping[str, Any],
    keep: Collection[str],
    step: Callable[[Node, Sequence[Any]], Value],
) -> dict[str, Any]:
    """Run ``step`` over the nodes, dropping every value after its last use."""
    kept = set(keep).union(graph.outputs)
    left = {name: len(readers) for name, readers in graph.consumers().items()}
    live: dict[str, Any] = {name: feeds[name] for name in graph.inputs}
    for node in graph.nodes:
        live[node.output] = step(node, [live[name] for name in node.inputs])
        for name in node.inputs:
            left[name] -= 1
            if not left[name] and name not in kept:
                live.pop(name, None)
        if not left[node.output] and node.output not in kept:
            del live[node.output]
    return {name: live[name] for name in kept}
