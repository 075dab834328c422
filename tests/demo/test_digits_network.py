"""The network that the demo ships: what is in the file, and how good it is in float."""

from __future__ import annotations

from importlib import resources

import numpy as np
import onnx
import pytest

TEST_IMAGES = 360


@pytest.fixture(scope="module")
def content() -> bytes:
    return (resources.files("tvm_shiftadd.demo") / "digits.onnx").read_bytes()


def test_it_is_small_and_valid(content: bytes) -> None:
    assert len(content) < 150_000
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_it_holds_every_kind_of_layer_with_batch_norm_unfused(content: bytes) -> None:
    nodes = onnx.load_from_string(content).graph.node
    assert {node.op_type for node in nodes} == {
        "Conv",
        "BatchNormalization",
        "Relu",
        "Add",
        "MaxPool",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    groups = [a.i for node in nodes for a in node.attribute if a.name == "group"]
    assert max(groups) == 16
    assert len({node.name for node in nodes}) == len(nodes)


def test_its_float_accuracy(content: bytes) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = digits.images[-TEST_IMAGES:, None].astype(np.float32)
    (logits,) = session.run(None, {"image": images})
    assert np.mean(logits.argmax(1) == digits.target[-TEST_IMAGES:]) >= 0.975
