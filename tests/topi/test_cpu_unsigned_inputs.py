"""Layers of uint8 inputs compiled for CPUs equal the NumPy reference, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax
from tvm.target import codegen

from tests.topi.one_call import module, run, shapes_of
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import cpu, parse

#: With AVX-512, lanes that shift by different amounts have 16 bits: products of uint8 fill them.
WIDE = '{"kind": "llvm", "mcpu": "skylake-avx512"}'
TARGETS = [
    "cpu",
    "cpu:generic",
    pytest.param(
        WIDE,
        marks=pytest.mark.skipif(
            "avx512bw" not in map(str, codegen.llvm_get_cpu_features(cpu.tvm_target(parse("cpu")))),
            reason="needs AVX-512",
        ),
    ),
]


def compare(build: Callable[..., Any], target: str, **arrays: np.ndarray) -> None:
    """Compile an expression of its operands; the result must be that of the reference."""
    made = module(build, shapes_of(**arrays))
    got = run(cpu.build(made, parse(target)), *arrays.values())
    (expected,) = run_reference(made, arrays).values()
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def layer(rng: np.random.Generator, reduction: int, outputs: int, terms: int) -> dict[str, Any]:
    values = rng.choice(codes.representable(terms), (reduction, outputs))
    return {
        "codes": packing.pack(codes.encode(values, terms)),
        "bias": rng.integers(-5000, 5000, outputs).astype(np.int32),
    }


def bytes_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Half of them the greatest value, so that sums come near their bounds."""
    return np.where(rng.random(shape) < 0.5, 255, rng.integers(0, 256, shape)).astype(np.uint8)


CONVS: dict[str, tuple[Any, ...]] = {
    "3x3": ((6, 8), 16, 16, (3, 3), {"padding": (1, 1, 1, 1)}),
    "1x1": ((5, 5), 24, 40, (1, 1), {}),
    "classifier": ((1, 1), 40, 33, (1, 1), {}),
    "stride 2": ((9, 7), 5, 18, (3, 3), {"strides": (2, 2), "padding": (0, 1, 1, 0)}),
    "dilation": ((9, 8), 4, 6, (3, 2), {"dilation": (2, 3), "padding": (2, 1, 1, 2)}),
    "groups": ((5, 6), 12, 9, (3, 3), {"groups": 3, "padding": (1, 1, 1, 1)}),
    "depthwise": ((7, 6), 24, 24, (3, 3), {"groups": 24, "padding": (1, 1, 1, 1)}),
    "depthwise 2": ((9, 9), 32, 32, (3, 3), {"groups": 32, "strides": (2, 2)}),
    "many inputs": ((2, 3), 300, 17, (1, 1), {}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONVS)
def test_conv2d(name: str, target: str) -> None:
    hw, channels, outputs, kernel, attrs = CONVS[name]
    rng = np.random.default_rng(len(name))
    reduction = kernel[0] * kernel[1] * channels // attrs.get("groups", 1)
    arrays = layer(rng, reduction, outputs, 1 + len(name) % 3)
    shift = relax.const(rng.integers(4, 12, outputs).astype(np.int32))

    def call(builder: Any, *operands: Any) -> Any:
        acc = builder.emit(ops.conv2d(*operands, kernel_size=kernel, **attrs))
        return ops.requantize(acc, shift, hi=190, dtype="uint8")

    compare(call, target, x=bytes_of(rng, 2, *hw, channels), **arrays)


@pytest.mark.parametrize("target", TARGETS)
def test_transposed_conv2d(target: str) -> None:
    rng = np.random.default_rng(3)
    compare(
        lambda _, *operands: ops.conv2d_transpose(
            *operands, kernel_size=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1)
        ),
        target,
        x=bytes_of(rng, 2, 4, 5, 6),
        **layer(rng, 54, 18, 3),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("inputs", "outputs"), [(9, 10), (64, 33), (127, 64)])
def test_dense(inputs: int, outputs: int, target: str) -> None:
    rng = np.random.default_rng(inputs)
    compare(
        lambda _, *operands: ops.dense(*operands),
        target,
        x=bytes_of(rng, 11, inputs),
        **layer(rng, inputs, outputs, 3),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("exponents", [(6, 5, 4), (6, 3, 0)])
@pytest.mark.parametrize("channels", [12, 127, 128, 255])
def test_no_sum_leaves_its_lane(channels: int, exponents: tuple[int, ...], target: str) -> None:
    # All weights and inputs at one extreme, so that every sum is as large as it can be.
    weight_codes = np.empty((3, channels, 9), np.uint8)
    weight_codes[:] = np.array(exponents, np.uint8)[:, None, None] + 1
    weight_codes[:, :, 1] |= 8
    weight_codes[:, ::2, 2] |= 8
    x = np.full((1, 3, 3, channels), 255, np.uint8)
    bias = np.zeros(9, np.int32)
    arrays = {"codes": packing.pack(weight_codes), "bias": bias}
    compare(lambda _, *operands: ops.conv2d(*operands, kernel_size=(1, 1)), target, x=x, **arrays)


@pytest.mark.parametrize("target", TARGETS)
def test_depthwise_products_of_both_signs_stay_in_their_lane(target: str) -> None:
    weight_codes = np.empty((3, 9, 32), np.uint8)
    weight_codes[:] = np.array([7, 6, 5], np.uint8)[:, None, None]
    weight_codes[:, :, 1::2] |= 8
    arrays = {"codes": packing.pack(weight_codes), "bias": np.zeros(32, np.int32)}
    compare(
        lambda _, *operands: ops.conv2d(*operands, kernel_size=(3, 3), groups=32),
        target,
        x=np.full((1, 5, 5, 32), 255, np.uint8),
        **arrays,
    )


def average(builder: Any, x: Any) -> Any:
    total = builder.emit(ops.avg_pool2d(x, pool_size=(3, 3), padding=(1, 1, 1, 1)))
    return ops.requantize(total, relax.const(np.array([12], np.int32)), dtype="uint8")


def residual(builder: Any, x: Any) -> Any:
    shifts = (relax.const(np.array([n], np.int32)) for n in (0, 1))
    total = builder.emit(ops.add(x, x, *shifts))
    return ops.requantize(total, relax.const(np.array([1], np.int32)), dtype="uint8")


#: Operators without weights, of a map and one another.
WEIGHTLESS: dict[str, Callable[[Any, Any], Any]] = {
    "average": average,
    "residual": residual,
    "max": lambda _, x: ops.max_pool2d(x, pool_size=(3, 3), padding=(1, 1, 1, 1)),
    "clip": lambda _, x: ops.clip(x, lo=3, hi=200),
    "pad": lambda _, x: ops.pad(x, pad_width=[0, 0, 1, 2, 0, 1, 0, 3]),
    "concat": lambda _, x: ops.concat([x, x], axis=3),
    "upsample": lambda _, x: ops.upsample2d(x, scale=(2, 3)),
    "to int8": lambda _, x: ops.requantize(x, relax.const(np.zeros(1, np.int32))),
    "to float": lambda _, x: ops.dequantize(x, relax.const(np.array([5], np.int32))),
}


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_operators_without_weights(name: str) -> None:
    rng = np.random.default_rng(1)
    compare(WEIGHTLESS[name], "cpu", x=bytes_of(rng, 2, 7, 6, 32))
