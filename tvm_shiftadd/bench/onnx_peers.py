"""Runtimes that read ONNX: onnxruntime and OpenVINO."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from tvm_shiftadd.bench.work import Array, Prepared, Run, Work

#: A file of Work.
Form = Literal["float_model", "qdq_model", "qoperator_model"]


def onnxruntime(form: Form) -> Callable[[Work, int], Prepared]:
    """What prepares ``form`` of the model for onnxruntime."""
    return _prepared(form, onnxruntime_run)


def openvino(form: Form) -> Callable[[Work, int], Prepared]:
    """What prepares ``form`` of the model for OpenVINO."""
    return _prepared(form, openvino_run)


def _prepared(
    form: Form, start: Callable[[Path, Mapping[str, Array], int], Run]
) -> Callable[[Work, int], Prepared]:
    def prepare(work: Work, threads: int) -> Prepared:
        model: Path = getattr(work, form)
        return Prepared(start(model, work.feed, threads), weight_bytes(model))

    return prepare


def onnxruntime_run(model: Path, feed: Mapping[str, Array], threads: int) -> Run:
    """A run of a model file by onnxruntime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    given = dict(feed)
    return lambda: list(session.run(None, given))


def openvino_run(model: Path, feed: Mapping[str, Array], threads: int) -> Run:
    """A run of a model file by OpenVINO's CPU plug-in."""
    import openvino

    compiled = openvino.Core().compile_model(
        str(model),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Its default is bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
            # Pinned, it would meet other programs that keep one processor busy.
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    # The order of the outputs is the model's; their names may be several or none.
    outputs = range(len(compiled.outputs))
    for name, array in feed.items():
        # Shared, not copied in each run.
        tensor = openvino.Tensor(np.ascontiguousarray(array), shared_memory=True)
        request.set_tensor(name, tensor)

    def run() -> list[Array]:
        request.infer(share_outputs=True)
        return [np.array(request.get_output_tensor(index).data) for index in outputs]

    return run


def weight_bytes(model: Path) -> int:
    """Bytes of a model's constant tensors, in its file: weights, biases, scales."""
    import onnx

    graph = onnx.load(str(model)).graph
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
    )
