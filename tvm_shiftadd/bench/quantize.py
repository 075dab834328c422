"""A float ONNX model brought to int8 as onnxruntime's documentation recommends for CPUs.

Pre-processing first (shape inference and graph optimisation), then static quantisation: symmetric
int8 weights with a scale for each output channel, uint8 activations with ranges from calibration.
See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._processor import vector_features
from tvm_shiftadd.errors import ModelError

Feed = Mapping[str, NDArray[Any]]

#: The first version of ONNX's operators in which a channel can have its own scale.
_OPSET = 13
#: The first version of ONNX's format in which weights need not be inputs.
_WITHOUT_WEIGHTS = 4


def fix_shapes(source: Path, shapes: Mapping[str, Sequence[int]], out: Path) -> None:
    """Write a copy of a model whose inputs have these shapes, batch included, and no others.

    Weights that are listed among the inputs, as old files have them, are taken off that list: a
    runtime would have to expect others in each run, and could not prepare them. Raises ModelError
    where ONNX cannot read the model.
    """
    import onnx

    try:
        model = onnx.load(str(source))
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, _WITHOUT_WEIGHTS)
        for value in model.graph.input:
            if value.name in shapes:
                dims = value.type.tensor_type.shape.dim
                for dim, size in zip(dims, shapes[value.name], strict=True):
                    dim.Clear()
                    dim.dim_value = int(size)
        # What the file says of other tensors may hold the free batch; it is inferred anew.
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
        onnx.save(onnx.shape_inference.infer_shapes(model), str(out))
    except Exception as error:
        raise ModelError(f"the peers' copy of {source.name} could not be made: {error}") from error


def quantize(source: Path, out: Path, calibration: Sequence[Feed], operators: bool) -> None:
    """Write the int8 form of a model to ``out``.

    ``calibration``: inputs by name, at least one set. ``operators``: use onnxruntime's integer
    operators (QOperator), otherwise pairs of QuantizeLinear and DequantizeLinear (QDQ). Raises
    ModelError where onnxruntime cannot.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    kinds = quantization.QuantType
    form = quantization.QuantFormat
    with silence():
        try:
            prepared = out.with_suffix(".prepared.onnx")
            # Symbolic shape inference is for what a fixed batch does not settle, and needs sympy.
            shape_inference.quant_pre_process(
                str(_modern(source, out.with_suffix(".modern.onnx"))),
                str(prepared),
                skip_symbolic_shape=importlib.util.find_spec("sympy") is None,
            )
            quantization.quantize_static(
                str(prepared),
                str(out),
                _reader(calibration),
                quant_format=form.QOperator if operators else form.QDQ,
                per_channel=True,
                activation_type=kinds.QUInt8,
                weight_type=kinds.QInt8,
                # Without VNNI two products are summed in 16 bits, which 8-bit weights overflow.
                reduce_range=not any("vnni" in name for name in vector_features() or ()),
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
        except Exception as error:
            raise ModelError(
                f"onnxruntime could not quantise {source.name}: {type(error).__name__}: {error}"
            ) from error


def _modern(source: Path, out: Path) -> Path:
    """The model with operators of version 13 at least: the file itself where it has them."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(source))
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and versions[0] >= _OPSET:
        return source
    onnx.save(version_converter.convert_version(model, _OPSET), str(out))
    return out


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            feed = next(self._left, None)
            return None if feed is None else {k: np.asarray(v) for k, v in feed.items()}

    return Reader()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the advice that quantisers and compilers give of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
