"""A real artifact small enough to build for every test: x [n, 4] -> x + w."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.manifest import (
    IntegerSpecification,
    LayerInfo,
    Source,
    TargetInfo,
    TensorInfo,
)
from tvm_shiftadd.target import cpu, parse

#: What names that came through TVM are.
String = tvm_ffi.core.String


def module(operator: Callable[..., relax.Call], outputs: int = 1) -> tvm.IRModule:
    """main(x [n, 4], w [4]) -> operator(x, w), given ``outputs`` times."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([tirx.Var("n", "int64"), 4], "float32"))
    w = relax.Var("w", relax.TensorType([4], "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            results = [builder.emit(operator(x, w)) for _ in range(outputs)]
            value = results[0] if outputs == 1 else relax.Tuple(results)
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    return builder.get()


def build(operator: Callable[..., relax.Call], outputs: int = 1) -> relax.VMExecutable:
    return tvm.compile(module(operator, outputs), tvm.target.Target({"kind": "llvm"}))


def wrap(executable: relax.VMExecutable, outputs: int = 1) -> Artifact:
    return Artifact(
        executable,
        {"w": np.arange(4, dtype=np.float32)},
        source=Source(name="tiny.onnx", sha256="0" * 64, format="onnx"),
        target=TargetInfo(kind="cpu", attributes={"mcpu": "host"}),
        inputs=[TensorInfo(String("x"), (-1, 4), "float32")],
        outputs=[TensorInfo(f"y{i}", (-1, 4), "float32") for i in range(outputs)],
        specification=IntegerSpecification(layers=(LayerInfo("fc", "dense", 2, (3,), 1, (5, 6)),)),
        report={"layers": [{"name": String("fc"), "snr": np.float32(31.5)}]},
    )


@pytest.fixture(scope="session")
def artifact() -> Artifact:
    return wrap(build(relax.op.add))


@pytest.fixture(scope="session")
def adding() -> tvm.IRModule:
    return module(relax.op.add)


@pytest.fixture(scope="session")
def subtracting() -> Artifact:
    return wrap(build(relax.op.subtract))


@pytest.fixture(scope="session")
def two_outputs() -> Artifact:
    return wrap(build(relax.op.add, outputs=2), outputs=2)


@pytest.fixture(scope="session")
def prepared() -> Artifact:
    """x + (w + w), where w + w is computed before the runs."""
    doubled = module(lambda x, w: relax.op.add(x, relax.op.add(w, w)))
    return wrap(cpu.build(doubled, parse("cpu:generic"), data_inputs=1))


@pytest.fixture
def saved(artifact: Artifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "out")
    return tmp_path / "out"
