"""Small ONNX models, and how tests run them in onnxruntime and through TVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tvm_shiftadd._compat import relax

Floats = NDArray[np.float32]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    shape: Sequence[int | str] = ("N", 3, 8, 8),
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A model with the input ``x`` and outputs of unknown shape."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model


def run_onnxruntime(model: onnx.ModelProto | str, x: Floats) -> list[Floats]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised, it would run a quantised weight in integers, with a rounding of its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def run_tvm(mod: Any, x: Floats) -> list[Floats]:
    target = tvm.target.Target({"kind": "llvm"})
    machine = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    result = machine["main"](tvm.runtime.tensor(x))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [tensor.numpy() for tensor in results]


def assert_same(got: Sequence[Floats], want: Sequence[Floats], tolerance: float = 1e-4) -> None:
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-6)


def bindings(mod: Any) -> list[Any]:
    return [b for block in mod["main"].body.blocks for b in block.bindings]


def names(mod: Any) -> list[str]:
    return [binding.var.name for binding in bindings(mod)]


def operators(mod: Any) -> list[str]:
    """Relax operators in order; ``[i]`` for an item of a tuple."""
    found = []
    for binding in bindings(mod):
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            found.append(f"[{value.index}]")
        else:
            found.append(getattr(getattr(value, "op", None), "name", type(value).__name__))
    return found
