"""Instructions against the golden vectors and the reference of the integer specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tvm_shiftadd.formats import adder, codes, packing, reference
from tvm_shiftadd.formats.reciprocal import reciprocal
from vta_ext import presets
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.isa.machine import pack_codes
from vta_ext.sim.functional import FunctionalSimulator

MIXED = presets.SHIFT_ADDER
BLOCK = MIXED.block
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden(name: str) -> list[Any]:
    cases = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


def array(value: dict[str, Any]) -> NDArray[Any]:
    return np.array(value["data"], value["dtype"]).reshape(value["shape"])


def lanes(values: NDArray[Any], channels: int) -> NDArray[np.int32]:
    """``[..., C]`` (or [1]) as vectors ``[blocks, rows, BLOCK]``, channels padded by zeros."""
    wide = np.broadcast_to(values, (*values.shape[:-1], channels)).reshape(-1, channels)
    blocks = -(-channels // BLOCK)
    padded = np.zeros((len(wide), blocks * BLOCK), np.int32)
    padded[:, :channels] = wide
    return padded.reshape(len(wide), blocks, BLOCK).transpose(1, 0, 2)


def unlanes(vectors: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    flat = vectors.transpose(1, 0, 2).reshape(vectors.shape[1], -1)
    return flat[:, : shape[-1]].reshape(shape)


class Bench:
    """A machine whose buffers are filled by hand, one block of channels at a time."""

    def __init__(self) -> None:
        self.simulator = FunctionalSimulator(MIXED, 1 << 20)
        self.machine = self.simulator.machine

    def kernel(self, *row: int) -> tuple[int, int]:
        self.machine.uop[:1] = codec(MIXED).encode_micro_ops(isa.micro_ops([row]))
        return 0, 1

    def alu(
        self, name: str, rows: int, kernel: tuple[int, ...], src_step: int, **more: int
    ) -> None:
        uops = self.kernel(*kernel)
        self.simulator.step(
            isa.alu(name, uops=uops, loops=(1, rows), dst=(0, 1), src=(0, src_step), **more)
        )

    def acc(self, start: int, values: NDArray[Any]) -> None:
        self.machine.acc[start : start + len(values), 0] = values


@pytest.mark.parametrize("case", golden("requantize"))
def test_requantize(case: dict[str, Any]) -> None:
    acc, shift = array(case["inputs"]["acc"]), array(case["inputs"]["shift"])
    expected = array(case["outputs"]["y"])
    channels = acc.shape[-1]
    left = acc.astype(np.int64) << np.maximum(-shift, 0)
    if np.abs(left).max() > 2**31 - 1:
        pytest.skip("leaves int32, which is proved not to happen")
    name = "requ" if expected.dtype == np.uint8 else "req"
    out = []
    for block, by in zip(lanes(acc, channels), lanes(shift, channels), strict=True):
        bench, rows = Bench(), len(block)
        # Half of the value as the bias, so that the sum counts.
        bias = np.full(BLOCK, 77, np.int32)
        bench.acc(0, block - bias)
        bench.acc(rows, np.stack([bias, by[0]]))
        limits = {key: case["attributes"][key] for key in ("lo", "hi")}
        bench.alu(name, rows, (0, rows, 0), 0, **limits)
        out.append(bench.machine.out[:rows, 0].view(expected.dtype))
    assert np.array_equal(unlanes(np.stack(out), expected.shape), expected)


@pytest.mark.parametrize("case", golden("scale"))
def test_scale_by_lane_wise_shift_accumulate(case: dict[str, Any]) -> None:
    x, factors = array(case["inputs"]["x"]), array(case["inputs"]["codes"])
    expected = array(case["outputs"]["y"])
    out = []
    for number, block in enumerate(lanes(x, x.shape[-1])):
        bench, rows = Bench(), len(block)
        bench.acc(0, block)
        table = lanes(factors, x.shape[-1])[number].astype(np.uint8)
        padded = np.zeros((BLOCK, BLOCK), np.uint8)
        padded[: len(table)] = table
        bench.machine.wgt[3, : MIXED.code_bytes] = pack_codes(padded.reshape(-1))
        for k in range(len(factors)):
            bench.alu("lsa", rows, (rows, 0, 0), 1, row=3 * BLOCK + k, replace=int(k == 0))
        out.append(bench.machine.acc[rows : 2 * rows, 0])
    assert np.array_equal(unlanes(np.stack(out), expected.shape), expected)


@pytest.mark.parametrize("case", golden("add"))
def test_add_with_a_shift_a_channel(case: dict[str, Any]) -> None:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    expected = array(case["outputs"]["y"])
    channels = expected.shape[-1]
    out = []
    parts = (lanes(inputs[name], channels) for name in ("lhs", "rhs", "lhs_shift", "rhs_shift"))
    for lhs, rhs, left, right in zip(*parts, strict=True):
        bench, rows = Bench(), len(lhs)
        bench.acc(0, lhs)
        bench.acc(rows, rhs)
        bench.acc(2 * rows, np.stack([-left[0], -right[0]]))
        bench.alu("shr", rows, (0, 2 * rows, 0), 0)
        bench.alu("shr", rows, (rows, 2 * rows + 1, 0), 0)
        bench.alu("add", rows, (0, rows, 0), 1)
        out.append(bench.machine.acc[:rows, 0].copy())
    assert np.array_equal(unlanes(np.stack(out), expected.shape), expected)


def matrix(x: NDArray[Any], weights: list[NDArray[Any]], mode: str) -> NDArray[np.int32]:
    """Sum over the planes of ``weights`` ``[I, O]`` by GEMM, a pass each, without bias."""
    bench = Bench()
    rows, inputs, outputs = len(x), -(-x.shape[1] // BLOCK), -(-weights[0].shape[1] // BLOCK)
    padded = np.zeros((rows, inputs * BLOCK), np.int16)
    padded[:, : x.shape[1]] = x
    bench.machine.inp[: rows * inputs, 0] = padded.reshape(-1, BLOCK)
    first = True
    for plane in weights:
        full = np.zeros((inputs * BLOCK, outputs * BLOCK), plane.dtype)
        full[: plane.shape[0], : plane.shape[1]] = plane
        tiles = full.reshape(inputs, BLOCK, outputs, BLOCK).transpose(0, 2, 3, 1)
        data = pack_codes(tiles) if mode == "shift" else tiles.view(np.uint8)
        memory = "code" if mode == "shift" else "wgt"
        bench.simulator.write(0, np.ascontiguousarray(data))
        count = inputs * outputs
        bench.simulator.step(isa.load(memory, sram_base=0, dram_base=0, x_size=count))
        for i in range(inputs):
            bench.simulator.step(
                isa.gemm(
                    mode,
                    uops=bench.kernel(0, i, i * outputs),
                    loops=(outputs, rows),
                    dst=(rows, 1),
                    src=(0, inputs),
                    wgt=(1, 0),
                    accumulate="replace" if first else "add",
                )
            )
            first = False
    found = bench.machine.acc[: outputs * rows, 0].reshape(outputs, rows, BLOCK)
    return unlanes(found, (rows, weights[0].shape[1]))


@pytest.mark.parametrize("case", golden("dense"))
def test_dense_by_a_pass_a_term(case: dict[str, Any]) -> None:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    x, expected = inputs["x"].reshape(-1, inputs["x"].shape[-1]), array(case["outputs"]["y"])
    planes = inputs["codes"]
    if planes.shape[1] != x.shape[1]:
        planes = packing.unpack(planes, x.shape[1])
    found = matrix(x, list(planes), "shift") + inputs.get("bias", np.int32(0))
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("case", golden("adder_dense"))
def test_adder_dense(case: dict[str, Any]) -> None:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    expected = array(case["outputs"]["y"])
    x = inputs["x"].reshape(-1, inputs["x"].shape[-1])
    found = matrix(x, [inputs["weight"]], "adder") + inputs.get("bias", np.int32(0))
    assert np.array_equal(found.reshape(expected.shape), expected)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_random_layers_equal_the_reference(seed: int, unsigned: bool) -> None:
    rng = np.random.default_rng(seed)
    low, high = (0, 256) if unsigned else (-128, 128)
    rows, inputs, outputs = rng.integers(1, 40, 3)
    x = rng.integers(low, high, (rows, inputs)).astype(np.uint8 if unsigned else np.int8)
    weight = rng.choice(codes.representable(2), (inputs, outputs)).astype(np.int32)
    planes = list(codes.encode(weight, 2))
    assert np.array_equal(matrix(x, planes, "shift"), reference.dense(x, weight))
    if not unsigned:
        narrow = rng.integers(-128, 128, (inputs, outputs)).astype(np.int8)
        assert np.array_equal(matrix(x, [narrow], "adder"), adder.adder_dense(x, narrow))


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9, 25, 49, 64])
def test_averages_by_shift_and_add(count: int) -> None:
    """A window of the input buffer, summed, times its reciprocal of signed shifts."""
    rng = np.random.default_rng(count)
    x = rng.integers(-128, 128, (count, BLOCK)).astype(np.int16)
    found = reciprocal([count])
    bench = Bench()
    bench.machine.inp[:count, 0] = x
    uops = bench.kernel(0, 0, 0)
    bench.simulator.step(isa.alu("sha", uops=uops, loops=(1, 1), from_inp=True, shift=0, replace=1))
    bench.simulator.step(
        isa.alu("add", uops=bench.kernel(0, 1, 0), loops=(1, count - 1), src=(0, 1), from_inp=True)
    )
    for number, (sign, left) in enumerate(found.terms[count]):
        bench.alu(
            "sha", 1, (1, 0, 0), 0, shift=left, subtract=int(sign < 0), replace=int(number == 0)
        )
    total = x.astype(np.int64).sum(axis=0)
    expected = sum(sign * (total << left) for sign, left in found.terms[count])
    assert np.array_equal(bench.machine.acc[1, 0], expected)


def test_speed_of_a_network_the_size_of_resnet20() -> None:
    """41 million sums of one image stay far below half a second of CPU time."""
    import time

    simulator = FunctionalSimulator(presets.SHIFT, 1 << 20)
    rows, columns, blocks = 4, 32, 4
    kernel = [
        [o * rows * columns, ky * 34 + kx, o * 9 + ky * 3 + kx]
        for ky in range(3)
        for kx in range(3)
        for o in range(blocks)
    ]
    words = codec(presets.SHIFT).encode_micro_ops(isa.micro_ops(kernel))
    simulator.machine.uop[: len(words)] = words
    tile = [
        isa.load("inp", sram_base=0, dram_base=0, y_size=rows + 2, x_size=34),
        isa.load("code", sram_base=0, dram_base=0, x_size=9 * blocks),
        isa.gemm(
            "shift",
            uops=(0, len(words)),
            loops=(rows, columns),
            dst=(columns, 1),
            src=(34, 1),
            accumulate="add",
        ),
    ]
    tiles = -(-41_000_000 // (len(words) * rows * columns * 256))
    start = time.process_time()
    simulator.run([*tile * tiles, isa.finish()])
    assert time.process_time() - start < 0.5
