"""Type inference: what each operator accepts, what it refuses and how it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect import attrs, ops
from tvm_shiftadd.errors import VerificationError

N = tirx.Var("n", "int64")


def var(dtype: str, *shape: Any) -> Any:
    return relax.Var("x", TensorType(shape, dtype))


def vec(*values: int) -> Any:
    return relax.const(np.array(values, np.int32))


def codes(terms: int, rows: int, outputs: int) -> Any:
    return relax.const(np.zeros((terms, rows, outputs), np.uint8))


def bias(outputs: int) -> Any:
    return relax.const(np.zeros(outputs, np.int32))


def distances(rows: int, outputs: int) -> Any:
    return relax.const(np.zeros((rows, outputs), np.int8))


def infer(call: Any) -> str:
    return str(relax.BlockBuilder().normalize(call).ty)


MAP = var("int8", N, 9, 8, 4)
BYTES = var("uint8", N, 9, 8, 4)
WIDE = var("int32", N, 9, 8, 4)
CONV = {"kernel_size": (3, 3)}
POOL = {"pool_size": (3, 3), "strides": (2, 2)}

ACCEPTED = {
    "conv2d": (
        lambda: ops.conv2d(MAP, codes(2, 18, 6), bias(6), padding=(1, 0, 0, 1), **CONV),
        "(n, 8, 7, 6), int32",
    ),
    "conv2d strided, dilated": (
        lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), strides=(2, 1), dilation=(2, 3), **CONV),
        "(n, 3, 2, 6), int32",
    ),
    "conv2d depthwise, odd reduction": (
        lambda: ops.conv2d(MAP, codes(3, 5, 8), bias(8), groups=4, **CONV),
        "(n, 7, 6, 8), int32",
    ),
    "conv2d_transpose": (
        lambda: ops.conv2d_transpose(
            MAP,
            codes(1, 18, 2),
            bias(2),
            strides=(2, 2),
            padding=(1, 1, 1, 0),
            output_padding=(1, 0),
            **CONV,
        ),
        "(n, 18, 16, 2), int32",
    ),
    "dense": (lambda: ops.dense(var("int8", N, 5), codes(2, 3, 7), bias(7)), "(n, 7), int32"),
    "dense of rank 3": (
        lambda: ops.dense(var("int8", N, 3, 4), codes(2, 2, 7), bias(7)),
        "(n, 3, 7), int32",
    ),
    "adder_conv2d": (
        lambda: ops.adder_conv2d(
            MAP, distances(36, 6), bias(6), strides=(2, 1), padding=(1, 0, 0, 1), **CONV
        ),
        "(n, 4, 7, 6), int32",
    ),
    "adder_dense": (
        lambda: ops.adder_dense(var("int8", N, 3, 5), distances(5, 7), bias(7)),
        "(n, 3, 7), int32",
    ),
    "scale": (
        lambda: ops.scale(WIDE, relax.const(np.ones((1, 4), np.uint8))),
        "(n, 9, 8, 4), int32",
    ),
    "scale by one factor": (
        lambda: ops.scale(MAP, relax.const(np.array([[7], [10]], np.uint8))),
        "(n, 9, 8, 4), int32",
    ),
    "quantize": (lambda: ops.quantize(var("float32", N, 3), 5), "(n, 3), int8"),
    "dequantize": (lambda: ops.dequantize(WIDE, vec(1, 2, 3, 4)), "(n, 9, 8, 4), float32"),
    "requantize": (lambda: ops.requantize(WIDE, vec(-31), lo=0), "(n, 9, 8, 4), int8"),
    "requantize of int8": (lambda: ops.requantize(MAP, vec(1)), "(n, 9, 8, 4), int8"),
    "add": (lambda: ops.add(MAP, WIDE, vec(0, 1, 2, 3), vec(0)), "(n, 9, 8, 4), int32"),
    "clip": (lambda: ops.clip(MAP, lo=-1, hi=6), "(n, 9, 8, 4), int8"),
    "avg_pool2d": (lambda: ops.avg_pool2d(MAP, **POOL), "(n, 4, 3, 4), int32"),
    "avg_pool2d with ceil_mode": (
        lambda: ops.avg_pool2d(MAP, padding=(0, 0, 1, 0), ceil_mode=True, **POOL),
        "(n, 5, 4, 4), int32",
    ),
    "max_pool2d": (lambda: ops.max_pool2d(MAP, padding=(1, 1, 1, 1), **POOL), "(n, 5, 4, 4), int8"),
    "max_pool2d whose last window would start in the padding": (
        lambda: ops.max_pool2d(
            var("int8", N, 4, 4, 1),
            pool_size=(2, 2),
            strides=(3, 3),
            padding=(1, 1, 1, 1),
            ceil_mode=True,
        ),
        "(n, 2, 2, 1), int8",
    ),
    "concat": (lambda: ops.concat([MAP, MAP], axis=3), "(n, 9, 8, 8), int8"),
    "conv2d of uint8": (
        lambda: ops.conv2d(BYTES, codes(1, 18, 6), bias(6), **CONV),
        "(n, 7, 6, 6), int32",
    ),
    "dense of uint8": (
        lambda: ops.dense(var("uint8", N, 5), codes(2, 3, 7), bias(7)),
        "(n, 7), int32",
    ),
    "quantize to uint8": (
        lambda: ops.quantize(var("float32", N, 3), 5, dtype="uint8"),
        "(n, 3), uint8",
    ),
    "requantize to uint8": (
        lambda: ops.requantize(MAP, vec(1), hi=200, dtype="uint8"),
        "(n, 9, 8, 4), uint8",
    ),
    "requantize of uint8": (lambda: ops.requantize(BYTES, vec(1)), "(n, 9, 8, 4), int8"),
    "dequantize of uint8": (lambda: ops.dequantize(BYTES, vec(1)), "(n, 9, 8, 4), float32"),
    "add of int8 and uint8": (
        lambda: ops.add(BYTES, MAP, vec(0), vec(1)),
        "(n, 9, 8, 4), int32",
    ),
    "clip of uint8": (lambda: ops.clip(BYTES, lo=3, hi=200), "(n, 9, 8, 4), uint8"),
    "max_pool2d of uint8": (lambda: ops.max_pool2d(BYTES, **POOL), "(n, 4, 3, 4), uint8"),
    "avg_pool2d of uint8": (lambda: ops.avg_pool2d(BYTES, **POOL), "(n, 4, 3, 4), int32"),
    "concat of uint8": (lambda: ops.concat([BYTES, BYTES], axis=3), "(n, 9, 8, 8), uint8"),
    "pad of uint8": (lambda: ops.pad(BYTES, pad_width=[0, 0] * 4), "(n, 9, 8, 4), uint8"),
    "upsample2d of uint8": (
        lambda: ops.upsample2d(BYTES, scale=(2, 3)),
        "(n, 18, 24, 4), uint8",
    ),
    "pad": (lambda: ops.pad(MAP, pad_width=[0, 0, 1, 2, 0, 0, 3, 0]), "(n, 12, 8, 7), int8"),
    "upsample2d": (lambda: ops.upsample2d(MAP, scale=(2, 3)), "(n, 18, 24, 4), int8"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_operands_give_this_type(name: str) -> None:
    build, expected = ACCEPTED[name]
    shape, dtype = expected.rsplit(", ", 1)
    assert infer(build()) == f'R.Tensor({shape}, dtype="{dtype}")'


REFUSED = {
    "conv2d: float x": (
        lambda: ops.conv2d(var("float32", N, 9, 8, 4), codes(1, 18, 6), bias(6), **CONV),
        ["x to be int8 or uint8 [N, H, W, C]", "float32[n, 9, 8, 4]", "uint8[1, 18, 6]"],
    ),
    "conv2d: rank 3": (
        lambda: ops.conv2d(var("int8", N, 9, 8), codes(1, 18, 6), bias(6), **CONV),
        ["[N, H, W, C]", "int8[n, 9, 8]"],
    ),
    "conv2d: unknown height": (
        lambda: ops.conv2d(var("int8", N, N, 8, 4), codes(1, 18, 6), bias(6), **CONV),
        ["known height", "int8[n, n, 8, 4]"],
    ),
    "conv2d: codes of another reduction": (
        lambda: ops.conv2d(MAP, codes(1, 17, 6), bias(6), **CONV),
        ["18 rows", "R = 36", "uint8[1, 17, 6]"],
    ),
    "conv2d: four terms": (
        lambda: ops.conv2d(MAP, codes(4, 18, 6), bias(6), **CONV),
        ["1 to 3 terms", "uint8[4, 18, 6]"],
    ),
    "conv2d: signed codes": (
        lambda: ops.conv2d(MAP, relax.const(np.zeros((1, 18, 6), np.int8)), bias(6), **CONV),
        ["codes to be uint8", "int8[1, 18, 6]"],
    ),
    "conv2d: bias of another length": (
        lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(5), **CONV),
        ["bias int32 [6]", "int32[5]"],
    ),
    "conv2d: groups do not divide the channels": (
        lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), groups=3, **CONV),
        ["groups = 3", "int8[n, 9, 8, 4]"],
    ),
    "conv2d: groups do not divide the outputs": (
        lambda: ops.conv2d(MAP, codes(1, 9, 5), bias(5), groups=2, **CONV),
        ["groups = 2", "uint8[1, 9, 5]"],
    ),
    "conv2d: window too large": (
        lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), dilation=(5, 1), **CONV),
        ["window that fits", "int8[n, 9, 8, 4]"],
    ),
    "conv2d_transpose: codes of another reduction": (
        lambda: ops.conv2d_transpose(MAP, codes(1, 9, 6), bias(6), **CONV),
        ["18 rows", "uint8[1, 9, 6]"],
    ),
    "conv2d_transpose: padding leaves nothing": (
        lambda: ops.conv2d_transpose(MAP, codes(1, 18, 6), bias(6), padding=(9, 0, 9, 0), **CONV),
        ["not empty", "int8[n, 9, 8, 4]"],
    ),
    "dense: another width": (
        lambda: ops.dense(var("int8", N, 5), codes(2, 2, 7), bias(7)),
        ["3 rows", "int8[n, 5]", "uint8[2, 2, 7]"],
    ),
    "dense: unknown width": (
        lambda: ops.dense(var("int8", 2, N), codes(2, 2, 7), bias(7)),
        ["known last dimension", "int8[2, n]"],
    ),
    "adder_conv2d: weight of another reduction": (
        lambda: ops.adder_conv2d(MAP, distances(9, 6), bias(6), **CONV),
        ["R = 36", "int8[9, 6]"],
    ),
    "adder_conv2d: codes": (
        lambda: ops.adder_conv2d(MAP, codes(1, 18, 6), bias(6), **CONV),
        ["weight to be int8 [R, O]", "uint8[1, 18, 6]"],
    ),
    "adder_conv2d: window too large": (
        lambda: ops.adder_conv2d(MAP, distances(400, 6), bias(6), kernel_size=(10, 10)),
        ["window that fits", "int8[n, 9, 8, 4]"],
    ),
    "adder_dense: bias of another length": (
        lambda: ops.adder_dense(var("int8", N, 5), distances(5, 7), bias(6)),
        ["bias int32 [7]", "int32[6]"],
    ),
    "scale: other channels": (
        lambda: ops.scale(WIDE, relax.const(np.zeros((1, 3), np.uint8))),
        ["one a channel", "uint8[1, 3]"],
    ),
    "scale: four copies": (
        lambda: ops.scale(WIDE, relax.const(np.zeros((4, 1), np.uint8))),
        ["1 to 3 terms", "uint8[4, 1]"],
    ),
    "scale: minus zero": (
        lambda: ops.scale(WIDE, relax.const(np.full((1, 1), 8, np.uint8))),
        ["valid term codes", "minus zero"],
    ),
    "quantize: int8": (lambda: ops.quantize(MAP, 3), ["x to be float32", "int8[n, 9, 8, 4]"]),
    "dequantize: float": (
        lambda: ops.dequantize(var("float32", N, 3), vec(1)),
        ["int8 or int32", "float32[n, 3]"],
    ),
    "dequantize: exponents of other channels": (
        lambda: ops.dequantize(MAP, vec(1, 2)),
        ["one a channel", "int32[2]"],
    ),
    "dequantize: exponent out of range": (
        lambda: ops.dequantize(MAP, vec(65)),
        ["exponent within -64..64", "65"],
    ),
    "requantize: shift out of range": (
        lambda: ops.requantize(WIDE, vec(1, 32, 1, 1)),
        ["shift within -31..31", "from 1 to 32"],
    ),
    "requantize: shift of int8": (
        lambda: ops.requantize(WIDE, relax.const(np.array([1], np.int8))),
        ["shift to be int32", "int8[1]"],
    ),
    "add: other shapes": (
        lambda: ops.add(MAP, var("int8", N, 9, 8, 1), vec(0), vec(0)),
        ["one shape", "int8[n, 9, 8, 4]", "int8[n, 9, 8, 1]"],
    ),
    "add: other symbols": (
        lambda: ops.add(MAP, var("int8", tirx.Var("m", "int64"), 9, 8, 4), vec(0), vec(0)),
        ["one shape", "int8[m, 9, 8, 4]"],
    ),
    "add: right shift": (
        lambda: ops.add(MAP, MAP, vec(-1), vec(0)),
        ["lhs_shift within 0..31", "-1"],
    ),
    "clip: int32": (lambda: ops.clip(WIDE, lo=0, hi=6), ["x to be int8", "int32[n, 9, 8, 4]"]),
    "max_pool2d: window too large": (
        lambda: ops.max_pool2d(MAP, pool_size=(10, 1)),
        ["window that fits", "int8[n, 9, 8, 4]"],
    ),
    "max_pool2d: int32": (lambda: ops.max_pool2d(WIDE, **POOL), ["x to be int8", "int32"]),
    "avg_pool2d: int32": (lambda: ops.avg_pool2d(WIDE, **POOL), ["x to be int8", "int32"]),
    "concat: no tuple": (
        lambda: relax.Call(ops.concat([MAP], axis=0).op, [MAP], ops.concat([MAP], axis=0).attrs),
        ["a tuple of int8", "int8[n, 9, 8, 4]"],
    ),
    "concat: int32": (lambda: ops.concat([MAP, WIDE], axis=3), ["int8 tensors", "int32"]),
    "concat: two types": (lambda: ops.concat([MAP, BYTES], axis=3), ["int8 or of uint8 tensors"]),
    "clip: beyond int8": (lambda: ops.clip(MAP, lo=0, hi=200), ["bounds in -128..127", "200"]),
    "clip: below uint8": (lambda: ops.clip(BYTES, lo=-3, hi=9), ["bounds in 0..255", "-3"]),
    "adder_conv2d: uint8": (
        lambda: ops.adder_conv2d(BYTES, distances(36, 6), bias(6), kernel_size=(3, 3)),
        ["x to be int8 [N, H, W, C]", "uint8[n, 9, 8, 4]"],
    ),
    "concat: other height": (
        lambda: ops.concat([MAP, var("int8", N, 7, 8, 4)], axis=3),
        ["differ in axis 3 only", "int8[n, 7, 8, 4]"],
    ),
    "concat: axis beyond the rank": (lambda: ops.concat([MAP], axis=4), ["axis 4"]),
    "pad: other rank": (lambda: ops.pad(MAP, pad_width=[0, 1]), ["8 integers", "not 2"]),
    "upsample2d: rank 2": (lambda: ops.upsample2d(var("int8", N, 3), scale=(2, 2)), ["int8[n, 3]"]),
    "too few operands": (
        lambda: relax.Call(ops.clip(MAP, lo=0, hi=1).op, [MAP, MAP], None),
        ["1 operands x", "got 2"],
    ),
    "attributes missing": (
        lambda: relax.Call(ops.clip(MAP, lo=0, hi=1).op, [MAP], None),
        ["attributes lo, hi", "builder"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operands_are_named_with_their_types(name: str) -> None:
    build, parts = REFUSED[name]
    # The class survives TVM's C++ code, which runs type inference.
    with pytest.raises(VerificationError) as caught:
        infer(build())
    message = str(caught.value)
    assert message.startswith("shiftadd.") and "expects" in message
    for part in parts:
        assert part in message


BAD_ATTRIBUTES = [
    lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), kernel_size=(3,)),
    lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), strides=(0, 1), **CONV),
    lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), padding=(1, 1), **CONV),
    lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), padding=(-1, 0, 0, 0), **CONV),
    lambda: ops.conv2d(MAP, codes(1, 18, 6), bias(6), groups=0, **CONV),
    lambda: ops.conv2d_transpose(MAP, codes(1, 18, 6), bias(6), output_padding=(1, 0), **CONV),
    lambda: ops.quantize(MAP, 65),
    lambda: ops.requantize(WIDE, vec(1), lo=3, hi=2),
    lambda: ops.clip(MAP, lo=-129, hi=2),
    lambda: ops.clip(MAP, lo=-1, hi=128),
    lambda: ops.quantize(MAP, 5, dtype="int16"),
    lambda: ops.requantize(WIDE, vec(1), dtype="int32"),
    lambda: ops.requantize(WIDE, vec(1), lo=-1, dtype="uint8"),
    lambda: ops.max_pool2d(MAP, pool_size=(2, 2), padding=(2, 0, 0, 0)),
    lambda: ops.concat([MAP], axis=-1),
    lambda: ops.pad(MAP, pad_width=[0, -1]),
    lambda: ops.upsample2d(MAP, scale=(0, 1)),
]


@pytest.mark.parametrize("number", range(len(BAD_ATTRIBUTES)))
def test_builders_refuse_attributes(number: int) -> None:
    with pytest.raises(VerificationError, match=r"^shiftadd.* expects .* got "):
        BAD_ATTRIBUTES[number]()


def test_attributes_survive_the_way_through_a_call() -> None:
    call = ops.avg_pool2d(MAP, padding=(1, 0, 0, 1), ceil_mode=True, **POOL)
    read = attrs.AvgPool2DAttrs.of(call)
    assert read == attrs.AvgPool2DAttrs(
        (3, 3), (2, 2), (1, 0, 0, 1), (1, 1), True, False, read.reciprocal_shift
    )
    assert list(call.attrs["strides"]) == [2, 2]
    assert read.reciprocal_shift > 0


def test_average_of_a_power_of_two_window_has_the_plain_shift() -> None:
    call = ops.avg_pool2d(var("int8", N, 8, 8, 4), pool_size=(8, 8))
    assert attrs.AvgPool2DAttrs.of(call).reciprocal_shift == 6


def test_wrong_reciprocal_shift_is_refused() -> None:
    good = ops.avg_pool2d(MAP, **POOL)
    values = {name: good.attrs[name] for name in attrs.AvgPool2DAttrs.names()}
    bad = attrs.AvgPool2DAttrs(**{**values, "reciprocal_shift": 1})
    with pytest.raises(VerificationError, match="reciprocal_shift"):
        infer(relax.Call(good.op, [MAP], bad.to_node()))
