"""Pools, moves and transposed convolutions between stored maps equal the reference to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.topi.schedules.cpu.dot.sets import SETS

#: Sets of this processor.
HERE = [isa for isa in SETS if vector_names(isa.features) <= vector_names(vector_features() or ())]
pytestmark = pytest.mark.skipif(not HERE, reason="needs a processor with fused kernels")

WINDOW = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}


def target(isa: Any) -> dict[str, Any]:
    """A processor of this machine's family that has a set and nothing better."""
    mcpu = "generic" if "neon" in isa.features else "x86-64-v3"
    return {"kind": "llvm", "mcpu": mcpu, "mattr": [f"+{feature}" for feature in isa.features]}


def kernels(executable: Any) -> list[str]:
    """Names of the kernels that are called, in order."""
    names = (line.split() for line in executable.as_text().splitlines())
    found = [word for words in names for word in words if word.startswith("shiftadd_")]
    return [name for name in found if not name.startswith("shiftadd_prepare")]


class Drawn:
    """Shapes that Hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def number(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.number(low, high), self.number(low, high)

    def one(self, *values: Any) -> Any:
        return self._data.draw(st.sampled_from(values))


def stored_map(net: Any, size: tuple[int, int, int, int], dtype: str) -> Callable[[Any], Any]:
    """What emits a layer whose result, ``size`` of ``dtype``, is a stored map."""
    x = net.input((*size[:3], 5), "int8")
    packed, bias = net.weights(5, size[3], 1)
    shift = net.shift(3, 6, size[3])
    lo, hi = (-128, 127) if dtype == "int8" else (0, 255)

    def emit_layer(emit: Any) -> Any:
        y = emit(ops.conv2d(x, packed, bias, kernel_size=(1, 1)))
        return emit(ops.requantize(y, shift, lo=lo, hi=hi, dtype=dtype))

    return emit_layer


@settings(max_examples=4)
@given(st.data())
def test_transposed_convolutions_of_any_shape(network: Any, data: st.DataObject) -> None:
    draw = Drawn(data)
    net = network(draw.number(0, 2**32 - 1))
    kernel, strides, dilation = draw.pair(1, 5), draw.pair(1, 3), draw.pair(1, 2)
    extra = tuple(draw.number(0, max(strides[i], dilation[i]) - 1) for i in range(2))
    hw, padding = draw.pair(1, 9), tuple(draw.number(0, 3) for _ in range(4))
    for i in range(2):
        reached = (hw[i] - 1) * strides[i] + dilation[i] * (kernel[i] - 1) + 1 + extra[i]
        assume(reached - padding[i] - padding[i + 2] >= 1)
    channels, outputs, terms = draw.number(1, 40), draw.number(1, 40), draw.number(1, 3)
    dtype, rounded = draw.one("int8", "uint8"), draw.number(0, 3)
    other, behind = draw.one(None, None, "int8", "int32"), draw.one(False, True)
    make_map = stored_map(net, (draw.number(1, 2), *hw, channels), dtype)
    packed, bias = net.weights(kernel[0] * kernel[1] * channels, outputs, terms)
    shift, sides = net.shift(-1, 10, outputs), [net.shift(0, 2, outputs) for _ in range(2)]
    last = net.weights(9 * outputs, 7, 2)
    attrs: dict[str, Any] = {"kernel_size": kernel, "strides": strides, "padding": padding}
    attrs |= {"output_padding": extra, "dilation": dilation}
    x = relax.Var("x", relax.TensorType((1, *hw, channels), dtype))
    call = ops.conv2d_transpose(x, packed, bias, **attrs)
    shape = relax.BlockBuilder().normalize(call).ty.shape
    batch = next(iter(net.data.values())).shape[0]
    residual = net.input((batch, *map(int, list(shape)[1:])), other) if other else None

    def make(emit: Any) -> Any:
        y = emit(ops.conv2d_transpose(make_map(emit), packed, bias, **attrs))
        if residual is not None:
            y = emit(ops.add(y, residual, *sides))
        if rounded:
            y = emit(ops.requantize(y, shift, lo=-100, hi=127))
        if rounded and behind:
            y = emit(ops.conv2d(y, *last, **WINDOW))
        return y

    executable = net.check(make, target(draw.one(*HERE)))
    assert any("shiftadd_conv2d_transpose" in name for name in kernels(executable))


@settings(max_examples=4)
@given(st.data())
def test_pools_of_any_shape(network: Any, data: st.DataObject) -> None:
    draw = Drawn(data)
    net = network(draw.number(0, 2**32 - 1))
    pool, strides, dilation = draw.pair(1, 4), draw.pair(1, 3), draw.pair(1, 2)
    padding = tuple(draw.number(0, pool[i % 2] // 2) for i in range(4))
    hw = tuple(draw.number(dilation[i] * (pool[i] - 1) + 1, 12) for i in range(2))
    channels, dtype = draw.number(1, 100), draw.one("int8", "uint8")
    kind, rounded = draw.one("max", "average", "average"), draw.number(0, 3)
    attrs: dict[str, Any] = {"pool_size": pool, "strides": strides, "padding": padding}
    attrs |= {"dilation": dilation, "ceil_mode": draw.one(False, True)}
    include = draw.one(False, True)
    make_map = stored_map(net, (draw.number(1, 2), *hw, channels), dtype)
    shift = net.shift(8, 16, draw.one(1, channels))
    last = net.weights(9 * channels, 7, 2)

    def make(emit: Any) -> Any:
        x = make_map(emit)
        if kind == "max":
            y = emit(ops.max_pool2d(x, **attrs))
        else:
            y = emit(ops.avg_pool2d(x, **attrs, count_include_pad=include))
            if not rounded:
                return y
            y = emit(ops.requantize(y, shift, dtype=dtype, lo=0, hi=127))
        return emit(ops.conv2d(y, *last, **WINDOW))

    executable = net.check(make, target(draw.one(*HERE)))
    assert "shiftadd_plain" not in " ".join(kernels(executable))


@settings(max_examples=4)
@given(st.data())
def test_moves_of_any_shape(network: Any, data: st.DataObject) -> None:
    draw = Drawn(data)
    net = network(draw.number(0, 2**32 - 1))
    hw, batch, dtype = draw.pair(1, 6), draw.number(1, 2), draw.one("int8", "uint8")
    counts = [draw.number(1, 70) for _ in range(draw.number(1, 3))]
    maps = [stored_map(net, (batch, *hw, count), dtype) for count in counts]
    # Of int8, but never negative: it is stored with another zero.
    own = net.weights(5, 9, 1), net.shift(3, 6, 9)
    y0 = net.input((batch, *hw, 5), "uint8")
    scale, width = draw.pair(1, 3), [0, 0, *(draw.number(0, 2) for _ in range(6))]
    channels = sum(counts) + 9 + width[6] + width[7]
    last = net.weights(9 * channels, 20, 2)

    def make(emit: Any) -> Any:
        y = emit(ops.conv2d(y0, *own[0], kernel_size=(1, 1)))
        y = emit(ops.requantize(y, own[1], lo=0, hi=100, dtype=dtype))
        joined = emit(ops.concat([*(one(emit) for one in maps), y], axis=3))
        x = emit(ops.upsample2d(joined, scale=scale))
        x = emit(ops.pad(x, pad_width=width))
        return emit(ops.conv2d(x, *last, **WINDOW))

    executable = net.check(make, target(draw.one(*HERE)))
    assert "shiftadd_plain" not in " ".join(kernels(executable))


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize(("batch", "terms", "dtype"), [(1, 1, "uint8"), (5, 2, "int8")])
def test_a_flattened_map_is_read_where_it_lies(
    network: Any, batch: int, terms: int, dtype: str, channels_first: bool
) -> None:
    net = network(batch)
    make_map = stored_map(net, (batch, 3, 4, 21), dtype)
    packed, bias = net.weights(3 * 4 * 21, 30, terms)

    def make(emit: Any) -> Any:
        x = make_map(emit)
        if channels_first:
            x = emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
        rows = emit(relax.op.reshape(x, (net.batch, 3 * 4 * 21)))
        return emit(ops.dense(rows, packed, bias))

    executable = net.check(make)
    assert "shiftadd_plain" not in " ".join(kernels(executable))


@pytest.mark.parametrize("axis", [1, 2])
def test_maps_are_joined_above_and_beside_each_other(network: Any, axis: int) -> None:
    net = network(axis)
    sizes = [(2, 3, 4, 20), (2, 2, 4, 20) if axis == 1 else (2, 3, 5, 20)]
    maps = [stored_map(net, size, dtype) for size, dtype in zip(sizes, ["int8"] * 2, strict=True)]
    last = net.weights(9 * 20, 8, 1)

    def make(emit: Any) -> Any:
        x = emit(ops.concat([one(emit) for one in maps], axis=axis))
        return emit(ops.conv2d(x, *last, **WINDOW))

    net.check(make)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_floats_of_the_host_are_quantised_into_a_stored_map(network: Any, dtype: str) -> None:
    net = network(1)
    x = net.input((2, 5, 6, 37), "float32")
    first, last = net.weights(9 * 37, 20, 2), net.weights(20, 8, 1)
    shift = net.shift(8, 10, 20)

    def make(emit: Any) -> Any:
        y = emit(ops.quantize(x, 5, dtype=dtype))
        y = emit(ops.conv2d(y, *first, **WINDOW))
        y = emit(ops.requantize(y, shift, lo=-128, hi=127))
        return emit(ops.conv2d(y, *last, kernel_size=(1, 1)))

    executable = net.check(make)
    assert "shiftadd_store" not in " ".join(kernels(executable))


@settings(max_examples=4)
@given(st.data())
def test_what_follows_no_layer(network: Any, data: st.DataObject) -> None:
    """A map that is read twice is added up, requantised and clipped by kernels of their own."""
    draw = Drawn(data)
    net = network(draw.number(0, 2**32 - 1))
    dtype, batch, hw, channels = draw.one("int8", "uint8"), 2, draw.pair(1, 5), draw.number(1, 70)
    to, other = draw.one("int8", "uint8"), draw.one("stored", "int8", "int32")
    make_map, second = (stored_map(net, (batch, *hw, channels), dtype) for _ in range(2))
    sides, shift = [net.shift(0, 3, channels) for _ in range(2)], net.shift(-1, 4, channels)
    residual = None if other == "stored" else net.input((batch, *hw, channels), other)
    last, one = net.weights(9 * channels, 20, 2), net.shift(1, 1, 1)
    low, high = draw.one((0, 100), (3, 90), (0, 127))
    swapped = draw.one(False, True)

    def make(emit: Any) -> Any:
        x = make_map(emit)
        pair = [x, second(emit) if residual is None else residual]
        y = emit(ops.add(*(pair[::-1] if swapped else pair), *sides))
        y = emit(ops.requantize(y, shift, lo=0, hi=100, dtype=to))
        z = emit(ops.requantize(emit(ops.clip(x, lo=low, hi=high)), one, dtype=to, lo=0, hi=127))
        joined = emit(ops.concat([y, z], axis=1))
        return emit(ops.conv2d(joined, *last, **WINDOW))

    executable = net.check(make, target(draw.one(*HERE)))
    # A plain tensor beside it may ask for a plain map, such as one of a single channel.
    if other == "stored":
        assert "shiftadd_plain" not in " ".join(kernels(executable))
