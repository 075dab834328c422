"""A fake of the public functions that records its calls, and a real artifact to run."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tvm_shiftadd.data import Dataset
from tvm_shiftadd.manifest import Source, TargetInfo, TensorInfo

COSTS = {
    "terms_per_weight": 1.5,
    "weight_bytes": 100,
    "weight_bytes_float32": 800,
    "multiplications": 0,
    "shift_add_share": 1.0,
}


class FakeArtifact:
    """Writes one file where an artifact would be saved."""

    report: ClassVar[dict[str, Any]] = {"costs": COSTS}
    manifest = types.SimpleNamespace(source=Source("m.onnx", "0", "onnx"), target=TargetInfo("cpu"))

    def save(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "saved").touch()


class FakeApi(types.ModuleType):
    """Stands in for tvm_shiftadd.api."""

    def __init__(self) -> None:
        super().__init__("tvm_shiftadd.api")
        self.calls: list[tuple[str, Any]] = []
        self.trouble: Callable[[], None] = lambda: None

    def _do(self, name: str, arguments: Any) -> None:
        self.calls.append((name, arguments))
        # What libraries like to do, from Python and from native code.
        print("chatter")
        os.write(1, b"native chatter\n")
        self.trouble()

    def load(self, path: Path, **arguments: Any) -> str:
        self.loaded = arguments
        return f"model of {path}"

    def compile(self, model: str, **arguments: Any) -> FakeArtifact:
        self._do("compile", {"model": model, **arguments})
        arguments["progress"]("calibrate", 1, 2)
        return FakeArtifact()

    def evaluate(self, model: Path, data: Dataset, **arguments: Any) -> Any:
        self._do("evaluate", {"model": model, "data": data, **arguments})
        result = {
            "n": len(data),
            "float": {"top1": 91.5},
            "shiftadd": {"top1": 91.0},
            "agreement": 98.5,
            **COSTS,
        }
        return types.SimpleNamespace(to_dict=lambda: result)

    def explain(self, model: str, **arguments: Any) -> Any:
        self._do("explain", {"model": model, **arguments})
        operator = {"name": "[conv]1", "operator": "conv2d", "placement": "host", "reason": "why"}
        result = {
            "operators": [{**operator, "macs": None}],
            "shift_add_share": 0.5,
            "notes": ["a note"],
        }
        return types.SimpleNamespace(to_dict=lambda: result)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    import tvm_shiftadd

    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "tvm_shiftadd.api", fake)
    monkeypatch.setattr(tvm_shiftadd, "api", fake, raising=False)
    return fake


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((6, 4, 4, 3), np.uint8), labels=np.arange(6))
    return path


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """x [n, 4] -> x + w, saved."""
    import tvm
    from tvm import relax, tirx

    from tvm_shiftadd.artifact import Artifact

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([tirx.Var("n", "int64"), 4], "float32"))
    w = relax.Var("w", relax.TensorType([4], "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(relax.op.add(x, w)))
        builder.emit_func_output(result)
    directory = tmp_path_factory.mktemp("artifact") / "out"
    Artifact(
        tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm"})),
        {"w": np.arange(4, dtype=np.float32)},
        source=Source("tiny.onnx", "0" * 64, "onnx"),
        target=TargetInfo("cpu"),
        inputs=[TensorInfo("x", (-1, 4), "float32")],
        outputs=[TensorInfo("file", (-1, 4), "float32")],
        report=_report(),
    ).save(directory)
    yield directory


def _report() -> dict[str, Any]:
    from tvm_shiftadd.convert.graph import Graph, Node
    from tvm_shiftadd.convert.plan import LayerPlan, Plan
    from tvm_shiftadd.costs import count

    zeros = np.zeros(2, np.int32)
    node = Node("fc[0]", "dense", ("x",), "y", {}, np.ones((4, 2), np.float32))
    plan = Plan({"fc[0]": LayerPlan(np.ones((1, 4, 2), np.uint8), zeros, zeros)}, {"x": 4})
    graph = Graph((node,), ("x",), ("y",), {"x": (-1, 4), "y": (-1, 2)})
    layer = {"name": "fc[0]", "op": "dense", "terms": 1, "weight_snr_db": None}
    return {"costs": count(graph, plan).to_dict(), "conversion": {"layers": [layer]}}
