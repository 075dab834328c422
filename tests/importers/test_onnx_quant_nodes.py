"""QONNX's Quant and BipolarQuant: folded on weights, a clip on activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.importers.onnx_models import (
    assert_same,
    bindings,
    build,
    operators,
    random,
    run_onnxruntime,
    run_tvm,
)
from tvm_shiftadd.errors import ModelError, UnsupportedOperatorError
from tvm_shiftadd.importers import load

DOMAIN = "qonnx.custom_op.general"


def quant(source: str, target: str, domain: str = DOMAIN, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(
        "Quant", [source, "s", "z", "bits"], [target], name=f"q_{target}", domain=domain, **attrs
    )


def constants(scale: Any = 0.25, zero: float = 0.0, bits: float = 4.0) -> dict[str, Any]:
    return {
        "s": np.asarray(scale, np.float32),
        "z": np.asarray(zero, np.float32),
        "bits": np.asarray(bits, np.float32),
    }


def model(nodes: list[Any], weights: dict[str, Any], domain: str = DOMAIN, **options: Any) -> Any:
    proto = build(nodes, weights, **options)
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def convolution(**attrs: Any) -> list[onnx.NodeProto]:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    return [quant("w0", "w", **attrs), conv]


def expected(weight: Any, x: Any) -> Any:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return run_onnxruntime(build([node], {"w": weight}), x)


@pytest.mark.parametrize("domain", [DOMAIN, "finn.custom_op.general", "onnx.brevitas"])
@pytest.mark.parametrize(
    ("signed", "narrow", "low", "high"),
    [(1, 1, -7, 7), (1, 0, -8, 7), (0, 0, 0, 15), (0, 1, 0, 14)],
)
def test_weights_take_their_quantised_values(
    domain: str, signed: int, narrow: int, low: int, high: int
) -> None:
    weight = random(4, 3, 3, 3, scale=2)
    nodes = convolution(signed=signed, narrow=narrow, domain=domain)
    mod = load(model(nodes, {"w0": weight} | constants(), domain))
    x = random(2, 3, 8, 8)
    wanted = np.clip(np.rint(weight / 0.25), low, high) * np.float32(0.25)
    assert_same(run_tvm(mod, x), expected(wanted, x))
    assert operators(mod) == ["relax.nn.conv2d"]


def test_a_scale_and_a_zero_point_a_channel() -> None:
    weight = random(4, 3, 3, 3)
    scale = np.array([0.1, 0.2, 0.05, 0.3], np.float32).reshape(4, 1, 1, 1)
    nodes = convolution(signed=1, narrow=0, rounding_mode="FLOOR")
    mod = load(model(nodes, {"w0": weight} | constants(scale, zero=2)))
    wanted = (np.floor(np.clip(weight / scale + 2, -8, 7)) - 2) * scale
    x = random(1, 3, 8, 8)
    assert_same(run_tvm(mod, x), expected(wanted.astype(np.float32), x))


def test_bipolar_weights() -> None:
    weight = random(4, 3, 3, 3)
    nodes = [
        helper.make_node("BipolarQuant", ["w0", "s"], ["w"], domain=DOMAIN),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    mod = load(model(nodes, {"w0": weight} | constants(0.5)))
    x = random(1, 3, 8, 8)
    wanted = np.where(weight >= 0, np.float32(0.5), np.float32(-0.5))
    assert_same(run_tvm(mod, x), expected(wanted, x))


@pytest.mark.parametrize("opset", [10, 17])
def test_activations_are_clipped(opset: int) -> None:
    nodes = [quant("x", "y", signed=0, narrow=0)]
    mod = load(model(nodes, constants(bits=8), opset=opset))
    call = bindings(mod)[0].value
    assert [arg.value for arg in call.args[1:]] == [0.0, 63.75]
    notes = [str(note) for note in mod["main"].attrs["shiftadd.notes"]]
    assert notes == ["q_y: rounding left out, clipped to [0, 63.75]"]


def test_what_cannot_be_imported() -> None:
    weight = {"w0": random(4, 3, 3, 3)}
    with pytest.raises(ModelError, match="'q_w' has a scale that is not positive"):
        load(model(convolution(), weight | constants(-1.0)))
    with pytest.raises(UnsupportedOperatorError, match="rounding mode DITHER is not known"):
        load(model(convolution(rounding_mode="DITHER"), weight | constants()))
    with pytest.raises(UnsupportedOperatorError, match="bit width is not one number"):
        load(model(convolution(), weight | constants(bits=99)))
    with pytest.raises(UnsupportedOperatorError, match=r"'q_y'.*one bit"):
        load(model([quant("x", "y", signed=1)], constants(bits=1)))
    with pytest.raises(UnsupportedOperatorError, match=r"'q_y'.*not constant"):
        load(model([quant("x", "y")], {"s": np.float32(1)}))
    truncate = helper.make_node("Trunc", ["x"], ["y"], domain=DOMAIN)
    with pytest.raises(UnsupportedOperatorError, match=r"Trunc"):
        load(model([truncate], {}))
