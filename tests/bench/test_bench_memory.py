"""Memory of networks in processes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd.bench import memory, peer_memory
from tvm_shiftadd.bench.memory import Memory
from tvm_shiftadd.bench.networks import OURS
from tvm_shiftadd.errors import InputError, ModelError

pytestmark = pytest.mark.skipif(not memory.available(), reason="needs Linux's /proc")


def test_an_artifact(artifact, images: np.ndarray, tmp_path: Path) -> None:
    artifact.save(tmp_path / "net")
    found = memory.measure("shift-add", tmp_path / "net", {"x": images}, 1)
    assert 0 < found.after <= found.peak
    # The library and the thread, of a network of 600 weights.
    assert found.peak < 64 << 20


def test_a_larger_network_takes_more(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    peaks = []
    for size in (16, 2048):
        weight = np.ones((size, size), np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
            [numpy_helper.from_array(weight, "w")],
        )
        opsets = [helper.make_opsetid("", 17)]
        path = tmp_path / f"{size}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        feed = {"x": np.ones((1, size), np.float32)}
        peaks.append(memory.measure("onnxruntime", path, feed, 1).peak)
    assert peaks[1] - peaks[0] > 15 << 20  # most of the 16 MiB of its weights


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got 'tflite'"):
        memory.measure("tflite", tmp_path, {}, 1)
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match=r"onnxruntime could not run none\.onnx: "):
        memory.measure("onnxruntime", tmp_path / "none.onnx", {}, 1)


def test_a_peer_that_fails_is_a_dash_and_a_note(
    artifact, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(runtime: str, network: Path, *_: object) -> Memory:
        asked.append(runtime)
        return Memory(3 << 20, 2 << 20)

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(peer_memory.peers.Peer, "absent", [])
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    names = ["tvm", "openvino"]
    found = peer_memory.measure(artifact, tmp_path / "bad.onnx", {"x": images}, names)
    # Only those that were chosen and whose memory can be measured.
    assert (asked, list(found)) == ([OURS], [OURS, "openvino"])
    shown = peer_memory.table({"net": found})
    assert shown.columns == ("network", OURS, "openvino")
    assert shown.rows == (("net", "3.0 / 2.0", None),)
    assert shown.notes[1].startswith("net, openvino: ") and "bad.onnx" in shown.notes[1]
