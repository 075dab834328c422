"""ONNX to Relax: TVM's front end where it serves, own converters where the passes need a form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_shiftadd._compat import GenericConst, TensorType, TupleType, ir, relax, tirx
from tvm_shiftadd.errors import ModelError, ShiftAddError
from tvm_shiftadd.importers._common import (
    closed_on_error,
    one_line_errors,
    tvm_reason,
    unsupported,
)
from tvm_shiftadd.importers._onnx_layers import LAYER_CONVERTERS, Converter
from tvm_shiftadd.importers._onnx_node import OnnxNode
from tvm_shiftadd.importers._onnx_prepare import PreparedGraph, prepare
from tvm_shiftadd.importers._onnx_quant_nodes import replace_quant_nodes
from tvm_shiftadd.importers._onnx_quantize import QuantizedTensors
from tvm_shiftadd.importers._onnx_reader import check_valid, read_model
from tvm_shiftadd.importers._onnx_shapes import SHAPE_CONVERTERS
from tvm_shiftadd.importers.naming import name_variables

_CONVERTERS: dict[str, Converter] = {**LAYER_CONVERTERS, **SHAPE_CONVERTERS}

#: More elements a sample than this is a damaged attribute; as float32 they would take 1 GiB.
_MAX_ELEMENTS = 2**28

#: Control flow has no place in a single dataflow function.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def load_onnx(
    source: Any, *, shape: Mapping[str, Sequence[int]] | Sequence[int] | None = None
) -> ir.IRModule:
    """Import an ONNX model; see :func:`tvm_shiftadd.importers.load`.

    Args:
        source: a path or an ``onnx.ModelProto``.
        shape: shapes for inputs that leave more than the batch open.

    Raises:
        ModelError: the file or the model is unusable.
        UnsupportedOperatorError: an operator that TVM cannot import either.
    """
    subject = "The ONNX model" if isinstance(source, onnx.ModelProto) else f"'{source}'"
    with one_line_errors(subject), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = read_model(source)
        notes = replace_quant_nodes(read.model, read.opset)
        _check_operators(read.model)
        check_valid(read)
        module = _Importer(prepare(read.model, shape), read.opset, notes).run()
    attributes = {"format": "onnx", "opset": str(read.opset), "sha256": read.sha256}
    module["main"] = module["main"].with_attr("shiftadd.source", attributes)
    return module


def _check_operators(model: onnx.ModelProto) -> None:
    known = set(onnx_frontend._get_convert_map()) | set(_CONVERTERS) | {"Constant"}
    inlined = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        name = node.name or (node.output[0] if node.output else "")
        if (node.domain, node.op_type) in inlined:
            continue
        if node.domain not in ("", "ai.onnx"):
            raise unsupported(f"{node.domain}.{node.op_type}", name, "its domain is not ONNX's own")
        if node.op_type in _CONTROL_FLOW:
            raise unsupported(node.op_type, name, "control flow is not handled")
        if node.op_type not in known:
            raise unsupported(node.op_type, name, "neither this project nor TVM knows it")


class _Importer(onnx_frontend.ONNXGraphImporter):
    """Walks the nodes in order and binds each one's result under the node's name."""

    def __init__(self, prepared: PreparedGraph, opset: int, notes: list[str]) -> None:
        super().__init__(shape_dict={}, dtype_dict="float32")
        self.opset = opset
        self._prepared = prepared
        self._names: dict[str, str] = {}
        self._operators: dict[str, str] = {}
        self._notes = notes
        self._quantized = QuantizedTensors(self._notes)
        self._graph_outputs = [value.name for value in prepared.graph.output]

    def run(self) -> ir.IRModule:
        """Build the module."""
        graph = self._prepared.graph
        self._parse_graph_initializers(graph)
        symbols: dict[str, Any] = {}
        params = [self._parameter(value, symbols) for value in graph.input]
        with closed_on_error(lambda: self.bb), self.bb.function("main", params=params):
            with self.bb.dataflow():
                for node in graph.node:
                    self._add_node(node)
                outputs = [self._output(name) for name in self._graph_outputs]
            self.bb.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        module = name_variables(self.bb.get(), self._names)
        module["main"] = module["main"].with_attrs(
            {
                "shiftadd.outputs": self._graph_outputs,
                "shiftadd.operators": self._operators,
                "shiftadd.notes": self._notes,
            }
        )
        return module

    def _parameter(self, value: onnx.ValueInfoProto, symbols: dict[str, Any]) -> relax.Var:
        dims = []
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                dims.append(dim.dim_value)
            else:
                dims.append(symbols.setdefault(dim.dim_param, tirx.Var(dim.dim_param, "int64")))
        param = relax.Var(value.name, TensorType(dims, "float32"))
        self._nodes[value.name] = param
        return param

    def _add_node(self, proto: onnx.NodeProto) -> None:
        outputs = list(proto.output)
        name = self._prepared.names.get(next((o for o in outputs if o), ""), "")
        name = name or proto.name or outputs[0]
        node = OnnxNode(
            op_type=proto.op_type,
            name=name,
            opset=self.opset,
            inputs=[self._nodes[i] if i else None for i in proto.input],
            attrs=self._parse_attr(proto.attribute),
            builder=self.bb,
            bind=self._bind,
            notes=self._notes,
            outputs=outputs,
        )
        try:
            result = self._quantized.convert(node, proto)
            if result is None:
                result = self._convert(node)
            self._keep(node, result)
        except ShiftAddError:
            raise
        except Exception as error:  # TVM's converters raise what they like
            raise node.unsupported(tvm_reason(error)) from error

    def _convert(self, node: OnnxNode) -> relax.Expr:
        converter = _CONVERTERS.get(node.op_type)
        result = converter(node) if converter is not None else None
        if result is not None:
            return result
        attrs = dict(node.attrs)
        attrs["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
        inputs = onnx_frontend.onnx_input(node.inputs)
        return self._convert_operator(node.op_type, inputs, attrs, self.opset)

    def _keep(self, node: OnnxNode, result: relax.Expr) -> None:
        """Bind a node's result and remember it under the names of the node's outputs."""
        if isinstance(result, relax.Call):
            result = self.bb.normalize(result)  # gives it a type
        is_tuple = isinstance(result, relax.Tuple) or isinstance(
            getattr(result, "ty", None), TupleType
        )
        if not is_tuple:
            self._nodes[node.outputs[0]] = self._bind_result(
                node, result, node.outputs[0], node.result_suffix
            )
            return
        if not isinstance(result, relax.Tuple):
            bundle = self._bind(result, f"{node.name}.results")
            result = [relax.TupleGetItem(bundle, i) for i in range(len(node.outputs))]
        for index, output in enumerate(node.outputs):
            if output:
                suffix = f".output{index}" if index else ""
                item = result[index]
                if isinstance(item, relax.Call | relax.TupleGetItem):
                    item = self.bb.normalize(item)
                self._nodes[output] = self._bind_result(node, item, output, suffix)

    def _bind_result(self, node: OnnxNode, result: Any, output: str, suffix: str) -> Any:
        """Bind a result unless it is a constant, a shape or a variable with a name of its own."""
        if isinstance(result, GenericConst | relax.ShapeExpr):
            return result
        if not isinstance(getattr(result, "ty", None), TensorType):
            return result
        self._operators.setdefault(node.name, node.op_type)
        _check_elements(node, result)
        if isinstance(result, relax.Var):
            if result.name not in self._names and isinstance(result, relax.DataflowVar):
                self._names[result.name] = node.name + suffix
            return result
        return self._bind(result, node.name + suffix)

    def _bind(self, expr: relax.Expr, name: str) -> relax.Var:
        var = self.bb.emit(expr)
        self._names[var.name] = name
        return var

    def _output(self, name: str) -> relax.Var:
        """The variable the function returns for an output."""
        if name not in self._nodes:
            raise ModelError(f"The model's output '{name}' is made by none of its operators.")
        result = self._nodes[name]
        integers = self._quantized.integers(name, result)
        if integers is not None:
            result = self._bind(integers, f"{name}.integers")
        var = self.bb.emit_output(result)
        self._names[var.name] = name
        return var


def _check_elements(node: OnnxNode, result: Any) -> None:
    dims = [int(d) for d in getattr(result.ty.shape, "values", []) if isinstance(d, tirx.IntImm)]
    # Of a fixed batch, only a part of the memory is one sample's.
    if math.prod(dims) // max(dims[:1], default=1) > _MAX_ELEMENTS:
        raise node.unsupported(
            f"its result of {dims} has more than {_MAX_ELEMENTS} elements a sample"
        )
