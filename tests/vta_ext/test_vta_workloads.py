"""The layers that VTA's own tests and papers run, in shift mode: bits, and how busy the machine is.

Sizes are H (= W), channels in, channels out, and what the family has besides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.vta_ext.region_cases import RegionCase
from vta_ext.compiler.compile import CompiledRegion
from vta_ext.presets import SHIFT
from vta_ext.sim.timing import simulate

#: ResNet-18: kernel, padding, stride; and the least share of cycles that are products.
CONVOLUTIONS: dict[str, tuple[int, ...]] = {
    "C1": (224, 3, 64, 7, 3, 2),
    "C2": (56, 64, 64, 3, 1, 1),
    "C3": (56, 64, 128, 3, 1, 2),
    "C4": (56, 64, 128, 1, 0, 2),
    "C5": (28, 128, 128, 3, 1, 1),
    "C6": (28, 128, 256, 3, 1, 2),
    "C7": (28, 128, 256, 1, 0, 2),
    "C8": (14, 256, 256, 3, 1, 1),
    "C9": (14, 256, 512, 3, 1, 2),
    "C10": (14, 256, 512, 1, 0, 2),
    "C11": (7, 512, 512, 3, 1, 1),
}
#: DCGAN, kernel 4, padding 1, stride 2.
TRANSPOSED = {"CT1": (4, 1024, 512), "CT2": (8, 512, 256), "CT3": (16, 256, 128)}
#: 3x3, padding 1: H, channels, groups, stride.
GROUPED = {
    "D1": (112, 32, 2, 1),
    "D2": (112, 64, 4, 2),
    "D3": (56, 128, 8, 1),
    "D4": (56, 128, 8, 2),
    "D5": (28, 256, 16, 1),
    "D6": (28, 256, 16, 2),
    "D7": (14, 512, 32, 1),
    "D8": (14, 512, 32, 2),
    "D9": (7, 1024, 64, 1),
}
#: Rows as positions of a map, channels in, channels out.
PRODUCTS = {
    "gemm": ((8, 16), 128, 128),
    "dense": ((4, 4), 512, 1008),
    "lstm-1": ((1, 1), 256, 128),
    "lstm-4": ((2, 2), 256, 128),
}


def convolution(name: str) -> CompiledRegion:
    size, inputs, outputs, kernel, pad, stride = CONVOLUTIONS[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(size, size, inputs)
    y = c.conv2d(x, outputs, (kernel,) * 2, (stride,) * 2, (pad,) * 4, terms=1, zeros=0.0)  # type: ignore[arg-type]
    return c.verify(SHIFT, c.requantize(y))


def quick(names: Any, *chosen: str) -> list[Any]:
    """The names, all but ``chosen`` marked as slow."""
    slow = pytest.mark.slow
    return [name if name in chosen else pytest.param(name, marks=slow) for name in names]


@pytest.mark.parametrize("name", quick(CONVOLUTIONS, "C10"))
def test_convolutions(name: str) -> None:
    size, inputs, outputs, kernel, pad, stride = CONVOLUTIONS[name]
    region = convolution(name)
    report = simulate(region.program)
    height = (size + 2 * pad - kernel) // stride + 1
    lanes = 16 * -(-inputs * kernel**2 // 16) if inputs < 8 else inputs * kernel**2
    products = height**2 * lanes * outputs // 256
    assert report.gemm_micro_ops() == products
    assert products / report.cycles > (0.95 if kernel == 3 else 0.74)
    assert report.labels()[0].compute_bound > 0.9 * report.cycles


@pytest.mark.slow
def test_the_first_convolution_and_the_others_together() -> None:
    """With bias, requantisation and clip: below 0.6 million cycles, and above 92 % busy."""
    cycles = {name: simulate(convolution(name).program) for name in CONVOLUTIONS}
    assert cycles.pop("C1").cycles < 600_000
    products = sum(report.gemm_micro_ops() for report in cycles.values())
    busy = products / sum(report.cycles for report in cycles.values())
    for name, report in cycles.items():
        own = report.labels()[0].compute_bound / report.cycles
        print(
            f"{name}: {report.cycles:,} cycles, {report.utilisation:.1%} busy, {own:.1%} of bound"
        )
    print(f"C2 to C11: {busy:.1%} busy")
    assert busy > 0.96


@pytest.mark.parametrize("name", quick(TRANSPOSED))
def test_transposed_convolutions(name: str) -> None:
    size, inputs, outputs = TRANSPOSED[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(size, size, inputs)
    c.verify(SHIFT, c.requantize(c.conv2d_transpose(x, outputs, 4, 2, 1)))


@pytest.mark.parametrize("name", quick(GROUPED, "D8"))
def test_grouped_convolutions(name: str) -> None:
    size, channels, groups, stride = GROUPED[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(size, size, channels)
    y = c.conv2d(x, channels, (3, 3), (stride, stride), groups=groups, terms=1)
    c.verify(SHIFT, c.requantize(y))


@pytest.mark.parametrize("name", quick(PRODUCTS, "gemm", "lstm-1", "lstm-4"))
def test_matrix_products(name: str) -> None:
    rows, inputs, outputs = PRODUCTS[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(*rows, inputs)
    c.verify(SHIFT, c.requantize(c.conv2d(x, outputs, (1, 1), padding=(0, 0, 0, 0), terms=1)))
