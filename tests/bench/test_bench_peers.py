"""Other runtimes on the same model: their outputs, and what is said where one is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from tvm_shiftadd.bench import onnx_peers, peers
from tvm_shiftadd.bench.agreement import FLOAT_TOLERANCE, check_float, compare
from tvm_shiftadd.bench.work import Work
from tvm_shiftadd.convert import run_float
from tvm_shiftadd.errors import DependencyError, InputError, ModelError, VerificationError


@pytest.fixture(scope="module")
def work(model_file: Path, model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory):
    sets = [{"x": images[i : i + 4]} for i in range(0, 16, 4)]
    return Work(model_file, model, sets[0], sets, tmp_path_factory.mktemp("peers"))


@pytest.mark.parametrize(
    "name",
    # What torch compiles takes a C++ compiler many seconds.
    [
        pytest.param(name, marks=pytest.mark.slow if "torch.compile" in peer.how else ())
        for name, peer in peers.PEERS.items()
        if name != "torch-sums"
    ],
)
def test_outputs_are_near_float(name: str, work: Work, model) -> None:
    peer = peers.PEERS[name]
    if not peer.installed:
        pytest.skip(peers.missing(name))
    outputs = peer.prepare(work, 1).run()
    reference = run_float(model.graph, dict(work.feed))[model.graph.outputs[0]]
    found = compare(name, outputs, [reference])
    assert found.error < (0.1 if peer.integer else 1e-5)
    assert found.same_class is not None
    assert peer.integer == (found.error > FLOAT_TOLERANCE / 100)


def test_the_peers_get_constant_weights_and_fixed_shapes(work: Work) -> None:
    """Weights among the inputs could not be prepared ahead of time."""
    graph = onnx.load(work.float_model).graph
    assert [value.name for value in graph.input] == ["x"]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [4, 3, 8, 8]


def test_int8_weights_have_a_scale_for_each_channel(work: Work) -> None:
    pytest.importorskip("onnxruntime")
    tensors = {t.name: t for t in onnx.load(work.qdq_model).graph.initializer}
    scale = next(t for name, t in tensors.items() if name.startswith("w1") and "scale" in name)
    weight = next(t for name, t in tensors.items() if name == "w1_quantized")
    assert list(scale.dims) == [8]
    assert weight.data_type == onnx.TensorProto.INT8
    assert onnx_peers.weight_bytes(work.qdq_model) < onnx_peers.weight_bytes(work.float_model) / 2


def test_choosing() -> None:
    assert peers.choose("all") == (list(peers.PEERS), False)
    usual, asked = peers.choose(None)
    assert (usual[0], usual[-1], asked) == ("onnxruntime", "openvino-int8", False)
    assert peers.choose("none") == ([], True)
    if importlib.util.find_spec("onnxruntime"):
        assert peers.choose("onnxruntime, onnxruntime") == (["onnxruntime"], True)
    with pytest.raises(InputError, match=r"onnxruntime-int8.*got 'tflite'"):
        peers.choose("tflite")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name some of onnxruntime, .*got ''"),
        (" ,", "name some of onnxruntime, "),
        ("all,tvm", "all to stand alone, got 'all,tvm'"),
        ("tvm, none", "none to stand alone"),
    ],
)
def test_a_choice_that_means_nothing(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        peers.choose(text)


def test_a_missing_peer_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    assert not peers.PEERS["openvino-int8"].installed
    with pytest.raises(DependencyError, match=r"openvino needs openvino; pip install .*\[peers\]"):
        peers.choose("openvino")


def test_a_model_that_cannot_be_read(tmp_path: Path, images: np.ndarray) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    work = Work(tmp_path / "bad.onnx", None, {"x": images}, [], tmp_path)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        _ = work.float_model


def test_agreement() -> None:
    scores = np.array([[1.0, 2.0], [4.0, 3.0]])
    assert compare("a", [scores], [scores]).error == 0
    found = compare("a", [scores[:, ::-1]], [scores])
    assert found.same_class == 0
    assert found.error == pytest.approx(np.sqrt(4 / 30))
    assert compare("a", [scores.reshape(-1)], [scores.reshape(-1)]).same_class is None
    with pytest.raises(VerificationError, match=r"expected outputs \[\[2, 2\]\]"):
        compare("a", [scores[:1]], [scores])
    with pytest.raises(VerificationError, match="NaN"):
        compare("a", [scores * np.nan], [scores])
    with pytest.raises(VerificationError, match="differ by"):
        check_float("a", found)
