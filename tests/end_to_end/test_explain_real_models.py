"""What ``explain`` says of every real model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tvm_shiftadd import api

pytestmark = pytest.mark.data

CLASSIFIERS = (
    "cifar10_akamaster_resnet20",
    "mlperftiny_ic_resnet8",
    "mnist_lenet_germanov",
    "imagenet_mobilenet_v1_0.25_224",
    "imagenet_mobilenet_v2_1.0_224_qat_dequant",
)
#: What may stay on the host anywhere: moving data that leave the converted region.
MOVES = {"permute_dims", "reshape", "concat", "strided_slice"}
#: What else stays there, by model.
ON_THE_HOST = {
    "superres_espcn_x3_224": set(),
    "style_transfer_udnie_224": {"nn.instance_norm", "tanh", "add", "multiply", "clip"},
    "ultraface_slim_320": {"nn.softmax", "multiply", "divide", "subtract", "add", "exp"},
}


@pytest.mark.parametrize("name", [*CLASSIFIERS, *ON_THE_HOST])
def test_every_operator_has_a_place_and_a_reason(
    name: str, real_model: Callable[[str], Any]
) -> None:
    model = real_model(name).model
    operators = api.explain(model).operators
    recorded = {str(key) for key in model.attrs["shiftadd.operators"]}
    assert recorded <= {operator.name for operator in operators}
    assert len({operator.name for operator in operators}) == len(operators)
    for operator in operators:
        assert operator.placement in ("shift-add", "host", "folded")
        assert operator.operator
        assert operator.reason or operator.placement == "shift-add"
    host = [operator for operator in operators if operator.placement == "host"]
    assert {operator.operator for operator in host} <= MOVES | ON_THE_HOST.get(name, set())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_are_shift_add(name: str, real_model: Callable[[str], Any]) -> None:
    explanation = api.explain(real_model(name).model)
    assert explanation.shift_add_share >= 0.99
    assert sum(operator.macs or 0 for operator in explanation.operators) > 100_000
