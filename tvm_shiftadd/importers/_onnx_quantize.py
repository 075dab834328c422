"""QuantizeLinear and DequantizeLinear: import a quantised model as the float one it stands for.

Constants that pass through them are folded. On activations a pair rounds and saturates;
this compiler chooses its own scales, so only the saturation is kept, as a clip to the range that
the pair can represent. An absorbed ReLU lives on in that clip. A quantised tensor that is a result
of the graph is rounded to its integers for the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tvm_shiftadd._compat import relax
from tvm_shiftadd.importers._common import float_constant, unsupported
from tvm_shiftadd.importers._onnx_node import OnnxNode

#: Operators that give the same on integers as on the floats they stand for.
_TRANSPARENT = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Identity",
        "DepthToSpace",
        "SpaceToDepth",
    }
)

#: Integer operators: their models are to be exported in the QuantizeLinear form instead.
_INTEGER_OPERATORS = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulInteger16",
        "DynamicQuantizeLinear",
    }
)


class QuantizedTensors:
    """Follows the tensors between a QuantizeLinear and its DequantizeLinear."""

    def __init__(self, notes: list[str]) -> None:
        self._scales: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._notes = notes

    def convert(self, node: OnnxNode, proto: onnx.NodeProto) -> relax.Expr | None:
        """The result of a node that quantises, dequantises or stands between; else None."""
        if node.op_type in _INTEGER_OPERATORS:
            raise node.unsupported(
                "integer operators are not handled; export the model with QuantizeLinear and "
                "DequantizeLinear around float operators"
            )
        if node.op_type == "QuantizeLinear":
            return self._quantize(node, proto)
        source = proto.input[0] if proto.input else ""
        if node.op_type == "DequantizeLinear":
            return self._dequantize(node, source)
        between = [name for name in proto.input if name in self._scales]
        if between:
            if node.op_type not in _TRANSPARENT:
                raise node.unsupported(
                    f"it reads the quantised tensor '{between[0]}' without a DequantizeLinear"
                )
            for output in proto.output:
                self._scales[output] = self._scales[source]
        return None

    def integers(self, name: str, values: relax.Expr) -> relax.Expr | None:
        """The integers of a quantised tensor, for a result of the graph; None if it is not one.

        ``values`` are the floats that the tensor stands for, within the range of its integers.

        Raises:
            UnsupportedOperatorError: its channels have scales of their own.
        """
        if name not in self._scales:
            return None
        scale, zero = self._scales[name]
        if scale.size != 1 or zero.size != 1:
            raise unsupported(
                "QuantizeLinear",
                name,
                "the model returns its integers, which have a scale a channel; return the floats",
            )
        steps = relax.op.round(relax.op.divide(values, float_constant(scale.reshape(()))))
        offset = float_constant(zero.reshape(()))
        return relax.op.astype(relax.op.add(steps, offset), str(zero.dtype))

    def _quantize(self, node: OnnxNode, proto: onnx.NodeProto) -> relax.Expr:
        scale, zero = node.constant(1), _zero_point(node)
        if scale is None or zero is None:
            raise node.unsupported("its scale or zero point depends on the input's values")
        if zero.dtype.kind not in "iu":
            raise node.unsupported(f"it quantises to {zero.dtype}, not to integers")
        limits = np.iinfo(zero.dtype)
        values = node.constant(0)
        if values is not None:
            factor, shift = _along_axis(node, values, scale), _along_axis(node, values, zero)
            steps = np.rint(values / factor) + shift.astype(np.float32)
            return relax.const(np.clip(steps, limits.min, limits.max).astype(zero.dtype))
        offset = zero.astype(np.float64)
        lo = float(np.min((limits.min - offset) * scale))
        hi = float(np.max((limits.max - offset) * scale))
        self._scales[proto.output[0]] = (scale, zero)
        self._notes.append(
            f"{node.name}: rounding left out, values clipped to [{lo:.6g}, {hi:.6g}]"
        )
        return relax.op.clip(node.inputs[0], lo, hi)

    def _dequantize(self, node: OnnxNode, source: str) -> relax.Expr:
        expr = node.inputs[0]
        scale = node.constant(1)
        values = node.constant(0)
        if values is not None and scale is not None:
            zero = np.zeros(1, values.dtype) if node.input(2) is None else node.constant(2)
            if zero is not None:
                steps = values.astype(np.float32) - _along_axis(node, values, zero)
                return float_constant(steps * _along_axis(node, values, scale))
        if source not in self._scales:
            raise node.unsupported("its input does not come from a QuantizeLinear")
        zero = _zero_point(node)
        expected = self._scales[source]
        if scale is None or zero is None:
            raise node.unsupported("its scale or zero point depends on the input's values")
        if not (np.array_equal(scale, expected[0]) and np.array_equal(zero, expected[1])):
            raise node.unsupported("its scale differs from that of its QuantizeLinear")
        return expr


def _along_axis(node: OnnxNode, values: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
    """A scale or zero point of one value, or of one value a channel, ready to broadcast."""
    factor = factor.astype(np.float32)
    if factor.size == 1:
        return factor.reshape(())
    axis = int(node.attrs.get("axis", 1))
    axis += values.ndim if axis < 0 else 0
    if factor.ndim != 1 or axis >= values.ndim or factor.size != values.shape[axis]:
        raise node.unsupported("scales of blocks are not handled, only one, or one a channel")
    return factor.reshape([-1 if i == axis else 1 for i in range(values.ndim)])


def _zero_point(node: OnnxNode) -> NDArray[Any] | None:
    """The zero point; its type is the type of the quantised tensor, uint8 where it is left out."""
    if node.input(2) is None:
        return np.zeros((), _output_type(node))
    return node.constant(2)


def _output_type(node: OnnxNode) -> Any:
    kind = int(node.attrs.get("output_dtype", 0))
    return onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype(np.uint8)
