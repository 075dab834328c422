"""How many operations one layer needs for one inference, in float and in shift-add form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm_shiftadd.convert.graph import ADDER_OPS, LAYER_OPS, WEIGHT_OPS, WIDE_OPS, Graph, Node
from tvm_shiftadd.convert.plan import AdderPlan, ChannelFactor, LayerPlan, Plan
from tvm_shiftadd.formats.codes import count_terms
from tvm_shiftadd.formats.reciprocal import reciprocal


@dataclass(frozen=True)
class Operations:
    """Counts of arithmetic on data; comparisons, address arithmetic and copies are not counted."""

    multiplies: int = 0
    adds: int = 0
    shifts: int = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.multiplies + other.multiplies,
            self.adds + other.adds,
            self.shifts + other.shifts,
        )


#: Multiplications a host operator makes for each element of its output. A division counts as one,
#: and so does a function such as exp. What is neither here nor below is unknown.
_ONE = """multiply divide power square leakyrelu prelu batch_norm mean avg_pool2d
    sqrt rsqrt exp log erf tanh sigmoid silu gelu"""
_HOST_MULTIPLIES: dict[str, int] = {
    **dict.fromkeys(_ONE.split(), 1),
    "softmax": 2,
    "log_softmax": 2,
    # Square for the variance, division by the deviation, scale.
    "instance_norm": 3,
    "group_norm": 3,
    "layer_norm": 3,
    # Two weights of two neighbours in each direction.
    "resize2d": 4,
}

#: Host operators that reduce: one multiplication for each element of their input.
_HOST_REDUCTIONS = frozenset({"variance", "std"})

_FREE = """add subtract negative abs maximum minimum max min sum clip relu reshape permute_dims
    concat split strided_slice dynamic_strided_slice squeeze expand_dims flatten broadcast_to pad
    take gather_elements gather_nd argmax argmin astype equal less greater where max_pool2d tile
    repeat flip stack floor ceil round sign shape_of zeros ones full arange topk sort
    non_max_suppression all_class_non_max_suppression tuple"""

#: Host operators that make no multiplication, and those of them that add.
_HOST_FREE = frozenset(_FREE.split())
_HOST_ADDS = frozenset({"add", "subtract", "sum"})


def size(graph: Graph, tensor: str) -> int:
    """Elements of a tensor for one inference, that is without its batch axis."""
    shape = graph.shapes[tensor]
    if shape and shape[0] in (-1, graph.batch):
        shape = shape[1:]
    return math.prod(max(dimension, 1) for dimension in shape)


def weight_positions(graph: Graph, node: Node) -> int:
    """How often each weight of a layer is used in one inference: once for each pixel or row."""
    if node.op in ("conv2d", "adder_conv2d"):
        return math.prod(graph.shapes[node.output][1:3])
    if node.op == "conv2d_transpose":
        return math.prod(graph.shapes[node.inputs[0]][1:3])
    return math.prod(max(d, 1) for d in graph.shapes[node.output][1:-1])


def multiply_accumulates(graph: Graph, node: Node) -> int | None:
    """Products of a weight layer, distances of an adder layer, or products of a host operator
    between two tensors; None if unknown.
    """
    if node.op in LAYER_OPS:
        weight = node.weight
        return 0 if weight is None else weight.size * weight_positions(graph, node)
    name = host_operator(node)
    if not node.on_host or not any(word in name for word in ("conv", "matmul", "dense", "linear")):
        return 0
    return _host_products(graph, node, name)


def _host_products(graph: Graph, node: Node, name: str) -> int | None:
    shapes = [graph.shapes[tensor] for tensor in node.inputs]
    if len(shapes) < 2:
        # A constant operand is inside the operator, and its shape is not known here.
        return None
    if "conv" not in name:
        inner = shapes[0][-1]
        return size(graph, node.output) * inner if inner > 0 else None
    pixels = shapes[0] if "transpose" in name else graph.shapes[node.output]
    return math.prod(shapes[1]) * math.prod(pixels[1:-1])


def host_operator(node: Node) -> str:
    """The last word of a host operator's name: ``softmax`` of ``relax.nn.softmax``."""
    return str(node.attrs.get("operator", node.op)).split(".")[-1].lower()


def float_operations(graph: Graph, node: Node) -> Operations | None:
    """Operations of the float network; None for a host operator whose products are unknown."""
    if node.on_host:
        return _host_operations(graph, node)
    if node.op in ADDER_OPS:
        distances = multiply_accumulates(graph, node) or 0
        elements = size(graph, node.output)
        scaled = 0 if node.factor is None else elements
        biases = 0 if node.bias is None else elements
        return Operations(multiplies=scaled, adds=2 * distances + biases)
    if node.op in WEIGHT_OPS:
        products = multiply_accumulates(graph, node) or 0
        biases = 0 if node.bias is None else size(graph, node.output)
        return Operations(multiplies=products, adds=products + biases)
    return _FLOAT.get(node.op, _nothing)(graph, node)


def _host_operations(graph: Graph, node: Node) -> Operations | None:
    products = multiply_accumulates(graph, node)
    if products is None or products:
        return None if products is None else Operations(multiplies=products, adds=products)
    name, elements = host_operator(node), size(graph, node.output)
    if name in _HOST_MULTIPLIES:
        return Operations(multiplies=_HOST_MULTIPLIES[name] * elements, adds=elements)
    if name in _HOST_REDUCTIONS:
        elements = size(graph, node.inputs[0])
        return Operations(multiplies=elements, adds=elements)
    return Operations(adds=elements if name in _HOST_ADDS else 0) if name in _HOST_FREE else None


def shift_add_operations(graph: Graph, node: Node, plan: Plan) -> Operations:
    """Operations of a region operator after conversion, requantisation included."""
    if node.op in WEIGHT_OPS:
        made = _layer_operations(graph, node, plan.layers[node.name])
    elif node.op in ADDER_OPS:
        made = _adder_operations(graph, node, plan.adders[node.name])
    else:
        made = _INTEGER.get(node.op, _nothing)(graph, node)
    wide = node.op in WIDE_OPS or (node.op == "clip" and node.inputs[0] not in plan.exponents)
    if wide and node.output in plan.exponents:
        # Rounding addend and shift of every element that is narrowed to int8.
        elements = size(graph, node.output)
        made += Operations(adds=elements, shifts=elements)
    return made


def _layer_operations(graph: Graph, node: Node, layer: LayerPlan) -> Operations:
    """One shift and one add for each non-zero term and position; one add for the bias."""
    used = count_terms(layer.codes) * weight_positions(graph, node)
    made = Operations(adds=used + size(graph, node.output), shifts=used)
    return made + _factor_operations(graph, node, layer.factor)


def _adder_operations(graph: Graph, node: Node, adder: AdderPlan) -> Operations:
    """A subtraction and an addition for each weight and position; one add for the bias."""
    distances = adder.weight.size * weight_positions(graph, node)
    made = Operations(adds=2 * distances + size(graph, node.output))
    return made + _factor_operations(graph, node, adder.factor)


def _factor_operations(graph: Graph, node: Node, factor: ChannelFactor | None) -> Operations:
    """A shift for each copy, and an addition for each but the first of a channel."""
    if factor is None:
        return Operations()
    pixels = size(graph, node.output) // factor.codes.shape[1]
    copies = count_terms(factor.codes)
    used = int(factor.codes.any(axis=0).sum())
    return Operations(adds=pixels * (copies - used), shifts=pixels * copies)


def _nothing(graph: Graph, node: Node) -> Operations:
    return Operations()


def _float_add(graph: Graph, node: Node) -> Operations:
    return Operations(adds=size(graph, node.output))


def _float_average(graph: Graph, node: Node) -> Operations:
    elements = size(graph, node.output)
    return Operations(multiplies=elements, adds=elements * math.prod(node.attrs["pool_size"]))


def _integer_add(graph: Graph, node: Node) -> Operations:
    elements = size(graph, node.output)
    return Operations(adds=elements, shifts=elements)


def _integer_average(graph: Graph, node: Node) -> Operations:
    elements = size(graph, node.output)
    count = math.prod(node.attrs["pool_size"])
    terms = len(reciprocal([count]).terms[count])
    return Operations(adds=elements * (count + terms - 1), shifts=elements * terms)


_Count = Callable[[Graph, Node], Operations]
_FLOAT: dict[str, _Count] = {"add": _float_add, "avg_pool2d": _float_average}
_INTEGER: dict[str, _Count] = {"add": _integer_add, "avg_pool2d": _integer_average}
