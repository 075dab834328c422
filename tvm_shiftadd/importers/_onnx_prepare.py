"""Bring an ONNX graph into the form the importer walks: named nodes, folded constants."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner
import onnx_ir as ir
from onnxscript.optimizer import constant_folding

from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers.naming import UniqueNames

#: Folding makes at most this many elements, and some for each that is stored in the model: a few
#: bytes of a file can claim any size, while what is made of weights grows with them.
_FOLD_LIMIT = 2**26
_FOLDS_PER_WEIGHT = 8

#: Inputs of this many elements in all, as shape computations have, make nothing large.
_SMALL_INPUTS = 2**12

Shapes = Mapping[str, Sequence[int]] | Sequence[int]


@dataclass(frozen=True)
class PreparedGraph:
    """A folded graph; ``names`` gives the source node's name by the first output's name."""

    graph: onnx.GraphProto
    names: Mapping[str, str]


def prepare(model: onnx.ModelProto, shape: Shapes | None) -> PreparedGraph:
    """Inline functions, drop weights from the inputs, name the nodes, fold constants.

    ``model`` is changed. Batch norm is left alone: folding it is a pass of its own.

    Raises:
        ModelError: an input's shape is open besides the batch and ``shape`` does not give it.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    # Intermediate shapes may be stale (a batch of one is often baked in); they are inferred anew.
    del graph.value_info[:]
    # From version 4 of the format on, weights need not be inputs.
    model.ir_version = max(model.ir_version, 4)
    _fix_shapes(graph, shape)
    names = _name_nodes(graph)
    return PreparedGraph(_fold(model).graph, names)


def _fix_shapes(graph: onnx.GraphProto, shape: Shapes | None) -> None:
    """Settle the inputs' shapes; open batches are one, under the first one's name."""
    overrides = _by_name(graph, shape)
    batch = ""
    for value in graph.input:
        if value.name in overrides:
            _set_shape(value, overrides[value.name])
        dims = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape") or not dims:
            raise ModelError(
                f"Input '{value.name}' has no shape: give it, batch first, with "
                f"shape={{'{value.name}': (1, 3, 224, 224)}}."
            )
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis == 0:
                batch = batch or dim.dim_param or "N"
                dim.dim_param = batch
                continue
            label = dim.dim_param or "?"
            raise ModelError(
                f"Input '{value.name}' leaves axis {axis} open ('{label}') besides the batch: give "
                f"its whole shape, for instance shape={{'{value.name}': (-1, 3, 224, 224)}}."
            )


def _by_name(graph: onnx.GraphProto, shape: Shapes | None) -> dict[str, tuple[int, ...]]:
    if shape is None:
        return {}
    inputs = [value.name for value in graph.input]
    if not isinstance(shape, Mapping):
        if len(inputs) != 1:
            raise ModelError(
                f"Expected shapes by input name ({', '.join(inputs)}), but got {shape}."
            )
        shape = {inputs[0]: shape}
    unknown = sorted(set(shape) - set(inputs))
    if unknown:
        raise ModelError(
            f"A shape is given for '{unknown[0]}', but the inputs are {', '.join(inputs)}."
        )
    return {name: tuple(int(dim) for dim in dims) for name, dims in shape.items()}


def _set_shape(value: onnx.ValueInfoProto, dims: tuple[int, ...]) -> None:
    present = value.type.tensor_type.shape.dim
    if value.type.tensor_type.HasField("shape") and len(present) != len(dims):
        raise ModelError(
            f"Input '{value.name}' has {len(present)} axes, but the shape given has {len(dims)}."
        )
    if any(dim < 1 for dim in dims[1:]) or not dims or dims[0] < -1 or dims[0] == 0:
        raise ModelError(
            f"Expected positive dimensions (-1 for an open batch) for '{value.name}', but got "
            f"{dims}."
        )
    batch = present[0].dim_param if present else ""
    del present[:]
    for axis, dim in enumerate(dims):
        entry = value.type.tensor_type.shape.dim.add()
        if axis == 0 and dim == -1:
            entry.dim_param = batch or "N"
        else:
            entry.dim_value = dim


def _name_nodes(graph: onnx.GraphProto) -> dict[str, str]:
    """Name every node; the name is the node's own, else its first output's.

    Names are given before folding because the optimizer numbers the nodes it finds unnamed.
    """
    unique = UniqueNames()
    for value in graph.input:
        unique(value.name)
    names: dict[str, str] = {}
    for node in graph.node:
        output = next((name for name in node.output if name), "")
        node.name = unique(node.name or output)
        names[output] = node.name
    return names


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Evaluate what does not depend on the inputs' values: constants and shape computations."""
    inputs = {value.name: value for value in model.graph.input}
    for value in model.graph.output:
        if value.name in inputs:
            value.CopyFrom(inputs[value.name])
        else:
            value.type.tensor_type.ClearField("shape")
    _drop_dead_nodes(model.graph)
    folded = ir.from_proto(model)
    budget = _FoldBudget(folded)
    with _quiet("onnxscript"):
        constant_folding.fold_constants(
            folded,
            onnx_shape_inference=True,
            input_size_limit=budget.left,
            output_size_limit=budget.left,
            should_fold=budget.allows,
        )
    result: onnx.ModelProto = ir.to_proto(folded)
    _drop_dead_nodes(result.graph)
    return result


class _FoldBudget:
    """How many elements constants may still be folded into."""

    def __init__(self, model: ir.Model) -> None:
        stored = sum(_size(value) or 0 for value in model.graph.initializers.values())
        self.left = _FOLD_LIMIT + _FOLDS_PER_WEIGHT * stored

    def allows(self, node: ir.Node) -> bool:
        """Whether to fold a node whose inputs are constants.

        Raises:
            ModelError: it makes too much, and TVM's importer would evaluate it all the same.
        """
        sizes = [_made(node, output) for output in node.outputs]
        if any(size is None for size in sizes):
            return sum(_size(x) or 0 for x in node.inputs if x is not None) <= _SMALL_INPUTS
        self.left -= sum(size for size in sizes if size is not None)
        if self.left < 0:
            raise ModelError(
                f"Operator {node.op_type} (node '{node.name}') computes constants that are too "
                "large for a model of this size: the file is damaged, or store them as weights."
            )
        return True


def _made(node: ir.Node, output: ir.Value) -> int | None:
    """The elements of a result, None where they are not known before it is computed."""
    shape = node.inputs[0] if node.op_type == "ConstantOfShape" else None
    if shape is not None and shape.const_value is not None:
        return math.prod(max(int(dim), 0) for dim in shape.const_value.numpy().ravel())
    return _size(output)


def _size(value: ir.Value) -> int | None:
    """The elements of a tensor of static shape, else None."""
    dims = [dim for dim in value.shape or () if isinstance(dim, int)]
    return math.prod(dims) if value.shape is not None and len(dims) == len(value.shape) else None


def _drop_dead_nodes(graph: onnx.GraphProto) -> None:
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
            needed.update(_outer_names(node))
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    used = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a control flow node may read from outside."""
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else []
        for graph in (*graphs, *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _outer_names(inner)


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Only errors of a chatty library; its warnings are about what it left alone."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
