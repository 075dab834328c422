"""Each operator with a converter of its own gives onnxruntime's numbers, in one known form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.importers.onnx_models import (
    assert_same,
    build,
    operators,
    random,
    run_onnxruntime,
    run_tvm,
)
from tvm_shiftadd.errors import UnsupportedOperatorError
from tvm_shiftadd.importers import load


def node(op: str, *inputs: str, **attrs: Any) -> Any:
    return helper.make_node(op, ["x", *inputs], ["y"], name=f"the {op}", **attrs)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


W, B = random(6, 3, 3, 3), random(6, seed=1)
CONV = ["relax.nn.conv2d"]
BIASED = ["relax.nn.conv2d", "relax.add"]
TRANSPOSE = ["relax.nn.conv2d_transpose"]
RESIZE = ["relax.image.resize2d"]

#: (label, opset, node, weights, shape of x, Relax operators)
CASES: list[tuple[str, int, Any, dict[str, Any], tuple[int | str, ...], list[str]]] = [
    ("conv", 7, node("Conv", "w"), {"w": W}, ("N", 3, 8, 8), CONV),
    (
        "conv asymmetric",
        11,
        node("Conv", "w", "b", pads=[0, 1, 2, 3], strides=[2, 1]),
        {"w": W, "b": B},
        ("N", 3, 8, 8),
        BIASED,
    ),
    (
        "conv same upper",
        17,
        node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]),
        {"w": W},
        (1, 3, 8, 9),
        CONV,
    ),
    (
        "conv same lower",
        17,
        node("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2]),
        {"w": W},
        (1, 3, 8, 9),
        CONV,
    ),
    ("conv valid", 17, node("Conv", "w", auto_pad="VALID"), {"w": W}, (1, 3, 8, 9), CONV),
    (
        "conv dilated groups",
        22,
        node("Conv", "w", "b", group=3, dilations=[2, 1], pads=[2, 1, 2, 1]),
        {"w": random(6, 1, 3, 3), "b": B},
        ("N", 3, 8, 8),
        BIASED,
    ),
    (
        "conv transpose",
        11,
        node("ConvTranspose", "w", "b", strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 1]),
        {"w": random(3, 4, 3, 3), "b": random(4)},
        ("N", 3, 5, 6),
        [*TRANSPOSE, "relax.add"],
    ),
    (
        "conv transpose groups dilated",
        17,
        node("ConvTranspose", "w", group=3, dilations=[2, 2]),
        {"w": random(3, 2, 3, 3)},
        (1, 3, 5, 6),
        TRANSPOSE,
    ),
    (
        "conv transpose output shape",
        17,
        node("ConvTranspose", "w", strides=[2, 2], output_shape=[10, 12]),
        {"w": random(3, 2, 3, 3)},
        (1, 3, 5, 6),
        TRANSPOSE,
    ),
    (
        "conv transpose same",
        17,
        node("ConvTranspose", "w", strides=[2, 2], auto_pad="SAME_UPPER"),
        {"w": random(3, 2, 3, 3)},
        (1, 3, 5, 6),
        TRANSPOSE,
    ),
    (
        "gemm",
        9,
        node("Gemm", "w", "b", transB=1, alpha=0.5, beta=2.0),
        {"w": random(4, 6), "b": random(4)},
        ("N", 6),
        ["relax.matmul", "relax.add"],
    ),
    (
        "gemm transposed input, scalar bias",
        13,
        node("Gemm", "w", "b", transA=1),
        {"w": random(5, 4), "b": random(1)},
        (5, 3),
        ["relax.permute_dims", "relax.matmul", "relax.add"],
    ),
    ("gemm without bias", 11, node("Gemm", "w"), {"w": random(6, 4)}, ("N", 6), ["relax.matmul"]),
    ("matmul", 17, node("MatMul", "w"), {"w": random(6, 4)}, ("N", 6), ["relax.matmul"]),
    (
        "batch norm",
        9,
        node("BatchNormalization", "g", "b", "m", "v", epsilon=1e-3),
        {"g": random(3), "b": random(3, seed=1), "m": random(3, seed=2), "v": floats(1, 2, 0.5)},
        ("N", 3, 4, 4),
        ["relax.nn.batch_norm", "[0]"],
    ),
    (
        "instance norm",
        6 + 1,
        node("InstanceNormalization", "g", "b"),
        {"g": random(3), "b": random(3, seed=1)},
        ("N", 3, 4, 4),
        ["relax.nn.instance_norm"],
    ),
    (
        "max pool ceil",
        10,
        node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 0, 0, 1]),
        {},
        ("N", 3, 8, 8),
        ["relax.nn.max_pool2d"],
    ),
    (
        "max pool dilated",
        12,
        node("MaxPool", kernel_shape=[2, 2], dilations=[2, 3]),
        {},
        ("N", 3, 8, 8),
        ["relax.nn.max_pool2d"],
    ),
    (
        "max pool same",
        8,
        node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
        {},
        (1, 3, 7, 8),
        ["relax.nn.max_pool2d"],
    ),
    (
        "average pool",
        7,
        node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        {},
        ("N", 3, 8, 8),
        ["relax.nn.avg_pool2d"],
    ),
    (
        "average pool with padding counted",
        11,
        node("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
        {},
        ("N", 3, 8, 8),
        ["relax.nn.avg_pool2d"],
    ),
    (
        "average pool ceil",
        19,
        node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        {},
        ("N", 3, 8, 8),
        ["relax.nn.avg_pool2d"],
    ),
    ("global average", 17, node("GlobalAveragePool"), {}, ("N", 3, 8, 8), ["relax.mean"]),
    ("relu", 14, node("Relu"), {}, ("N", 3, 8, 8), ["relax.nn.relu"]),
    ("clip attributes", 7, node("Clip", min=-0.5, max=0.25), {}, ("N", 4), ["relax.clip"]),
    (
        "clip inputs",
        13,
        node("Clip", "lo", "hi"),
        {"lo": np.float32(0), "hi": np.float32(6)},
        ("N", 4),
        ["relax.clip"],
    ),
    (
        "clip below only",
        13,
        node("Clip", "lo"),
        {"lo": np.float32(0)},
        ("N", 4),
        ["relax.nn.relu"],
    ),
    (
        "clip above only",
        13,
        node("Clip", "", "hi"),
        {"hi": np.float32(0.5)},
        ("N", 4),
        ["relax.clip"],
    ),
    ("flatten", 13, node("Flatten"), {}, ("N", 3, 2, 2), ["relax.reshape"]),
    ("flatten from 2", 13, node("Flatten", axis=-2), {}, ("N", 3, 2, 2), ["relax.reshape"]),
    (
        "reshape",
        13,
        node("Reshape", "s"),
        {"s": integers(0, -1, 2)},
        ("N", 3, 2, 2),
        ["relax.reshape"],
    ),
    (
        "reshape with the batch inferred",
        8,
        node("Reshape", "s"),
        {"s": integers(-1, 6, 2)},
        ("N", 3, 2, 2),
        ["relax.reshape"],
    ),
    (
        "slice attributes",
        9,
        node("Slice", starts=[1, -2], ends=[3, 1000], axes=[1, 3]),
        {},
        ("N", 3, 8, 8),
        ["relax.strided_slice"],
    ),
    (
        "slice strided",
        13,
        node("Slice", "s", "e", "a", "t"),
        {
            "s": integers(0, 1),
            "e": integers(2**63 - 1, 8),
            "a": integers(0, -1),
            "t": integers(1, 2),
        },
        ("N", 3, 8, 8),
        ["relax.strided_slice"],
    ),
    (
        "slice backwards",
        13,
        node("Slice", "s", "e", "a", "t"),
        {"s": integers(-1), "e": integers(-(2**31)), "a": integers(2), "t": integers(-1)},
        (2, 3, 8, 8),
        ["relax.strided_slice"],
    ),
    (
        "pad attribute",
        10,
        node("Pad", pads=[0, 1, 2, 0, 0, 1, 0, 3], value=0.5),
        {},
        ("N", 3, 4, 4),
        ["relax.nn.pad"],
    ),
    (
        "pad inputs",
        13,
        node("Pad", "p"),
        {"p": integers(0, 0, 1, 2, 0, 0, 3, 0)},
        ("N", 3, 4, 4),
        ["relax.nn.pad"],
    ),
    (
        "pad axes",
        18,
        node("Pad", "p", "v", "a"),
        {"p": integers(1, 2, 3, 0), "v": np.float32(-1), "a": integers(-1, 2)},
        ("N", 3, 4, 4),
        ["relax.nn.pad"],
    ),
    (
        "upsample",
        9,
        node("Upsample", "s", mode="nearest"),
        {"s": floats(1, 1, 2, 3)},
        ("N", 3, 4, 4),
        RESIZE,
    ),
    (
        "upsample attribute",
        7,
        node("Upsample", scales=[1.0, 1.0, 2.0, 2.0]),
        {},
        (1, 3, 4, 4),
        RESIZE,
    ),
    (
        "resize nearest half pixel",
        13,
        node("Resize", "", "s", mode="nearest"),
        {"s": floats(1, 1, 3, 2)},
        ("N", 3, 4, 4),
        RESIZE,
    ),
    (
        "resize nearest asymmetric floor",
        11,
        node(
            "Resize",
            "r",
            "s",
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        {"r": floats(), "s": floats(1, 1, 2, 2)},
        ("N", 3, 4, 4),
        RESIZE,
    ),
    (
        "resize linear to a size",
        13,
        node("Resize", "", "", "z", mode="linear"),
        {"z": integers(1, 3, 7, 9)},
        (1, 3, 4, 4),
        RESIZE,
    ),
    (
        "concat",
        13,
        helper.make_node("Concat", ["x", "x"], ["y"], axis=1, name="the Concat"),
        {},
        ("N", 3, 4, 4),
        ["relax.concat"],
    ),
    (
        "transpose",
        13,
        node("Transpose", perm=[0, 2, 3, 1]),
        {},
        ("N", 3, 4, 5),
        ["relax.permute_dims"],
    ),
    (
        "leaky relu, left to TVM",
        16,
        node("LeakyRelu", alpha=0.1),
        {},
        ("N", 4),
        ["relax.nn.leakyrelu"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_numbers_are_those_of_onnxruntime(case: Any) -> None:
    _, opset, proto, weights, shape, expected = case
    model = build([proto], weights, shape=shape, opset=opset)
    mod = load(model)

    assert operators(mod) == expected
    x = random(*(2 if dim == "N" else dim for dim in shape), seed=5)
    assert_same(run_tvm(mod, x), run_onnxruntime(model, x))
    # The operator that carries the weight, or else the result, has exactly the node's name.
    assert proto.name in [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def test_a_repeating_resize_has_one_form() -> None:
    model = build([node("Resize", "", "s", mode="nearest")], {"s": floats(1, 1, 2, 2)}, opset=13)
    (binding,) = load(model)["main"].body.blocks[0].bindings
    attrs = binding.value.attrs
    assert (attrs.method, attrs.coordinate_transformation_mode, attrs.rounding_method) == (
        "nearest_neighbor",
        "asymmetric",
        "floor",
    )


def test_asymmetric_padding_is_top_left_bottom_right() -> None:
    model = build([node("Conv", "w", pads=[0, 1, 2, 3])], {"w": W})
    (binding,) = load(model)["main"].body.blocks[0].bindings
    assert [int(p) for p in binding.value.attrs.padding] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("proto", "weights", "reason"),
    [
        (node("Pad", "p"), {"p": integers(0, 0, -1, 0, 0, 0, 0, 0)}, "negative padding"),
        (
            helper.make_node("MaxPool", ["x"], ["y", "i"], name="the MaxPool", kernel_shape=[2, 2]),
            {},
            "the indices",
        ),
        (
            node("Slice", "s", "e", "a"),
            {"s": integers(1), "e": integers(2), "a": integers(0)},
            "cuts axis 0",
        ),
        (node("Det"), {}, "neither this project nor TVM knows it"),
    ],
)
def test_what_cannot_be_imported_names_operator_node_and_reason(
    proto: Any, weights: dict[str, Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build([proto], weights, outputs=tuple(proto.output)[:1])
    with pytest.raises(UnsupportedOperatorError, match=reason) as caught:
        load(model)
    assert f"Operator {proto.op_type} (node '{proto.name}')" in str(caught.value)
    printed = capfd.readouterr()
    assert printed.out == "" and "BlockBuilder" not in printed.err


def test_what_tvm_refuses_is_told_with_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    proto = node("LpPool", kernel_shape=[1, 1, 1, 1])
    with pytest.raises(UnsupportedOperatorError, match=r"LpPool .*TVM's importer says"):
        load(build([proto], shape=(1, 3, 4, 4, 4, 4)))
    printed = capfd.readouterr()
    assert printed.out == "" and "BlockBuilder" not in printed.err
