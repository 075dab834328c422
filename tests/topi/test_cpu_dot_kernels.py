"""Layers fused into kernels on stored maps equal the NumPy reference, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_shiftadd.dialect import ops
from tvm_shiftadd.errors import InputError, VerificationError
from tvm_shiftadd.formats import codes
from tvm_shiftadd.target import cpu, parse
from tvm_shiftadd.target.lowering import RefuseMultiplications
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import ConvParameters
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices
from tvm_shiftadd.topi.schedules.cpu.dot.x86 import AVX512_VBMI
from tvm_shiftadd.topi.schedules.fusion.function import COMPUTED_BY, kernel

pytestmark = pytest.mark.skipif(
    cpu.instruction_set(parse("cpu")) is None, reason="needs a processor with fused kernels"
)

#: The best instructions of this processor, and those of every one of its family.
TARGETS = ["cpu", "cpu:generic"]
SHIFTS = {"kind": "llvm", "kernels": "shift"}


@pytest.mark.parametrize(
    ("padding", "strides"), [((1, 1, 1, 1), (1, 1)), ((1, 1, 0, 0), (2, 2)), ((0, 0, 1, 2), (1, 1))]
)
def test_a_padded_pixel_is_no_dense_layer(
    network: Any, padding: tuple[int, ...], strides: tuple[int, int]
) -> None:
    net = network(1)
    x = net.input((2, 1, 1, 20), "int8")
    packed, bias = net.weights(20, 24, 2)
    attrs = {"kernel_size": (1, 1), "strides": strides, "padding": padding}
    attrs |= {"dilation": (1, 1), "groups": 1}
    shift = net.shift(4, 8, 24)

    def make(emit: Callable[[Any], Any]) -> Any:
        y = emit(ops.conv2d(x, packed, bias, **attrs))
        return emit(ops.requantize(y, shift, lo=-128, hi=127))

    net.check(make)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_chain_of_any_shape(network: Any, data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    def choose(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    net = network(draw(0, 2**32 - 1))
    kernel_size = (draw(1, 4), draw(1, 4))
    dilation = (draw(1, 2), draw(1, 2))
    hw = [draw((kernel_size[i] - 1) * dilation[i] + 1, 20) for i in range(2)]
    depthwise = choose(False, False, True)
    groups = draw(2, 80) if depthwise else draw(1, 3)
    channels = groups if depthwise else groups * draw(1, 40)
    outputs = groups if depthwise else groups * draw(1, 40)
    terms, batch = draw(1, 3), draw(1, 3)
    out_type = choose("int8", "uint8")
    limits = np.iinfo(out_type)
    lo, hi = sorted(draw(int(limits.min), int(limits.max)) for _ in range(2))
    other, scaled, rounded = choose(None, "int8", "uint8", "int32"), choose(False, True), draw(0, 3)
    attrs = {
        "kernel_size": kernel_size,
        "strides": (draw(1, 3), draw(1, 3)),
        "padding": tuple(draw(0, 2) for _ in range(4)),
        "dilation": dilation,
        "groups": groups,
    }
    x = net.input((batch, *hw, channels), choose("int8", "uint8"))
    reduction = kernel_size[0] * kernel_size[1] * channels // groups
    packed, bias = net.weights(reduction, outputs, terms)
    # Left shifts too: what does not fit is cut off by the bounds.
    shift = net.shift(-2, 12, outputs if choose(True, False) else 1)
    factor = net.parameter(codes.encode(net.rng.choice([1, 3, -5, 7], outputs), 3))
    sides = [net.shift(0, 3, outputs) for _ in range(2)]
    shape = relax.BlockBuilder().normalize(ops.conv2d(x, packed, bias, **attrs)).ty.shape
    residual = net.input((batch, *map(int, list(shape)[1:])), other) if other else None
    swapped = choose(True, False)

    def make(emit: Callable[[Any], Any]) -> Any:
        y = emit(ops.conv2d(x, packed, bias, **attrs))
        if scaled:
            y = emit(ops.scale(y, factor))
        if residual is not None:
            pair = (residual, y) if swapped else (y, residual)
            y = emit(ops.add(*pair, *sides))
        if rounded:
            y = emit(ops.requantize(y, shift, lo=lo, hi=hi, dtype=out_type))
        return y

    net.check(make, choose(*TARGETS))


@pytest.mark.parametrize("terms", [1, 2])
def test_panel_that_is_larger_than_the_first_cache(network: Any, terms: int) -> None:
    net = network(terms)
    x = net.input((2, 7, 7, 384), "uint8")
    packed, bias = net.weights(9 * 384, 48, terms)
    shift = net.shift(8, 12, 48)

    def make(emit: Callable[[Any], Any]) -> Any:
        y = emit(ops.conv2d(x, packed, bias, kernel_size=(3, 3), padding=(1, 1, 1, 1)))
        return emit(ops.requantize(y, shift, lo=0, hi=127))

    net.check(make)


@pytest.mark.parametrize(
    ("batch", "dtype", "target"),
    [(1, "int8", "cpu"), (6, "uint8", "cpu"), (1, "uint8", "cpu:generic"), (6, "int8", "cpu")],
)
def test_network_on_stored_maps(network: Any, batch: int, dtype: str, target: str) -> None:
    """Input, stem, pooling, two layers that meet in a sum, a signed map, a classifier."""
    net = network(batch)
    image = net.input((batch, 3, 21, 19), "float32")
    stem = net.weights(147, 24, 2)
    wide = net.weights(9 * 24, 40, 1), net.weights(24, 40, 3)
    signed, last = net.weights(9, 40, 2), net.weights(40, 10, 1)
    shifts = [net.shift(6, 11, n) for n in (24, 40, 40)]
    sides = [net.shift(0, 2, 40) for _ in range(2)]
    window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
    low, high = (-128, 127) if dtype == "int8" else (0, 255)

    def make(emit: Callable[[Any], Any]) -> Any:
        x = emit(relax.op.permute_dims(emit(ops.quantize(image, 5)), (0, 2, 3, 1)))
        x = emit(ops.conv2d(x, *stem, kernel_size=(7, 7), strides=(2, 2), padding=(3, 3, 3, 3)))
        x = emit(ops.requantize(x, shifts[0], lo=0, hi=high, dtype=dtype))
        x = emit(ops.max_pool2d(x, pool_size=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1)))
        a = emit(ops.conv2d(x, *wide[0], strides=(2, 2), **window))
        b = emit(ops.conv2d(x, *wide[1], kernel_size=(1, 1), strides=(2, 2)))
        y = emit(
            ops.requantize(emit(ops.add(a, b, *sides)), shifts[1], lo=low, hi=high, dtype=dtype)
        )
        z = emit(ops.conv2d(y, *signed, groups=40, **window))
        z = emit(ops.requantize(z, shifts[2], lo=-7, hi=100))
        z = emit(ops.conv2d(z, *last, kernel_size=(1, 1)))
        return emit(ops.dequantize(z, relax.const(np.full(1, 9, np.int32))))

    net.check(make, target)


@pytest.mark.parametrize("lo", [0, -128])
@pytest.mark.parametrize("channels", [16, 20])
def test_shortcut_without_weights(network: Any, channels: int, lo: int) -> None:
    """Every second pixel, between channels of zeros: added as a view of the stored map."""
    net = network(channels)
    x = net.input((2, 9, 8, 8), "int8")
    first, second = net.weights(72, channels, 2), net.weights(9 * channels, 2 * channels, 2)
    shifts = net.shift(6, 9, channels), net.shift(9, 12, 2 * channels)
    sides = net.shift(0, 1, 2 * channels), net.shift(3, 6, 2 * channels)
    window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
    before = channels // 2

    def make(emit: Callable[[Any], Any]) -> Any:
        y = emit(ops.conv2d(x, *first, **window))
        y = emit(ops.requantize(y, shifts[0], lo=lo, hi=127))
        z = emit(ops.conv2d(y, *second, strides=(2, 2), **window))
        short = emit(relax.op.strided_slice(y, [1], [0], [9], [2]))
        short = emit(relax.op.strided_slice(short, [2], [0], [8], [2]))
        short = emit(ops.pad(short, pad_width=[0] * 6 + [before, channels - before]))
        return emit(ops.requantize(emit(ops.add(z, short, *sides)), shifts[1]))

    net.check(make)


@pytest.mark.parametrize("lo", [0, -128])
@pytest.mark.parametrize("outputs", [16, 33])
def test_adder_layers_behind_each_other(network: Any, outputs: int, lo: int) -> None:
    """The second one reads a map that is stored, with negative values or without."""
    net = network(outputs)
    x = net.input((2, 9, 8, 13), "int8")
    weights = [
        net.parameter(net.rng.integers(-128, 128, (rows, outputs)).astype(np.int8))
        for rows in (9 * 13, 9 * outputs)
    ]
    biases = [net.parameter(np.full(outputs, 1500 * i, np.int32)) for i in (6, 9)]
    factor = net.parameter(codes.encode(net.rng.choice([1, 3, -5, 7], outputs), 3))
    shift = net.shift(5, 7, outputs)
    window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}

    def make(emit: Callable[[Any], Any]) -> Any:
        y = emit(ops.adder_conv2d(x, weights[0], biases[0], **window))
        y = emit(ops.requantize(emit(ops.scale(y, factor)), shift, lo=lo, hi=127))
        z = emit(ops.adder_conv2d(y, weights[1], biases[1], strides=(2, 2), **window))
        return emit(ops.requantize(z, shift))

    net.check(make)


@pytest.mark.parametrize(("inputs", "outputs", "terms"), [(7, 10, 2), (200, 70, 1), (64, 130, 3)])
@pytest.mark.parametrize("batch", [1, 3, 4, 9])
def test_dense(network: Any, batch: int, inputs: int, outputs: int, terms: int) -> None:
    net = network(outputs)
    x = net.input((batch, inputs), "int8")
    packed, bias = net.weights(inputs, outputs, terms)
    net.check(lambda emit: emit(ops.dense(x, packed, bias)))


@pytest.mark.parametrize(("batch", "images"), [(1, 1), (3, 3), (9, 4), (None, 4)])
def test_a_dense_layer_of_a_known_batch(network: Any, batch: int | None, images: int) -> None:
    net, choices = network(5), Choices()
    net.batch = batch or net.batch
    x = net.input((batch or 5, 50), "int8")
    packed, bias = net.weights(50, 40, 2)
    net.check(lambda emit: emit(ops.dense(x, packed, bias)), choices=choices)
    ((_, work, parameters, _),) = choices.made
    assert (work.kind, work.images) == ("dense", images)
    # Of two terms, fewer rows where sums of fewer fill the registers.
    isa = cpu.best_set(cpu.tvm_target(parse("cpu")))  # type: ignore[arg-type]
    assert isa is not None and isinstance(parameters, ConvParameters)
    assert parameters.rows == min(images, isa.registers // (2 * parameters.vectors))


def small_layer(network: Any, terms: int, target: Any) -> str:
    """The assembly of one layer with its requantisation."""
    net = network(terms)
    x = net.input((1, 8, 8, 16), "uint8")
    packed, bias = net.weights(144, 32, terms)
    shift = net.shift(8, 12, 32)
    builder = relax.BlockBuilder()
    with builder.function("main", net.variables):
        with builder.dataflow():
            window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
            y = builder.emit(ops.conv2d(x, packed, bias, **window))
            y = builder.emit_output(ops.requantize(y, shift, lo=0, hi=127))
        builder.emit_func_output(y)
    return cpu.assembly(cpu.build(builder.get(), parse(target), data_inputs=1))


def test_shifts_are_there_on_request(network: Any) -> None:
    text = small_layer(network, 2, SHIFTS)
    assert not re.search(r"^\s+vpdp", text, re.M)
    assert parse(SHIFTS).as_dict()["kernels"] == "shift"
    with pytest.raises(InputError, match="kernels"):
        parse({"kind": "llvm", "kernels": "fast"})


@pytest.mark.parametrize("stated", ["vpdpbusd", None])
def test_only_kernels_that_say_so_may_use_the_dot_product(stated: str | None) -> None:
    from tvm.script import tirx as T

    tensors = {"x": ((64,), "uint8"), "w": ((64,), "int8"), "out": ((16,), "int32")}
    with kernel("shiftadd_layer", tensors, stated) as made:
        zero = T.broadcast(T.int32(0), 16)
        x, w = (made[name].vload([0], dtype=f"{made[name].dtype}x64") for name in ("x", "w"))
        T.buffer_store(made["out"], AVX512_VBMI.dot(zero, x, w), [T.ramp(0, 1, 16)])
    module = tvm.IRModule({"shiftadd_layer": made.function})
    assert (COMPUTED_BY in made.function.attrs) == (stated is not None)
    if stated is not None:
        RefuseMultiplications()(module)
        return
    with pytest.raises(VerificationError, match="vpdpbusd"):
        RefuseMultiplications()(module)
