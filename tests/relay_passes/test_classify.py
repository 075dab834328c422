"""What each canonical operator becomes, and the reason why it does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import helper

import tvm_shiftadd as tsa
from relay_passes.classify import RULES, Match, Refusal, bias_of, classify
from relay_passes.host_reasons import HOST_REASONS
from tests.importers.onnx_models import build
from tests.relay_passes.programs import Program, constant, program, random
from tvm_shiftadd._compat import ir, op_exists, relax

SHAPE = ("N", 8, 8, 4)


def call(expr: Any) -> Any:
    """A normalised call."""
    p = Program()
    with p.builder.function("main", []):
        with p.builder.dataflow():
            expr = p.builder.normalize(expr)
            p.builder.emit_output(constant(0.0))
        p.builder.emit_func_output(constant(0.0))
    return expr


def maps(shape: Any = SHAPE) -> Any:
    return program(shape)[1]


def conv(x: Any, weight: Any, **attrs: Any) -> Any:
    return relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="HWIO", **attrs)


def test_layers_and_their_attributes() -> None:
    x, weight = maps(), random(3, 2, 2, 6)
    match = classify(
        call(conv(x, constant(weight), groups=2, strides=(1, 2), dilation=2, padding=(0, 1, 2, 3)))
    )
    assert isinstance(match, Match)
    assert match.op == "conv2d"
    assert match.attrs == {
        "strides": (1, 2),
        "padding": (0, 1, 2, 3),
        "dilation": (2, 2),
        "groups": 2,
    }
    np.testing.assert_array_equal(match.weight, weight)
    assert match.inputs[0].same_as(x)


def test_a_transposed_layer() -> None:
    weight = constant(random(3, 3, 4, 6))
    attrs = {"strides": (2, 2), "output_padding": (1, 0)}
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    match = classify(call(relax.op.nn.conv2d_transpose(maps(), weight, **attrs, **layouts)))
    assert match.op == "conv2d_transpose"
    assert match.attrs["output_padding"] == (1, 0)
    assert match.attrs["strides"] == (2, 2)


POOL = {"strides": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "ceil_mode": False}

MATCHES: list[tuple[Any, str, dict[str, Any]]] = [
    (lambda x: relax.op.add(x, x), "add", {}),
    (lambda x: relax.op.clip(x, 0.0, math.inf), "clip", {"lo": 0.0, "hi": math.inf}),
    (
        lambda x: relax.op.nn.max_pool2d(x, (2, 3), (1, 2), (1, 0, 0, 1), layout="NHWC"),
        "max_pool2d",
        POOL | {"pool_size": (2, 3), "strides": (1, 2), "padding": (1, 0, 0, 1)},
    ),
    (
        lambda x: relax.op.nn.avg_pool2d(
            x, (2, 2), ceil_mode=True, count_include_pad=True, layout="NHWC"
        ),
        "avg_pool2d",
        POOL | {"pool_size": (2, 2), "ceil_mode": True, "count_include_pad": True},
    ),
    (
        lambda x: relax.op.mean(x, axis=[2, 1], keepdims=True),
        "avg_pool2d",
        POOL | {"pool_size": (8, 8), "count_include_pad": False},
    ),
    (
        lambda x: relax.op.max(x, axis=[1, 2], keepdims=True),
        "max_pool2d",
        POOL | {"pool_size": (8, 8)},
    ),
    (
        lambda x: relax.op.nn.pad(x, [0, 0, 1, 2, 3, 4, 0, 0]),
        "pad",
        {"pad_width": ((0, 0), (1, 2), (3, 4), (0, 0))},
    ),
    (lambda x: relax.op.concat([x, x], axis=-1), "concat", {"axis": 3}),
    (
        lambda x: relax.op.image.resize2d(x, (16, 24), layout="NHWC", method="nearest_neighbor"),
        "upsample2d",
        {"scale": (2, 3)},
    ),
    (
        lambda x: relax.op.reshape(x, (x.ty.shape[0], 256)),
        "reshape",
        {"shape": (-1, 256)},
    ),
    (lambda x: relax.op.permute_dims(x, [0, 3, 1, 2]), "permute", {"axes": (0, 3, 1, 2)}),
    (
        lambda x: relax.op.strided_slice(x, [1, 3], [2, 0], [8, 3], [3, 1]),
        "slice",
        {"axes": (1, 3), "begin": (2, 0), "end": (8, 3), "strides": (3, 1)},
    ),
    (
        lambda x: relax.op.strided_slice(x, [3], [1], [3]),
        "slice",
        {"axes": (3,), "begin": (1,), "end": (3,), "strides": (1,)},
    ),
]


@pytest.mark.parametrize(("make", "op", "attrs"), MATCHES)
def test_operators_between_layers(make: Any, op: str, attrs: dict[str, Any]) -> None:
    match = classify(call(make(maps())))
    assert isinstance(match, Match), match
    assert (match.op, match.attrs) == (op, attrs)


def grouped_transpose(x: Any) -> Any:
    return relax.op.nn.conv2d_transpose(
        x, constant(random(3, 3, 4, 2)), groups=2, data_layout="NHWC", kernel_layout="HWIO"
    )


def resize(size: tuple[int, int], method: str) -> Any:
    return lambda x: relax.op.image.resize2d(x, size, layout="NHWC", method=method)


REFUSALS: list[tuple[Any, str]] = [
    (lambda x: conv(x, maps((3, 3, 4, 6))), "its weight is not a constant"),
    (
        lambda x: relax.op.nn.conv2d(x, constant(random(2, 8, 3, 3))),
        "its feature map is not two-dimensional",
    ),
    (grouped_transpose, "a grouped transposed convolution"),
    (lambda x: relax.op.matmul(x, maps((4, 3))), "a product of two activations"),
    (lambda x: relax.op.matmul(x, constant(random(8, 4, 3))), "its weight is not a matrix"),
    (lambda x: relax.op.add(x, constant(1.0)), "it adds a constant that no layer can take"),
    (lambda x: relax.op.add(x, maps(("N", 1, 1, 4))), "it broadcasts one input over the other"),
    (lambda x: relax.op.nn.max_pool2d(x, (2, 2)), "its feature map is not two-dimensional"),
    (lambda x: relax.op.mean(x, axis=[1, 2]), "a mean over anything but"),
    (lambda x: relax.op.mean(x, axis=[1], keepdims=True), "a mean over anything but"),
    (lambda x: relax.op.max(x, axis=[3], keepdims=True), "a maximum over anything but"),
    (
        lambda x: relax.op.mean(maps(("N", "H", 8, 4)), axis=[1, 2], keepdims=True),
        "the size of its feature map is not known",
    ),
    (
        lambda x: relax.op.mean(maps(("N", 320, 240, 4)), axis=[1, 2], keepdims=True),
        "32 bits do not hold the sum",
    ),
    (lambda x: relax.op.nn.pad(x, [0] * 8, pad_mode="reflect"), "padding with reflect"),
    (lambda x: relax.op.nn.pad(x, [0] * 8, pad_value=1.0), "padding with 1.0 is not zero"),
    (lambda x: relax.op.concat([maps((1, 4)), constant(random(1, 4))], 0), "it joins a constant"),
    (resize((16, 16), "linear"), "interpolation multiplies by fractions"),
    (resize((12, 16), "nearest_neighbor"), "its scale is no whole number"),
    (resize((4, 4), "nearest_neighbor"), "its scale is no whole number"),
    (lambda x: relax.op.reshape(x, (x.ty.shape[0] * 8, 8, 4)), "it mixes the batch with"),
    (lambda x: relax.op.permute_dims(x, [1, 0, 2, 3]), "it moves the batch axis"),
    (lambda x: relax.op.strided_slice(x, [0], [0], [1]), "it slices the batch axis"),
    (relax.op.sinh, "sinh has no shift-add form"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
def test_reasons(make: Any, reason: str) -> None:
    refusal = classify(call(make(maps())))
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(reason)


@pytest.mark.parametrize(
    ("value", "bias"),
    [
        (np.arange(4.0), [0, 1, 2, 3]),
        (np.arange(4.0).reshape(1, 1, 1, 4), [0, 1, 2, 3]),
        (np.array(2.0), [2, 2, 2, 2]),
        (np.arange(4.0).reshape(1, 1, 4, 1), None),
        (np.arange(4.0).reshape(4, 1), None),
        (np.ones((1, 8, 8, 4)), None),
    ],
)
def test_a_bias_has_one_value_a_channel(value: Any, bias: list[float] | None) -> None:
    x = maps(("N", 8, 4, 4))
    if value.shape[-1:] == (4,) and value.size > 4:
        x = maps()
    found = bias_of(call(relax.op.add(x, constant(value))))
    assert (None if found is None else found.tolist()) == bias


def test_a_constant_that_widens_the_result_is_no_bias() -> None:
    assert bias_of(call(relax.op.add(maps(("N", 1)), constant(random(5))))) is None
    assert bias_of(call(relax.op.multiply(maps(), constant(random(4))))) is None
    assert bias_of(call(relax.op.add(maps(), maps()))) is None


def test_every_reason_is_one_line_for_an_operator_that_exists_and_has_no_rule() -> None:
    for name, reason in HOST_REASONS.items():
        assert op_exists(f"relax.{name}"), name
        assert f"relax.{name}" not in RULES, name
        assert "\n" not in reason
        assert len(reason) < 100
        assert reason[0].islower() or reason.split()[0].isupper() or reason.startswith("SiLU")
        assert classify(relax.Call(ir.Op.get(f"relax.{name}"), [])) == Refusal(reason)


ONNX = {
    "HardSwish": {},
    "Elu": {},
    "Selu": {},
    "Softplus": {},
    "Softsign": {},
    "LeakyRelu": {},
    "Erf": {},
    "Reciprocal": {},
    "LogSoftmax": {},
    "ReduceL2": {"axes": [1]},
    "ReduceMax": {"axes": [1]},
    "ArgMax": {"axis": 1},
    "LRN": {"size": 3},
    "Shrink": {},
    "ThresholdedRelu": {},
    "GlobalLpPool": {},
}


@pytest.mark.parametrize("op", ONNX)
def test_what_the_importer_makes_of_common_operators_has_a_reason_of_its_own(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="user/layer", **ONNX[op])
    selected = tsa.load(build([node])).selected
    reasons = selected["main"].attrs["shiftadd.regions"]
    assert any(str(name).startswith("user/layer") for name in reasons)
    known = set(HOST_REASONS.values())
    for block in selected["main"].body.blocks:
        for binding in block.bindings:
            result = classify(binding.value)
            if isinstance(result, Refusal) and isinstance(binding.value, relax.Call):
                name = binding.value.op.name.removeprefix("relax.")
                assert result.reason in known or f"relax.{name}" in RULES, name
