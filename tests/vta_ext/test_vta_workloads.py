"""The layers that VTA's own tests and papers run, in every mode: bits, and how busy the machine is.

Sizes are H (= W), channels in, channels out, and what the family has besides. Mode multiply runs on
VTA's base configuration, in VTA's own encoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.vta_ext.region_cases import RegionCase
from vta_ext.compiler.compile import CompiledRegion
from vta_ext.config import Config
from vta_ext.jit.recorder import Kernel, Recorder
from vta_ext.presets import BASE, SHIFT, SHIFT_ADDER
from vta_ext.sim.functional import FunctionalSimulator
from vta_ext.sim.timing import simulate

MACHINES = {"shift": SHIFT, "multiply": BASE, "adder": SHIFT_ADDER}
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
    assert report.labels()[0].of_compute_bound > 0.9


@pytest.mark.slow
def test_the_first_convolution_and_the_others_together() -> None:
    """With bias, requantisation and clip: below 0.6 million cycles, and above 92 % busy."""
    cycles = {name: simulate(convolution(name).program) for name in CONVOLUTIONS}
    assert cycles.pop("C1").cycles < 600_000
    products = sum(report.gemm_micro_ops() for report in cycles.values())
    busy = products / sum(report.cycles for report in cycles.values())
    for name, report in cycles.items():
        own = report.labels()[0].of_compute_bound
        print(
            f"{name}: {report.cycles:,} cycles, {report.utilisation:.1%} busy, {own:.1%} of bound"
        )
    print(f"C2 to C11: {busy:.1%} busy")
    assert busy > 0.96


def modes(names: Any, among: tuple[str, ...], *chosen: tuple[str, str]) -> list[Any]:
    """Pairs of mode and name, all but ``chosen`` marked as slow."""
    pairs = [(mode, name) for mode in among for name in names]
    slow = pytest.mark.slow
    return [pair if pair in chosen else pytest.param(*pair, marks=slow) for pair in pairs]


@pytest.mark.parametrize(
    ("mode", "name"),
    modes(CONVOLUTIONS, ("multiply", "adder"), ("multiply", "C10"), ("adder", "C10")),
)
def test_convolutions_in_other_modes(mode: str, name: str) -> None:
    size, inputs, outputs, kernel, pad, stride = CONVOLUTIONS[name]
    c = RegionCase(np.random.default_rng(0))
    x, where = c.input(size, size, inputs), ((stride,) * 2, (pad,) * 4)
    if mode == "adder":
        y = c.adder_conv2d(x, outputs, *where, (kernel,) * 2)  # type: ignore[arg-type]
    else:
        y = c.conv2d(x, outputs, (kernel,) * 2, *where)  # type: ignore[arg-type]
    region = c.verify(MACHINES[mode], c.requantize(y))
    assert {i.kind.mode.name for i in region.program.instructions if i.kind.mode} == {mode}


@pytest.mark.parametrize(("mode", "name"), modes(TRANSPOSED, ("shift", "multiply")))
def test_transposed_convolutions(mode: str, name: str) -> None:
    size, inputs, outputs = TRANSPOSED[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(size, size, inputs)
    c.verify(MACHINES[mode], c.requantize(c.conv2d_transpose(x, outputs, 4, 2, 1)))


@pytest.mark.parametrize(
    ("mode", "name"), modes(GROUPED, ("shift", "multiply"), ("shift", "D8"), ("multiply", "D8"))
)
def test_grouped_convolutions(mode: str, name: str) -> None:
    size, channels, groups, stride = GROUPED[name]
    c = RegionCase(np.random.default_rng(0))
    x = c.input(size, size, channels)
    y = c.conv2d(x, channels, (3, 3), (stride, stride), groups=groups, terms=1)
    c.verify(MACHINES[mode], c.requantize(y))


@pytest.mark.parametrize("mode", ["shift", "multiply"])
@pytest.mark.parametrize("stride", [1, 2])
def test_true_depthwise_convolutions(mode: str, stride: int) -> None:
    """A group for each channel, which VTA's own tests do not have."""
    c = RegionCase(np.random.default_rng(0))
    x = c.input(14, 14, 64)
    y = c.conv2d(x, 64, strides=(stride, stride), groups=64)
    c.verify(MACHINES[mode], c.requantize(y))


@pytest.mark.parametrize(
    ("mode", "name"),
    modes(
        PRODUCTS,
        tuple(MACHINES),
        *((mode, name) for mode in MACHINES for name in ("gemm", "lstm-1", "lstm-4")),
    ),
)
def test_matrix_products(mode: str, name: str) -> None:
    rows, inputs, outputs = PRODUCTS[name]
    c = RegionCase(np.random.default_rng(0))
    x, none = c.input(*rows, inputs), (0, 0, 0, 0)
    if mode == "adder":
        y = c.adder_conv2d(x, outputs, (1, 1), none, (1, 1))
    else:
        y = c.conv2d(x, outputs, (1, 1), padding=none, terms=1)
    c.verify(MACHINES[mode], c.requantize(y))


def stored(config: Config, load: dict[str, Any], entries: int, data: Any) -> Any:
    """What a LOAD of accumulators leaves, sent back through the ALU: ``[entries, block]``."""
    r = Recorder(config)
    x, y = r.input("x", data.nbytes), r.output("y", entries * 16)
    r.load("acc", x, sram=3, **load)
    nothing = Kernel()
    with nothing.loop(entries, dst=1):
        nothing.push(3)
    r.alu("add", nothing, imm=0)
    r.store(y, sram=3, x_size=entries)
    program = r.build()
    simulator = FunctionalSimulator(config, program.dram_bytes)
    simulator.place(program)
    simulator.write(x.offset, data)
    simulator.run(program.instructions)
    return np.frombuffer(simulator.read(y.offset, y.size), np.int8).reshape(-1, 16)


@pytest.mark.parametrize("config", [BASE, SHIFT], ids=["VTA", "shift"])
@pytest.mark.parametrize(
    ("y_pad", "x_pad"),
    [
        ((0, 0), (0, 0)),
        ((3, 0), (0, 0)),
        ((0, 4), (0, 0)),
        ((0, 0), (5, 0)),
        ((0, 0), (0, 15)),
        ((1, 2), (3, 4)),
    ],
)
def test_padded_loads(y_pad: Any, x_pad: Any, config: Config) -> None:
    """Round trips through memory: padding on no side, on each side alone, and all round."""
    data = np.random.default_rng(0).integers(-128, 128, (6, 9, 16)).astype(np.int32)
    load = {"x_size": 5, "y_size": 6, "x_stride": 9, "y_pad": y_pad, "x_pad": x_pad, "first": 2}
    wanted = np.pad(data[:, 2:7], (y_pad, x_pad, (0, 0))).reshape(-1, 16)
    np.testing.assert_array_equal(stored(config, load, len(wanted), data), wanted)
