"""Attributes and weights that the ONNX checker lets through and no layer can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.importers.onnx_models import assert_same, build, random, run_onnxruntime, run_tvm
from tvm_shiftadd.errors import UnsupportedOperatorError
from tvm_shiftadd.importers import load

W = random(4, 3, 3, 3)


def node(kind: str, inputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), ["y"], name="n", **attributes)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "dilation": (node("Conv", "x w", dilations=[-1, 1]), {"w": W}, "at least 1 as its dilations"),
    "stride": (node("Conv", "x w", strides=[0, 1]), {"w": W}, "at least 1 as its strides"),
    "negative pads": (node("Conv", "x w", pads=[0, -1, 0, 0]), {"w": W}, "at least 0 as its pads"),
    "two pads": (node("Conv", "x w", pads=[1, 1]), {"w": W}, "expected 4 values"),
    "huge pads": (node("Conv", "x w", pads=[10**5] * 4), {"w": W}, "elements a sample"),
    "huge pads of data": (
        node("Pad", "x p"),
        {"p": np.array([0, 0, 10**5, 10**5] * 2)},
        "elements a sample",
    ),
    "kernel": (node("Conv", "x w", kernel_shape=[5, 5]), {"w": W}, r"\[5, 5\] is not its weight's"),
    "empty": (node("Conv", "x w"), {"w": W[:0]}, "is empty"),
    "group": (node("Conv", "x w", group=0), {"w": W}, "one group or more"),
    "groups": (node("Conv", "x w", group=3), {"w": W[:, :1]}, r"in 3 groups does not fit"),
    "channels": (node("Conv", "x w"), {"w": random(4, 5, 3, 3)}, r"input of shape \[N, 3, 8, 8\]"),
    "rank": (node("Conv", "x w"), {"w": random(4, 3, 3)}, "does not fit its input"),
    "bias": (node("Conv", "x w b"), {"w": W, "b": random(1)}, "1 values for 4 channels"),
    "double": (node("Conv", "x w"), {"w": W.astype(np.float64)}, "input 1 is float64"),
    "double bias": (
        node("Conv", "x w b"),
        {"w": W, "b": np.zeros(4)},
        "input 2 is float64",
    ),
    "transposed": (
        node("ConvTranspose", "x w", output_padding=[-1, 0]),
        {"w": random(3, 4, 3, 3)},
        "at least 0 as its output_padding",
    ),
    "transposed channels": (node("ConvTranspose", "x w"), {"w": W}, "does not fit its input"),
    "pool kernel": (node("MaxPool", "x", kernel_shape=[0, 2]), {}, "at least 1 as its kernel"),
    "pool pads": (
        node("AveragePool", "x", kernel_shape=[2, 2], pads=[2, 0, 0, 0]),
        {},
        "nothing but padding",
    ),
    "variance": (
        node("BatchNormalization", "x g g g v"),
        {"g": random(3), "v": np.array([1, -1, 1], np.float32)},
        "variance of -1 plus epsilon",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_layer_that_cannot_be_is_refused_by_name(case: str) -> None:
    layer, weights, reason = BAD[case]
    with pytest.raises(UnsupportedOperatorError, match=rf"node 'n'.*{reason}") as caught:
        load(build([layer], weights))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_a_layer_in_half_precision_is_refused_by_name(kind: str) -> None:
    weight = W if kind == "Conv" else random(6, 4)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node(kind, ["h", "w"], ["c"], name="n"),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    shape = ("N", 3, 8, 8) if kind == "Conv" else ("N", 6)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'n'.* input 0 is float16"):
        load(build(nodes, {"w": weight.astype(np.float16)}, shape=shape))


def test_crossed_bounds_give_the_upper_one() -> None:
    model = build([node("Clip", "x lo hi")], {"lo": np.float32(6), "hi": np.float32(0.5)}, opset=13)
    x = random(2, 3, 8, 8)
    (want,) = run_onnxruntime(model, x)
    assert (want == 0.5).all()
    assert_same(run_tvm(load(model), x), [want])
