"""Adder layers compiled for CPUs equal the NumPy reference, bit for bit, and do not multiply."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.topi.one_call import SHIFTS, TARGETS, compiled, run, shapes_of
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, reference
from tvm_shiftadd.target import cpu


def extremes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-128, 127, *range(-128, 128)]), shape).astype(np.int8)


def check(
    rng: np.random.Generator,
    target: str,
    batch: int,
    hw: tuple[int, int],
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    attrs: dict[str, Any],
    fused: bool = False,
) -> None:
    x = extremes(rng, batch, *hw, channels)
    weight = extremes(rng, kernel[0] * kernel[1] * channels, outputs)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int32)
    filters = weight.reshape(*kernel, channels, outputs)
    expected = reference.adder_conv2d(x, filters, bias, **attrs)
    factors = rng.choice(codes.representable(3), outputs)
    copies = codes.encode(factors, 3)
    residual = extremes(rng, *expected.shape)
    shift = rng.integers(12, 16, outputs).astype(np.int32)
    zero, nine = np.zeros(1, np.int32), np.full(1, 9, np.int32)

    def call(builder: Any, x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        result = ops.adder_conv2d(x, weight, bias, kernel_size=kernel, **attrs)
        if not fused:
            return result
        wide = builder.emit(ops.scale(builder.emit(result), relax.const(copies)))
        total = builder.emit(ops.add(wide, residual, *map(relax.const, (zero, nine))))
        return ops.requantize(total, relax.const(shift), lo=0, hi=100)

    if fused:
        expected = reference.add(reference.scale(expected, copies), residual, zero, nine)
        expected = reference.requantize(expected, shift, 0, 100)
    shapes = shapes_of(x=x, weight=weight, bias=bias, residual=residual)
    got = run(compiled(call, shapes, target), x, weight, bias, residual)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


LAYERS: dict[str, Any] = {
    "3x3": ((6, 8), 16, 16, (3, 3), {"padding": (1, 1, 1, 1)}),
    "1x1": ((5, 5), 24, 40, (1, 1), {}),
    "3x3 on a 1x1 map": ((1, 1), 4, 3, (3, 3), {"padding": (1, 1, 1, 1)}),
    "window as large as the map": ((3, 2), 8, 24, (3, 2), {}),
    "stride 2, asymmetric": ((9, 7), 5, 18, (3, 3), {"strides": (2, 2), "padding": (0, 1, 1, 0)}),
    "stride 3 by 2": ((10, 9), 7, 3, (2, 1), {"strides": (3, 2)}),
    "many channels": ((3, 4), 300, 5, (2, 1), {}),
    "as many channels as 16 bits hold": ((2, 3), 255, 2, (1, 2), {}),
    "large kernel": ((12, 12), 3, 4, (9, 9), {"padding": (4, 4, 4, 4)}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LAYERS)
def test_adder_conv2d(name: str, target: str) -> None:
    hw, channels, outputs, kernel, given_attrs = LAYERS[name]
    attrs = {"strides": (1, 1), "padding": (0, 0, 0, 0)} | given_attrs
    rng = np.random.default_rng(len(name))
    check(rng, target, 2, hw, channels, outputs, kernel, attrs)
    check(rng, target, 3, hw, channels, outputs, kernel, attrs, fused=True)


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("channels", [1, 36, 85, 127, 128, 255, 256])
def test_sums_widen_before_sixteen_bits_overflow(channels: int, value: int) -> None:
    x = np.full((1, 2, 2, channels), value, np.int8)
    weight = np.full((4 * channels, 3), value, np.int8)
    weight[:, 1] = -1 - value
    bias = np.zeros(3, np.int32)

    def call(_builder: Any, x: Any, weight: Any, bias: Any) -> Any:
        return ops.adder_conv2d(x, weight, bias, kernel_size=(2, 2))

    shapes = shapes_of(x=x, weight=weight, bias=bias)
    got = run(compiled(call, shapes, "cpu"), x, weight, bias)
    np.testing.assert_array_equal(got[0, 0, 0], [0, -255 * 4 * channels, 0])


@settings(deadline=None, max_examples=6)
@given(st.data())
def test_random_adder_layers(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    kernel = (draw(1, 3), draw(1, 3))
    attrs = {
        "strides": (draw(1, 3), draw(1, 3)),
        "padding": tuple(draw(0, 2) for _ in range(4)),
    }
    hw = (draw(kernel[0], 20), draw(kernel[1], 20))
    rng = np.random.default_rng(draw(0, 2**32 - 1))
    target, fused = data.draw(st.sampled_from(TARGETS)), data.draw(st.booleans())
    check(rng, target, draw(1, 3), hw, draw(1, 20), draw(1, 40), kernel, attrs, fused)


@pytest.mark.parametrize("shape", [(3, 64, 32), (2, 7, 5)])
def test_adder_dense(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    rows, inputs, outputs = shape
    x, weight = extremes(rng, rows, inputs), extremes(rng, inputs, outputs)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int32)

    def call(_builder: Any, *operands: Any) -> Any:
        return ops.adder_dense(*operands)

    shapes = shapes_of(x=x, weight=weight, bias=bias)
    got = run(compiled(call, shapes, "cpu"), x, weight, bias)
    np.testing.assert_array_equal(got, reference.adder_dense(x, weight, bias))


@pytest.mark.parametrize("target", SHIFTS)
def test_assembly_has_no_vector_multiply(target: str) -> None:
    rng = np.random.default_rng(2)
    copies = codes.encode(rng.choice(codes.representable(3), 32), 3)

    def call(builder: Any, x: Any, weight: Any, bias: Any) -> Any:
        layer = builder.emit(
            ops.adder_conv2d(x, weight, bias, kernel_size=(3, 3), padding=(1, 1, 1, 1))
        )
        wide = builder.emit(ops.scale(layer, relax.const(copies)))
        return ops.requantize(wide, relax.const(np.arange(32, dtype=np.int32) % 9), lo=0)

    shapes = {"x": ((None, 8, 8, 16), "int8"), "weight": ((144, 32), "int8")}
    shapes["bias"] = ((32,), "int32")
    text = cpu.assembly(compiled(call, shapes, target))
    assert re.search(r"^\s+v?pminsw\b", text, re.M), "the kernel was not found"
    multiplies = r"^\s+(v?p(?:mul|madd|dp)\w*|v?f\w*m(?:add|sub|ul)\w*|v?mul[ps][sd])\b"
    assert not re.findall(multiplies, text, re.M)
