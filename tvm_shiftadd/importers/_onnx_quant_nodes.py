"""Quant and BipolarQuant of QONNX: import a quantised model as the float one it stands for.

QONNX (of Brevitas, QKeras and FINN) writes quantisation as one operator from float to float. On a
weight it is folded, so that the weight has the values it is used with. On an activation it rounds
and saturates; this compiler chooses its own scales, so the saturation is kept, as a clip.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers._common import unsupported

#: Domains these operators have been exported under.
DOMAINS = frozenset({"qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas"})

_QUANT, _BIPOLAR = frozenset({"Quant", "IntQuant"}), "BipolarQuant"
_ROUNDING = {"ROUND": np.rint, "CEIL": np.ceil, "FLOOR": np.floor}

#: From this opset on, a Clip has its bounds as inputs.
_CLIP_INPUTS = 11


def replace_quant_nodes(model: onnx.ModelProto, opset: int) -> list[str]:
    """Replace QONNX's operators in ``model`` by constants and clips; notes on what was left out.

    Raises:
        ModelError: scales that make no sense.
        UnsupportedOperatorError: scales that are computed, or one bit of an activation.
    """
    graph = model.graph
    if not any(node.domain in DOMAINS for node in graph.node):
        return []
    notes: list[str] = []
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain not in DOMAINS or node.op_type not in {*_QUANT, _BIPOLAR}:
            kept.append(node)
            continue
        quantiser = _Quantiser(node, constants)
        if node.input[0] in constants:
            weight = numpy_helper.to_array(constants[node.input[0]])
            folded = numpy_helper.from_array(quantiser.apply(weight), node.output[0])
            graph.initializer.append(folded)
            constants[node.output[0]] = folded
            continue
        low, high = quantiser.bounds()
        notes.append(f"{quantiser.name}: rounding left out, clipped to [{low:.6g}, {high:.6g}]")
        kept.append(_clip(graph, node, low, high, opset))
    del graph.node[:]
    graph.node.extend(kept)
    left = {node.domain for node in kept}
    imports = [entry for entry in model.opset_import if entry.domain not in DOMAINS - left]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return notes


class _Quantiser:
    """What one node does to the values that pass it."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> None:
        self.name = node.name or node.output[0]
        self._op = f"{node.domain}.{node.op_type}"
        self._bipolar = node.op_type == _BIPOLAR
        wanted = 2 if self._bipolar else 4
        if len(node.input) != wanted or any(name not in constants for name in node.input[1:]):
            raise unsupported(self._op, self.name, "its scale or bit width is not constant")
        values = [numpy_helper.to_array(constants[name]) for name in node.input[1:]]
        self._scale = values[0].astype(np.float32)
        if not (np.isfinite(self._scale).all() and (self._scale > 0).all()):
            raise ModelError(
                f"Quantiser '{self.name}' has a scale that is not positive: export it again."
            )
        self._zero, self._low, self._high = np.zeros((), np.float32), -1.0, 1.0
        if not self._bipolar:
            self._read(node, values[1], values[2])

    def _read(
        self, node: onnx.NodeProto, zero: NDArray[np.generic], bits: NDArray[np.generic]
    ) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 1))
        if bits.size != 1 or not 1 <= float(bits.item()) <= 32:
            raise unsupported(self._op, self.name, "its bit width is not one number from 1 to 32")
        levels = 2.0 ** (float(bits.item()) - signed)
        self._zero = zero.astype(np.float32)
        self._low = -levels + narrow if signed else 0.0
        self._high = levels - 1 if signed else levels - 1 - narrow
        self._bipolar = signed and float(bits.item()) == 1
        mode = attributes.get("rounding_mode", b"ROUND")
        mode = (mode.decode() if isinstance(mode, bytes) else str(mode)).upper()
        if mode not in _ROUNDING:
            raise unsupported(self._op, self.name, f"its rounding mode {mode} is not known")
        self._round = _ROUNDING[mode]

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """The quantised values, in float32."""
        steps = values.astype(np.float32) / self._scale + self._zero
        if self._bipolar:
            rounded = np.where(steps >= 0, np.float32(1), np.float32(-1))
        else:
            rounded = self._round(np.clip(steps, self._low, self._high))
        result = ((rounded - self._zero) * self._scale).astype(np.float32)
        if result.shape != values.shape:
            raise ModelError(
                f"Quantiser '{self.name}' has a scale of shape {list(self._scale.shape)} for a "
                f"tensor of shape {list(values.shape)}: it does not fit."
            )
        return result

    def bounds(self) -> tuple[float, float]:
        """The range of the quantised values; the widest where a channel has its own."""
        if self._bipolar:
            raise unsupported(
                self._op, self.name, "an activation of one bit, its sign, is not handled"
            )
        low, high = (self._low - self._zero) * self._scale, (self._high - self._zero) * self._scale
        return float(np.min(low)), float(np.max(high))


def _clip(
    graph: onnx.GraphProto, node: onnx.NodeProto, low: float, high: float, opset: int
) -> onnx.NodeProto:
    inputs, outputs = [node.input[0]], list(node.output)
    if opset < _CLIP_INPUTS:
        return helper.make_node("Clip", inputs, outputs, node.name, min=low, max=high)
    for suffix, bound in (("low", low), ("high", high)):
        name = f"{node.output[0]}.quant_{suffix}"
        graph.initializer.append(numpy_helper.from_array(np.float32(bound).reshape(()), name))
        inputs.append(name)
    return helper.make_node("Clip", inputs, outputs, node.name)
