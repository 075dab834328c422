"""Other runtimes that run the same ONNX model, float and int8, with the same number of threads.

None of them is required. One that is not installed, or cannot run a model, becomes a line that
says so.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.bench.quantize import Feed, fix_shapes, quantize
from tvm_shiftadd.errors import DependencyError, InputError

Array = NDArray[Any]
#: Runs the network once and gives its outputs in the order of the ONNX model.
Run = Callable[[], list[Array]]


@dataclass(frozen=True)
class Work:
    """What the peers run: a model file, one set of inputs, and a folder for their own models.

    ``feed`` holds float32 arrays by input name, batch included; ``calibration`` such sets.
    """

    model: Path
    feed: Mapping[str, Array]
    calibration: Sequence[Feed]
    folder: Path

    @cached_property
    def float_model(self) -> Path:
        """The model with the shapes of ``feed``."""
        path = self.folder / "float.onnx"
        fix_shapes(self.model, {name: array.shape for name, array in self.feed.items()}, path)
        return path

    @cached_property
    def qdq_model(self) -> Path:
        """The int8 model with pairs of QuantizeLinear and DequantizeLinear."""
        return self._quantized("qdq.onnx", operators=False)

    @cached_property
    def qoperator_model(self) -> Path:
        """The int8 model with onnxruntime's integer operators."""
        return self._quantized("qoperator.onnx", operators=True)

    def _quantized(self, name: str, operators: bool) -> Path:
        quantize(self.float_model, self.folder / name, self.calibration, operators)
        return self.folder / name


@dataclass(frozen=True)
class Peer:
    """One runtime in one precision. ``model`` names a file of Work; ``how`` says what is run."""

    module: str
    model: str
    how: str
    start: Callable[[Path, Mapping[str, Array], int], Run]
    integer: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package, and the one that quantises for it, can be imported."""
        needed = (self.module, "onnxruntime") if self.integer else (self.module,)
        return all(importlib.util.find_spec(name) is not None for name in needed)


def _onnxruntime(model: Path, feed: Mapping[str, Array], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    given = dict(feed)
    return lambda: list(session.run(None, given))


def _openvino(model: Path, feed: Mapping[str, Array], threads: int) -> Run:
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


PEERS: dict[str, Peer] = {
    "onnxruntime": Peer("onnxruntime", "float_model", "float", _onnxruntime),
    "onnxruntime-int8": Peer("onnxruntime", "qdq_model", "int8, QDQ", _onnxruntime, True),
    "onnxruntime-int8-qop": Peer(
        "onnxruntime", "qoperator_model", "int8, QOperator", _onnxruntime, True
    ),
    "openvino": Peer("openvino", "float_model", "float", _openvino),
    # OpenVINO's own quantiser is a large package, nncf; it reads onnxruntime's model as well.
    "openvino-int8": Peer("openvino", "qdq_model", "int8, QDQ", _openvino, True),
}


def choose(text: str | None) -> tuple[list[str], bool]:
    """Names of ``--peers``, and whether they were asked for; None: all that there are.

    "none" is no peer at all. Raises InputError for a name that is none, and DependencyError for
    one that was asked for and is not installed.
    """
    if text is None:
        return list(PEERS), False
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return [], True
    for name in names:
        if name not in PEERS:
            raise InputError(
                f"expected --peers to name some of {', '.join(PEERS)}, or none, got {name!r}"
            )
        if not PEERS[name].installed:
            raise DependencyError(missing(name))
    return list(dict.fromkeys(names)), True


def missing(name: str) -> str:
    """What to do about a peer that is not installed."""
    peer = PEERS[name]
    needed = [peer.module, *(["onnxruntime"] if peer.integer else [])]
    absent = [module for module in dict.fromkeys(needed) if not importlib.util.find_spec(module)]
    return f"{name} needs {' and '.join(absent)}; pip install 'tvm-shiftadd[peers]'"


def weight_bytes(model: Path) -> int:
    """Bytes of a model's constant tensors, in its file: weights, biases, scales."""
    import onnx

    graph = onnx.load(str(model)).graph
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
    )
