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
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.errors import InputError, VerificationError
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import cpu, parse, runtime
from tvm_shiftadd.target.lowering import RefuseMultiplications
from tvm_shiftadd.topi.schedules.cpu.dot.function import COMPUTED_BY, kernel
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import ConvParameters
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices
from tvm_shiftadd.topi.schedules.cpu.dot.x86 import AVX512_VBMI

pytestmark = pytest.mark.skipif(
    cpu.instruction_set(parse("cpu")) is None, reason="needs a processor with fused kernels"
)

#: The best instructions of this processor, and those of every one of its family.
TARGETS = ["cpu", "cpu:generic"]
SHIFTS = {"kind": "llvm", "kernels": "shift"}


class Network:
    """A module under construction: data inputs first, then parameters with their values."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.batch: Any = tvm.tirx.Var("n", "int64")
        self.data: dict[str, np.ndarray] = {}
        self.parameters: dict[str, np.ndarray] = {}
        self.variables: list[Any] = []

    def input(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A data input of any batch with random values over the whole range of the type."""
        name = f"x{len(self.data)}"
        if dtype == "float32":
            values = self.rng.normal(size=shape).astype(np.float32)
        else:
            low, high = (-2000, 2000) if dtype == "int32" else _range(dtype)
            values = self.rng.integers(low, high + 1, shape).astype(dtype)
        self.data[name] = values
        var = relax.Var(name, relax.TensorType((self.batch, *shape[1:]), dtype))
        self.variables.insert(len(self.data) - 1, var)
        return var

    def parameter(self, values: np.ndarray) -> Any:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = values
        var = relax.Var(name, relax.TensorType(values.shape, str(values.dtype)))
        self.variables.append(var)
        return var

    def weights(self, reduction: int, outputs: int, terms: int) -> tuple[Any, Any]:
        """Packed codes and bias."""
        values = self.rng.choice(codes.representable(terms), (reduction, outputs))
        bias = self.rng.integers(-5000, 5000, outputs).astype(np.int32)
        packed = packing.pack(codes.encode(values, terms))
        return self.parameter(packed), self.parameter(bias)

    def shift(self, low: int, high: int, channels: int) -> Any:
        values = self.rng.integers(low, high + 1, channels).astype(np.int32)
        return self.parameter(values)

    def check(
        self,
        make: Callable[[Callable[[Any], Any]], Any],
        target: Any = "cpu",
        choices: Choices | None = None,
    ) -> Any:
        """Build what ``make(emit)`` returns, run it, and compare with the reference."""
        builder = relax.BlockBuilder()
        with builder.function("main", self.variables):
            with builder.dataflow():
                output = builder.emit_output(make(builder.emit))
            builder.emit_func_output(output)
        module = builder.get()
        executable = cpu.build(module, parse(target), data_inputs=len(self.data), choices=choices)
        machine = relax.VirtualMachine(executable, tvm.cpu())
        tensors = [tvm.runtime.tensor(values) for values in self.parameters.values()]
        prepared = runtime.prepare_parameters(machine, tensors)
        data = [tvm.runtime.tensor(values) for values in self.data.values()]
        got = machine["main"](*data, *prepared).numpy()
        (expected,) = run_reference(module, {**self.data, **self.parameters}).values()
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        return executable


def _range(dtype: str) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


@pytest.mark.parametrize(
    ("padding", "strides"), [((1, 1, 1, 1), (1, 1)), ((1, 1, 0, 0), (2, 2)), ((0, 0, 1, 2), (1, 1))]
)
def test_a_padded_pixel_is_no_dense_layer(
    padding: tuple[int, ...], strides: tuple[int, int]
) -> None:
    net = Network(1)
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
def test_chain_of_any_shape(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    def choose(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    net = Network(draw(0, 2**32 - 1))
    kernel_size = (draw(1, 4), draw(1, 4))
    dilation = (draw(1, 2), draw(1, 2))
    hw = [draw((kernel_size[i] - 1) * dilation[i] + 1, 20) for i in range(2)]
    depthwise = choose(False, False, True)
    groups = draw(2, 80) if depthwise else draw(1, 3)
    channels = groups if depthwise else groups * draw(1, 40)
    outputs = groups if depthwise else groups * draw(1, 40)
    terms, batch = draw(1, 3), draw(1, 3)
    out_type = choose("int8", "uint8")
    lo, hi = sorted(draw(*_range(out_type)) for _ in range(2))
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
def test_panel_that_is_larger_than_the_first_cache(terms: int) -> None:
    net = Network(terms)
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
def test_network_on_stored_maps(batch: int, dtype: str, target: str) -> None:
    """Input, stem, pooling, two layers that meet in a sum, a signed map, a classifier."""
    net = Network(batch)
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
def test_shortcut_without_weights(channels: int, lo: int) -> None:
    """Every second pixel, between channels of zeros: added as a view of the stored map."""
    net = Network(channels)
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
def test_adder_layers_behind_each_other(outputs: int, lo: int) -> None:
    """The second one reads a map that is stored, with negative values or without."""
    net = Network(outputs)
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
def test_dense(batch: int, inputs: int, outputs: int, terms: int) -> None:
    net = Network(outputs)
    x = net.input((batch, inputs), "int8")
    packed, bias = net.weights(inputs, outputs, terms)
    net.check(lambda emit: emit(ops.dense(x, packed, bias)))


@pytest.mark.parametrize(("batch", "images"), [(1, 1), (3, 3), (9, 4), (None, 4)])
def test_a_dense_layer_of_a_known_batch(batch: int | None, images: int) -> None:
    net, choices = Network(5), Choices()
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


def small_layer(terms: int, target: Any) -> str:
    """The assembly of one layer with its requantisation."""
    net = Network(terms)
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


def test_shifts_are_there_on_request() -> None:
    text = small_layer(2, SHIFTS)
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
