"""Every kind of layer, compiled and simulated, against the integer reference bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vta_ext.region_cases import RegionCase
from tvm_shiftadd.errors import CompileError
from tvm_shiftadd.formats import reference
from vta_ext.config import Config
from vta_ext.presets import BASE, LARGE, SHIFT, SHIFT_ADDER, SMALL
from vta_ext.sim.timing import simulate

#: Machines that multiply: VTA's own, one with all extensions, and one with rows of inputs.
MULTIPLYING = {
    "VTA": BASE,
    "extended": replace(SHIFT, gemm_modes=("multiply",), log_wgt_buff_size=18),
    "VTA, two rows": replace(BASE, log_batch=1),
}
#: Machines that take several images at a time.
ROWS = {
    "shift": replace(SHIFT, log_batch=1),
    "adder": replace(SHIFT_ADDER, log_batch=2),
    "small": replace(SMALL, log_batch=1),
}


def case(seed: int = 0) -> RegionCase:
    return RegionCase(np.random.default_rng(seed))


@settings(max_examples=25)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    c = case(draw(0, 1 << 30))
    kernel, dilation = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 2))
    groups = draw(1, 2)
    x = c.input(draw(5, 12), draw(5, 12), groups * draw(1, 20), dtype=draw_dtype(data))
    if data.draw(st.booleans()):
        # Not the network's input, which the host may arrange.
        x = c.requantize(x, c.values[x].dtype.name)
    y = c.conv2d(
        x,
        groups * draw(1, 20),
        kernel,
        (draw(1, 3), draw(1, 2)),
        (draw(0, 2), draw(0, 2), draw(0, 2), draw(0, 2)),
        dilation,
        groups,
        terms=draw(1, 3),
        zeros=data.draw(st.sampled_from([0.1, 0.97])),
    )
    z = c.requantize(y, draw_dtype(data))
    c.verify(data.draw(st.sampled_from([SHIFT, SMALL, LARGE])), z)


def draw_dtype(data: st.DataObject) -> str:
    return data.draw(st.sampled_from(["int8", "uint8"]))


def test_a_layer_of_many_tiles() -> None:
    """More channels and positions than the small machine's buffers hold at once."""
    c = case()
    x = c.input(30, 34, 40)
    region = c.verify(SMALL, c.requantize(c.conv2d(x, 72)))
    assert region.counters.fetches > 20


def test_an_all_zero_layer_is_its_bias() -> None:
    c = case()
    x = c.input(6, 6, 20)
    c.verify(SHIFT, c.requantize(c.conv2d(x, 20, zeros=1.0)))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_host_puts_the_taps_of_few_channels_side_by_side(dtype: str) -> None:
    """A first layer of three channels; another layer reads the same input as it is."""
    c = case()
    x = c.input(11, 9, 3, dtype=dtype)
    first = c.requantize(c.conv2d(x, 20, strides=(2, 1), padding=(2, 0, 1, 3)))
    second = c.requantize(c.conv2d(x, 4, (1, 1), padding=(0, 0, 0, 0)))
    region = c.verify(SHIFT, first, second)
    assert [binding.tensor.channels for binding in region.inputs] == [3, 27]


def test_rows_that_nothing_reads_are_not_loaded() -> None:
    c = case()
    x = c.input(9, 8, 32)
    y = c.conv2d(x, 16, (1, 3), (3, 1), (0, 1, 0, 1))
    region = c.verify(SHIFT, c.requantize(y))
    loads = [i for i in region.program.instructions if i.kind.name == "LOAD" and i.x_size]
    inputs = [load for load in loads if load.memory_type.name == "inp"]
    assert sum(load.x_size * load.y_size for load in inputs) == 2 * 3 * 8


def test_zero_tiles_of_the_second_term_are_not_issued() -> None:
    def micro_ops(zero: bool) -> int:
        c = case()
        x = c.input(8, 8, 32)
        y = c.conv2d(x, 32, terms=2)
        codes = c.operators[-1].constants["codes"]
        if zero:
            codes[1] = 0
        network = c.network(y)
        region = c.verify(SHIFT, network=network)
        return sum(
            (i.uop_end - i.uop_bgn) * i.iter_out * i.iter_in
            for i in region.program.instructions
            if i.kind.mode is not None
        )

    assert micro_ops(zero=True) * 2 == micro_ops(zero=False)


@pytest.mark.parametrize("shape", [(5, 5, 16), (4, 3, 20), (1, 1, 50)])
@pytest.mark.parametrize("first_channels", [False, True])
def test_dense_layers_on_flattened_maps(shape: tuple[int, ...], first_channels: bool) -> None:
    c = case()
    x = c.input(*shape)
    if first_channels:
        x = c.add("permute", (x,), lambda a: a.transpose(0, 3, 1, 2), {"axes": (0, 3, 1, 2)})
    flat = c.add("reshape", (x,), lambda a: a.reshape(len(a), -1))
    hidden = c.requantize(c.dense(flat, 37))
    c.verify(SHIFT, c.dense(hidden, 10))


@pytest.mark.parametrize("shifts", [(0, 0), (0, 6), (7, 7), (6, 11), (0, 9)])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_residual_additions(shifts: tuple[int, int], dtype: str) -> None:
    c = case()
    x = c.input(7, 9, 24, dtype=dtype)
    y = c.requantize(c.conv2d(x, 24, terms=1))
    total = c.sum(c.conv2d(y, 24), x, *shifts)
    c.verify(SHIFT, c.requantize(total))


def test_two_layers_added_in_32_bits() -> None:
    c = case()
    x = c.input(10, 10, 20)
    long = c.conv2d(x, 33, strides=(2, 2))
    short = c.conv2d(x, 33, (1, 1), (2, 2), (0, 0, 0, 0))
    c.verify(SHIFT, c.requantize(c.sum(long, short, 0, 5)))


def pool(c: RegionCase, x: str, kind: str, **where: Any) -> str:
    function = getattr(reference, kind)
    given_size = {"dilation": (1, 1), "padding": (0, 0, 0, 0), "ceil_mode": False, **where}
    if kind == "avg_pool2d":
        given_size.setdefault("count_include_pad", False)
    return c.add(kind, (x,), lambda a: function(a, **given_size), given_size)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    "where",
    [
        {"pool_size": (2, 2), "strides": (2, 2)},
        {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1)},
        {"pool_size": (3, 2), "strides": (1, 2), "padding": (0, 1, 2, 0), "ceil_mode": True},
        {"pool_size": (9, 11), "strides": (1, 1)},
    ],
)
def test_pooling(where: dict[str, Any], dtype: str) -> None:
    c = case()
    x = c.input(9, 11, 20, dtype=dtype)
    mean = c.requantize(pool(c, x, "avg_pool2d", **where))
    c.verify(SHIFT, pool(c, x, "max_pool2d", **where), mean)


@pytest.mark.parametrize("config", [SHIFT, SMALL], ids=["16x16", "8x8"])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(4, 2, 1), (3, 2, 0), (3, 1, 1), (2, 3, 0)])
def test_transposed_convolutions(kernel: int, stride: int, pad: int, config: Any) -> None:
    c = case()
    x = c.input(5, 6, 24)
    c.verify(config, c.requantize(c.conv2d_transpose(x, 20, kernel, stride, pad)))


def test_up_sampling_clipping_and_joining() -> None:
    c = case()
    x, other = c.input(4, 5, 20), c.input(8, 15, 7)
    big = c.add("upsample2d", (x,), lambda a: reference.upsample2d(a, (2, 3)), {"scale": (2, 3)})
    limited = c.add("clip", (big,), lambda a: reference.clip(a, -7, 90), {"lo": -7, "hi": 90})
    scaled = c.requantize(other, per_channel=False)
    joined = c.add(
        "concat",
        (scaled, limited, other),
        lambda *parts: reference.concat(parts, 3),
        {"axis": 3},
    )
    c.verify(SHIFT, joined)


def test_slices_and_padding_are_read_in_place() -> None:
    """The shortcut of a residual network without weights: every second pixel, more channels."""
    c = case()
    x = c.input(8, 8, 16)
    rows = {"axes": (1, 2), "begin": (0, 1), "end": (8, 8), "strides": (2, 2)}
    half = c.add("slice", (x,), lambda a: a[:, 0:8:2, 1:8:2], rows)
    width = (0, 0, 0, 0, 0, 0, 8, 8)
    wide = c.add("pad", (half,), lambda a: reference.pad(a, width), {"pad_width": width})
    y = c.conv2d(x, 32, strides=(2, 2))
    region = c.verify(SHIFT, c.requantize(c.sum(y, wide, 3, 7)))
    assert [layer.name for layer in region.layers] == ["requantize4", "finish"]


def test_padding_of_maps_is_made_where_it_is_an_output() -> None:
    c = case()
    x = c.input(5, 6, 10)
    width = (0, 0, 1, 2, 3, 0, 0, 0)
    c.verify(SHIFT, c.add("pad", (x,), lambda a: reference.pad(a, width), {"pad_width": width}))


def test_what_only_has_another_name_is_copied() -> None:
    """A region whose result is its input."""
    c = case()
    x = c.input(1, 1, 20)
    flat = c.add("reshape", (x,), lambda a: a.reshape(len(a), -1))
    c.verify(SHIFT, flat)
    c = case()
    x = c.input(4, 5, 20)
    whole = {"axes": (1,), "begin": (0,), "end": (4,), "strides": (1,)}
    same = c.add("slice", (x,), lambda a: a, whole)
    c.verify(SHIFT, same, c.requantize(c.conv2d(same, 8)))


def test_adder_layers_with_a_factor_a_channel() -> None:
    c = case()
    x = c.input(9, 9, 20)
    first = c.requantize(c.scale(c.adder_conv2d(x, 20, (1, 1), (1, 1, 1, 1))))
    second = c.scale(c.adder_conv2d(first, 24, (2, 2), (1, 0, 1, 1)), 3)
    c.verify(SHIFT_ADDER, c.requantize(second))


def test_depthwise_convolutions() -> None:
    c = case()
    x = c.input(9, 10, 40, dtype="uint8")
    y = c.requantize(c.conv2d(x, 40, strides=(2, 2), groups=40))
    c.verify(SHIFT, c.requantize(c.conv2d(y, 80, groups=40)))


def test_several_inputs_and_outputs_of_both_widths() -> None:
    c = case()
    x, y = c.input(6, 6, 18), c.input(6, 6, 18, dtype="uint8")
    wide = c.conv2d(x, 18)
    stored = c.requantize(c.sum(x, y, 0, 3))
    c.verify(SHIFT, wide, stored)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda c: c.adder_conv2d(c.input(6, 6, 4), 4, (1, 1), (0, 0, 0, 0)), "no GEMM mode adder"),
        (
            lambda c: c.conv2d(
                c.input(40, 40, 9), 4, (3, 1), (1, 1), (20, 0, 20, 0), dilation=(20, 1)
            ),
            "needs a padding of",
        ),
    ],
)
def test_what_does_not_fit_is_named(make: Any, sentence: str) -> None:
    c = case()
    name = make(c)
    with pytest.raises(CompileError, match=sentence) as caught:
        c.verify(SHIFT, name)
    assert name in str(caught.value)


def test_a_layer_beyond_the_buffers_is_named() -> None:
    tiny = replace(SMALL, log_inp_buff_size=5, log_acc_buff_size=8)
    c = case()
    y = c.conv2d(c.input(6, 6, 4), 4)
    with pytest.raises(CompileError, match=f"{y} cannot run on the accelerator: it does not fit"):
        c.verify(tiny, y)


@pytest.fixture(params=MULTIPLYING)
def multiplying(request: pytest.FixtureRequest) -> Config:
    return MULTIPLYING[request.param]


@settings(max_examples=15)
@given(st.data())
def test_convolutions_of_machines_that_multiply(data: st.DataObject) -> None:
    """Terms become integers; VTA clears, adds, shifts and limits one after the other."""

    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    c = case(draw(0, 1 << 30))
    groups = draw(1, 2)
    x = c.requantize(c.input(draw(5, 9), draw(5, 9), groups * draw(1, 20)))
    y = c.conv2d(
        x,
        groups * draw(1, 20),
        (draw(1, 3), draw(1, 3)),
        (draw(1, 2), draw(1, 2)),
        (draw(0, 2), draw(0, 2), draw(0, 2), draw(0, 2)),
        (draw(1, 2), 1),
        groups,
        terms=draw(1, 3),
    )
    region = c.verify(MULTIPLYING[data.draw(st.sampled_from(sorted(MULTIPLYING)))], c.requantize(y))
    modes = {i.kind.mode.name for i in region.program.instructions if i.kind.mode}
    assert modes == {"multiply"}


def test_a_residual_network_on_machines_that_multiply(multiplying: Config) -> None:
    c = case()
    x = c.input(9, 8, 20)
    y = c.requantize(c.scale(c.conv2d(x, 24), 3))
    shortcut = c.conv2d(x, 24, (1, 1), padding=(0, 0, 0, 0))
    total = c.requantize(c.sum(c.scale(c.conv2d(y, 24)), shortcut, 0, 4))
    deep = c.requantize(c.sum(c.conv2d(total, 24, groups=24), total, 0, 9))
    up = c.add("upsample2d", (deep,), lambda a: reference.upsample2d(a, (2, 2)), {"scale": (2, 2)})
    small = c.add("clip", (up,), lambda a: reference.clip(a, -7, 90), {"lo": -7, "hi": 90})
    wide = c.requantize(c.conv2d_transpose(total, 8, 4, 2, 1))
    joined = c.add("concat", (small, wide), lambda *p: reference.concat(p, 3), {"axis": 3})
    flat = c.add("reshape", (total,), lambda a: a.reshape(len(a), -1))
    c.verify(multiplying, joined, c.requantize(c.dense(flat, 10)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda c: c.conv2d(c.input(6, 6, 4), 4), "its result has 32 bits, of which this machine"),
        (lambda c: c.requantize(c.input(6, 6, 4, dtype="uint8")), "this machine reads no uint8"),
        (lambda c: c.requantize(c.input(6, 6, 4), "uint8"), "this machine reads no uint8"),
        (
            lambda c: pool(c, c.input(6, 6, 4), "max_pool2d", pool_size=(2, 2), strides=(2, 2)),
            "this machine's ALU has no operation sha",
        ),
    ],
)
def test_what_vtas_machine_does_not_have_is_named(make: Any, sentence: str) -> None:
    c = case()
    name = make(c)
    with pytest.raises(CompileError, match=sentence) as caught:
        c.verify(BASE, name)
    assert str(caught.value).startswith("layer ")


@pytest.mark.parametrize("name", ROWS)
def test_several_images_at_a_time(name: str) -> None:
    """One launch for as many images as an input has rows; the last one may be fewer."""
    config, c = ROWS[name], case()
    x = c.input(9, 9, 3, dtype="uint8")
    y = c.requantize(c.conv2d(x, 20), "int8" if name == "adder" else "uint8")
    y = pool(c, y, "max_pool2d", pool_size=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1))
    if "adder" in config.gemm_modes:
        y = c.requantize(c.scale(c.adder_conv2d(y, 20, (1, 1), (1, 1, 1, 1))))
    mean = c.requantize(pool(c, y, "avg_pool2d", pool_size=(5, 5), strides=(1, 1)))
    flat = c.add("reshape", (mean,), lambda a: a.reshape(len(a), -1))
    total = c.requantize(c.sum(c.conv2d(y, 20), y, 0, 3))
    c.verify(config, c.dense(flat, 7), total)


def test_weights_of_one_term_take_half_the_bytes_of_integers() -> None:
    def moved(config: Config) -> int:
        c = case()
        region = c.verify(config, c.requantize(c.conv2d(c.input(14, 14, 64), 64, terms=1)))
        found = simulate(region.program).bytes
        return found.get("code", 0) + found.get("wgt", 0)

    assert moved(MULTIPLYING["extended"]) == 2 * moved(SHIFT) > 0
