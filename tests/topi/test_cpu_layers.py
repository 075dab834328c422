"""Layers compiled for CPUs equal the NumPy reference, bit for bit."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.topi.one_call import SHIFTS, TARGETS, compiled, run, shapes_of
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, packing, reference
from tvm_shiftadd.target import cpu


def random_codes(rng, terms, reduction, outputs):
    """Unpacked codes [K, R, O] of random weights, about a third of them zero."""
    values = rng.choice(codes.representable(terms), (reduction, outputs))
    values[rng.random(values.shape) < 0.3] = 0
    return codes.encode(values, terms)


def check_conv(rng, target, batch, hw, channels, outputs, terms, kernel, attrs, fused=False):
    """Compile, run and compare one convolution, alone or with what follows it."""
    groups = attrs.get("groups", 1)
    transposed = "output_padding" in attrs
    reduction = kernel[0] * kernel[1] * (channels // groups)
    weight_codes = random_codes(rng, terms, reduction, outputs)
    packed = packing.pack(weight_codes)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int32)
    x = rng.integers(-128, 128, (batch, *hw, channels)).astype(np.int8)
    shift = rng.integers(4, 12, outputs).astype(np.int32)
    zero, six = np.zeros(1, np.int32), np.full(1, 6, np.int32)
    weight = codes.decode(weight_codes).reshape(*kernel, channels // groups, outputs)
    if transposed:
        expected = reference.conv2d_transpose(x, weight, bias, **attrs)
    else:
        expected = reference.conv2d(x, weight, bias, **attrs)
    residual = rng.integers(-128, 128, expected.shape).astype(np.int8)

    def call(builder, x, packed, bias, residual):
        layer = ops.conv2d_transpose if transposed else ops.conv2d
        result = layer(x, packed, bias, kernel_size=kernel, **attrs)
        if fused:
            total = builder.emit(
                ops.add(builder.emit(result), residual, *map(relax.const, (zero, six)))
            )
            result = ops.requantize(total, relax.const(shift), lo=0, hi=100)
        return result

    if fused:
        expected = reference.add(expected, residual, zero, six)
        expected = reference.requantize(expected, shift, 0, 100)
    shapes = shapes_of(x=x, packed=packed, bias=bias, residual=residual)
    got = run(compiled(call, shapes, target), x, packed, bias, residual)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


CONVS = {
    "3x3": ((6, 8), 16, 16, (3, 3), {"padding": (1, 1, 1, 1)}),
    "1x1": ((5, 5), 24, 40, (1, 1), {}),
    "1x1 map": ((1, 1), 9, 5, (1, 1), {}),
    "3x3 on a 1x1 map": ((1, 1), 4, 3, (3, 3), {"padding": (1, 1, 1, 1)}),
    "classifier": ((1, 1), 40, 33, (1, 1), {}),
    "window as large as the map": ((3, 2), 8, 24, (3, 2), {}),
    "stride 2": ((9, 7), 5, 18, (3, 3), {"strides": (2, 2), "padding": (0, 1, 1, 0)}),
    "stride 2, even": ((8, 8), 3, 17, (3, 3), {"strides": (2, 2), "padding": (0, 0, 1, 1)}),
    "stride 3 by 2, 1x1": ((10, 9), 7, 3, (1, 1), {"strides": (3, 2)}),
    "dilation": ((9, 8), 4, 6, (3, 2), {"dilation": (2, 3), "padding": (2, 1, 1, 2)}),
    "dilation and stride": ((11, 9), 4, 6, (3, 3), {"dilation": (2, 2), "strides": (3, 2)}),
    "groups": ((5, 6), 12, 9, (3, 3), {"groups": 3, "padding": (1, 1, 1, 1)}),
    "depthwise": ((7, 6), 24, 24, (3, 3), {"groups": 24, "padding": (1, 1, 1, 1)}),
    "depthwise, odd": ((6, 7), 13, 26, (3, 3), {"groups": 13, "strides": (2, 2)}),
    "large kernel": ((12, 12), 3, 4, (9, 9), {"padding": (4, 4, 4, 4)}),
    "wide map": ((3, 70), 2, 3, (3, 3), {"padding": (1, 1, 1, 1)}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONVS)
def test_conv2d(name, target):
    hw, channels, outputs, kernel, attrs = CONVS[name]
    attrs = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1} | attrs
    rng = np.random.default_rng(len(name))
    terms = 1 + len(name) % 3
    check_conv(rng, target, 2, hw, channels, outputs, terms, kernel, attrs)
    check_conv(rng, target, 3, hw, channels, outputs, terms, kernel, attrs, fused=True)


def test_conv2d_sums_beyond_sixteen_bits():
    # More than 127 equal terms of one sign, at the extreme inputs: a 16-bit sum would wrap.
    channels, outputs = 300, 17
    values = np.full((channels, outputs), 64)
    values[:, 1], values[:, 2] = -64, 96
    weight_codes = codes.encode(values, 2)
    x = np.full((1, 2, 2, channels), -128, np.int8)
    bias = np.zeros(outputs, np.int32)

    def call(_builder, x, packed, bias):
        return ops.conv2d(x, packed, bias, kernel_size=(1, 1))

    packed = packing.pack(weight_codes)
    shapes = {
        "x": (x.shape, "int8"),
        "packed": (packed.shape, "uint8"),
        "bias": (bias.shape, "int32"),
    }
    got = run(compiled(call, shapes, "cpu"), x, packed, bias)
    np.testing.assert_array_equal(got[0, 0, 0], -128 * values.sum(0))


@pytest.mark.parametrize("exponents", [(6, 5, 4), (2, 1, 0), (6, 3, 0)])
@pytest.mark.parametrize("channels", [1, 12, 13, 36, 37, 85, 127, 128, 255])
def test_conv2d_widens_before_sixteen_bits_overflow(channels, exponents):
    # All weights and inputs at one extreme, so that every sum is as large as it can be.
    outputs = 3
    weight_codes = np.empty((3, channels, outputs), np.uint8)
    weight_codes[:] = np.array(exponents, np.uint8)[:, None, None] + 1
    weight_codes[:, :, 1] |= 8
    weight_codes[:, ::2, 2] |= 8
    x = np.full((1, 3, 3, channels), -128, np.int8)
    bias = np.zeros(outputs, np.int32)
    packed = packing.pack(weight_codes)
    shapes = {
        "x": (x.shape, "int8"),
        "packed": (packed.shape, "uint8"),
        "bias": (bias.shape, "int32"),
    }
    executable = compiled(
        lambda _b, x, packed, bias: ops.conv2d(x, packed, bias, kernel_size=(1, 1)), shapes, "cpu"
    )
    got = run(executable, x, packed, bias)
    expected = -128 * codes.decode(weight_codes).sum(0)
    np.testing.assert_array_equal(got, np.broadcast_to(expected, got.shape))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("hw", "kernel", "attrs"),
    [
        ((4, 5), (3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)}),
        ((3, 4), (2, 2), {"strides": (2, 2)}),
        ((5, 3), (3, 2), {"strides": (1, 3), "dilation": (2, 2), "output_padding": (0, 1)}),
    ],
)
def test_conv2d_transpose(hw, kernel, attrs, target):
    defaults = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    attrs = defaults | {"output_padding": (0, 0)} | attrs
    rng = np.random.default_rng(7)
    check_conv(rng, target, 2, hw, 5, 18, 2, kernel, attrs)
    check_conv(rng, target, 1, hw, 5, 18, 3, kernel, attrs, fused=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(3, 9), (40, 64), (2, 5, 7)])
@pytest.mark.parametrize(("outputs", "terms"), [(10, 2), (33, 1), (64, 3)])
def test_dense(shape, outputs, terms, target):
    rng = np.random.default_rng(outputs)
    weight_codes = random_codes(rng, terms, shape[-1], outputs)
    packed = packing.pack(weight_codes)
    bias = rng.integers(-99, 99, outputs).astype(np.int32)
    x = rng.integers(-128, 128, shape).astype(np.int8)
    shapes = shapes_of(x=x, packed=packed, bias=bias)
    executable = compiled(lambda _b, *args: ops.dense(*args), shapes, target)
    expected = reference.dense(x, codes.decode(weight_codes), bias)
    np.testing.assert_array_equal(run(executable, x, packed, bias), expected)

    shift = rng.integers(4, 12, outputs).astype(np.int32)

    def fused(builder, *args):
        return ops.requantize(builder.emit(ops.dense(*args)), relax.const(shift), lo=-100, hi=100)

    got = run(compiled(fused, shapes, target), x, packed, bias)
    np.testing.assert_array_equal(got, reference.requantize(expected, shift, -100, 100))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_conv2d_of_any_shape(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    kernel = (draw(1, 4), draw(1, 4))
    groups = draw(1, 3)
    attrs = {
        "strides": (draw(1, 3), draw(1, 3)),
        "padding": tuple(draw(0, 2) for _ in range(4)),
        "dilation": (draw(1, 2), draw(1, 2)),
        "groups": groups,
    }
    hw = tuple(draw((kernel[i] - 1) * attrs["dilation"][i] + 1, 20) for i in range(2))
    rng = np.random.default_rng(draw(0, 2**32 - 1))
    channels, outputs = groups * draw(1, 20), groups * draw(1, 20)
    target = data.draw(st.sampled_from(TARGETS))
    fused = data.draw(st.booleans())
    check_conv(rng, target, draw(1, 3), hw, channels, outputs, draw(1, 3), kernel, attrs, fused)


SMALL = {
    "conv2d": (
        ((None, 8, 8, 16), (2, 72, 32)),
        {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)},
        r"v?paddw\b|add\s+v\d+\.8h",
    ),
    "depthwise": (
        ((None, 8, 8, 32), (2, 5, 32)),
        {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "groups": 32},
        r"v?psll(?:v[dw]|[dw])\b|[su]shl\s+v",
    ),
    "dense": (((None, 64), (2, 32, 32)), None, r"v?psll(?:v[dw]|[dw])\b|[su]shl\s+v"),
}
#: For this machine, and for AArch64.
ASSEMBLIES = [*SHIFTS, "cpu:aarch64"]


@lru_cache
def layer_assembly(name, target):
    (data, weights), attrs, _ = SMALL[name]

    def call(builder, x, packed, bias):
        inputs = (x, packed, bias)
        layer = ops.dense(*inputs) if attrs is None else ops.conv2d(*inputs, **attrs)
        shift = relax.const(np.arange(-3, 29, dtype=np.int32))
        return ops.requantize(builder.emit(layer), shift, lo=0, hi=127)

    shapes = {"x": (data, "int8"), "packed": (weights, "uint8"), "bias": ((32,), "int32")}
    return cpu.assembly(compiled(call, shapes, target))


def vector_multiplies(text):
    """Of x86-64, and of AArch64, whose registers of vectors are called v and z."""
    x86 = r"(?:v?p(?:mul|madd|dp)\w*|v?f\w*m(?:add|sub|ul)\w*|v?mul[ps][sd])\b"
    arm = r"\w*(?:mul|ml[as]|dot|mmla)\w*\s+[vz]\d"
    return re.findall(rf"^\s+({x86}|{arm})", text, re.M)


def test_multiplications_would_be_found():
    found = ["vpmaddwd %ymm1", "vmulps %ymm1", "sdot v0.4s", "smlal2 v1.8h", "fmla v2.4s"]
    assert len(vector_multiplies("".join(f"\t{line}, x\n" for line in found))) == len(found)
    assert not vector_multiplies("\tmadd x0, x1, x2, x3\n\timulq %rax, %rbx\n")


@pytest.mark.parametrize("target", ASSEMBLIES)
@pytest.mark.parametrize("name", SMALL)
def test_assembly_has_no_vector_multiply(name, target):
    text = layer_assembly(name, target)
    expected = SMALL[name][2]
    assert re.search(rf"^\s+(?:{expected})", text, re.M), "the kernel was not found"
    assert not vector_multiplies(text)


def averages(**window):
    def call(builder, x):
        y = builder.emit(ops.avg_pool2d(x, **window))
        return ops.requantize(y, relax.const(np.full(1, 9, np.int32)), lo=0, hi=127)

    return call


def added(_builder, x, y):
    shifts = (relax.const(np.arange(32, dtype=np.int32) % 5 * side) for side in (1, 0))
    return ops.add(x, y, *shifts)


#: Operators without weights: inputs, their call.
WEIGHTLESS = {
    "mean of 17x17": ({"x": ((None, 17, 17, 32), "int8")}, averages(pool_size=(17, 17))),
    "mean of 7x7": ({"x": ((None, 7, 7, 32), "int8")}, averages(pool_size=(7, 7))),
    "average with borders": (
        {"x": ((None, 9, 9, 32), "int8")},
        averages(pool_size=(3, 3), padding=(1, 1, 1, 1)),
    ),
    "add": ({"x": ((None, 8, 8, 32), "int32"), "y": ((None, 8, 8, 32), "int8")}, added),
    "requantize": (
        {"x": ((None, 8, 8, 32), "int32")},
        lambda _builder, x: ops.requantize(x, relax.const(np.arange(32, dtype=np.int32) - 3)),
    ),
}


@pytest.mark.parametrize("target", ASSEMBLIES)
@pytest.mark.parametrize("name", WEIGHTLESS)
def test_assembly_of_operators_without_weights_has_no_vector_multiply(name, target):
    shapes, call = WEIGHTLESS[name]
    text = cpu.assembly(compiled(call, shapes, target))
    assert re.search(r"^\s+(?:v?ps[lr]\w*\b|[su]shl\s+v)", text, re.M), "no shift was found"
    assert not vector_multiplies(text)
