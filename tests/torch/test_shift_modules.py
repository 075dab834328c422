"""The torch modules give the integers of the reference, and gradients that pass through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.plan import AdderPlan, ChannelFactor, LayerPlan
from tvm_shiftadd.convert.terms import nearest
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes, reference

torch = pytest.importorskip("torch")
modules = pytest.importorskip("tvm_shiftadd.torch")
activations = pytest.importorskip("tvm_shiftadd.torch.activations")
rounding = pytest.importorskip("tvm_shiftadd.torch.rounding")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def int8_maps(*shape: int, seed: int = 0) -> Any:
    return rng(seed).integers(-128, 128, shape).astype(np.int8)


def real(x: Any, exponent: int) -> Any:
    """A map [N, H, W, C] of integers as the real tensor [N, C, H, W] the modules take."""
    values = np.ldexp(x.astype(np.float32), -exponent)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 1)))


def back(x: Any, exponent: Any) -> Any:
    """Integers [N, H, W, C] of a tensor [N, C, H, W]."""
    return np.moveaxis(activations.integers(x, exponent), 1, -1)


def layer(op: str, shape: tuple[int, ...], terms: int, **attrs: Any) -> tuple[Node, LayerPlan]:
    made = shape[-1]
    values = rng(terms).choice(codes.representable(terms), size=(int(np.prod(shape[:-1])), made))
    plan = LayerPlan(
        codes.encode(values, terms),
        rng(1).integers(-2, 9, made).astype(np.int32),
        # Large: a bias that float32 could not hold.
        rng(2).integers(-(2**30), 2**30, made).astype(np.int32),
    )
    return Node("layer", op, ("x",), "y", attrs, np.zeros(shape, np.float32)), plan


CONVOLUTIONS = [
    ((3, 3, 4, 5), {}),
    ((3, 2, 4, 5), {"strides": (2, 1), "padding": (1, 0, 2, 1)}),
    ((3, 3, 2, 6), {"groups": 2, "dilation": (2, 1), "padding": (1, 1, 1, 1)}),
    ((3, 3, 1, 4), {"groups": 4, "padding": (0, 0, 1, 1), "strides": (2, 2)}),
]


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize(("shape", "attrs"), CONVOLUTIONS)
def test_convolution(shape: tuple[int, ...], attrs: dict[str, Any], terms: int) -> None:
    attrs = {
        "strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, **attrs
    }  # fmt: skip
    node, plan = layer("conv2d", shape, terms, **attrs)
    x = int8_maps(2, 7, 6, 4)
    module = modules.ShiftConv2d.from_plan(node, plan, 5).eval()
    got = back(module(real(x, 5)), module.accumulator_exponent().numpy())
    want = reference.conv2d(x, codes.decode(plan.codes).reshape(shape), plan.bias, **attrs)
    assert np.array_equal(got, want)
    same_plan(module.to_plan(), plan)


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)},
        {"strides": (2, 3), "padding": (1, 0, 2, 1), "output_padding": (0, 2)},
        {"dilation": (2, 1)},
    ],
)
def test_transposed_convolution(attrs: dict[str, Any]) -> None:
    defaults = {
        "strides": (1, 1), "padding": (0, 0, 0, 0), "output_padding": (0, 0), "dilation": (1, 1)
    }  # fmt: skip
    attrs = defaults | attrs
    node, plan = layer("conv2d_transpose", (3, 3, 4, 5), 2, **attrs)
    x = int8_maps(2, 5, 4, 4)
    module = modules.ShiftConvTranspose2d.from_plan(node, plan, 3).eval()
    got = back(module(real(x, 3)), module.accumulator_exponent().numpy())
    weight = codes.decode(plan.codes).reshape(3, 3, 4, 5)
    assert np.array_equal(got, reference.conv2d_transpose(x, weight, plan.bias, **attrs))
    same_plan(module.to_plan(), plan)


def test_dense() -> None:
    node, plan = layer("dense", (20, 7), 3)
    x = int8_maps(4, 20)
    module = modules.ShiftLinear.from_plan(node, plan, 6).eval()
    got = back(module(real(x, 6)), module.accumulator_exponent().numpy())
    assert np.array_equal(got, reference.dense(x, codes.decode(plan.codes), plan.bias))
    same_plan(module.to_plan(), plan)


def same_plan(mine: LayerPlan, theirs: LayerPlan) -> None:
    for name in ("codes", "weight_exponent", "bias"):
        assert np.array_equal(getattr(mine, name), getattr(theirs, name))
        assert getattr(mine, name).dtype == getattr(theirs, name).dtype


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("exponent", [-3, 0, 6])
def test_quantize(exponent: int, dtype: str) -> None:
    x = (rng().normal(size=(5, 6, 7)) * 2.0 ** (6 - exponent)).astype(np.float32)
    x.flat[:6] = [np.nan, np.inf, -np.inf, 1e-40, 0.5, 2.5]
    x.flat[6:] = np.where(rng(1).random(x.size - 6) < 0.2, np.ldexp(3.5, -exponent), x.flat[6:])
    module = modules.Quantize(exponent, dtype)
    got = module(torch.from_numpy(x))
    assert got.dtype == torch.float32
    assert module.integers(got).dtype == dtype
    assert np.array_equal(module.integers(got), reference.quantize(x, exponent, dtype))


@pytest.mark.parametrize(
    ("lo", "hi", "dtype"),
    [
        (-128, 127, "int8"),
        (0, 127, "int8"),
        (-5, 90, "int8"),
        (None, None, "uint8"),
        (0, 192, "uint8"),
    ],
)
def test_requantize_rounds_halves_up(lo: int | None, hi: int | None, dtype: str) -> None:
    acc = rng().integers(-(2**20), 2**20, (3, 40, 5)).astype(np.int32)
    acc[0, :, 0] = np.arange(-20, 20) * 2**7 + 2**6  # every one a half
    exponent = np.array([13, 11, 20, 4, 6], np.int32)
    acc[:, :, 3:] >>= 12
    module = modules.Requantize(6, lo, hi, dtype)
    values = np.moveaxis(np.ldexp(acc.astype(np.float64), -exponent), -1, 1)
    got = module(torch.from_numpy(np.ascontiguousarray(values)))
    want = reference.requantize(acc, exponent - 6, lo, hi, dtype)
    assert np.array_equal(np.moveaxis(module.integers(got), 1, -1), want)
    with pytest.raises(InputError, match="lo <= hi"):
        modules.Requantize(6, 3, 2)
    with pytest.raises(InputError, match="0 <= lo"):
        modules.Requantize(6, -1, dtype="uint8")


def test_a_layer_of_unsigned_inputs() -> None:
    attrs = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    node, plan = layer("conv2d", (3, 3, 4, 5), 3, **attrs)
    x = rng().integers(0, 256, (2, 7, 6, 4)).astype(np.uint8)
    module = modules.ShiftConv2d.from_plan(node, plan, 5).eval()
    got = back(module(real(x, 5)), module.accumulator_exponent().numpy())
    weight = codes.decode(plan.codes).reshape(3, 3, 4, 5)
    assert np.array_equal(got, reference.conv2d(x, weight, plan.bias, **attrs))
    pool = modules.ShiftAvgPool2d((3, 3), (2, 2)).eval()
    window = {"pool_size": (3, 3), "strides": (2, 2)}
    shift = reference.avg_pool_reciprocal((7, 6), **window).shift
    assert np.array_equal(back(pool(real(x, 4)), 4 + shift), reference.avg_pool2d(x, **window))


@pytest.mark.parametrize(
    ("pool_size", "options"),
    [
        ((2, 2), {}),
        ((3, 3), {"strides": (2, 2), "padding": (1, 1, 0, 1)}),
        ((3, 3), {"strides": (1, 2), "padding": (1, 1, 1, 1), "count_include_pad": True}),
        ((7, 6), {}),
    ],
)
def test_average_pooling(pool_size: tuple[int, int], options: dict[str, Any]) -> None:
    x = int8_maps(2, 7, 6, 3)
    options = {"strides": pool_size} | options
    module = modules.ShiftAvgPool2d(pool_size, **options).eval()
    shift = reference.avg_pool_reciprocal((7, 6), pool_size=pool_size, **options).shift
    want = reference.avg_pool2d(x, pool_size=pool_size, **options)
    assert np.array_equal(back(module(real(x, 4)), 4 + shift), want)


def test_scale() -> None:
    acc = rng().integers(-(2**20), 2**20, (2, 4, 4, 5)).astype(np.int32)
    factor = codes.encode(np.array([64, 57, -48, 1, 0]), 3)
    shift = np.array([6, 7, 3, 0, 2], np.int32)
    module = modules.Scale(factor, shift).eval()
    values = torch.from_numpy(np.moveaxis(acc.astype(np.float64), -1, 1).copy())
    assert np.array_equal(back(module(values), shift), reference.scale(acc, factor))


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 2, 1)])
def test_adder_convolution(padding: tuple[int, ...]) -> None:
    weight = rng().normal(size=(5, 4, 3, 2)).astype(np.float32) * 8  # some beyond int8
    bias = rng(1).normal(size=5) * 3
    module = modules.AdderConv2d(
        torch.from_numpy(weight), 4, torch.from_numpy(bias), strides=(2, 1), padding=padding
    ).eval()
    x = int8_maps(2, 7, 6, 4)
    stored, total = module.integers()
    assert stored.dtype == np.int8
    assert (np.abs(np.rint(weight * 16)) > 128).any()
    want = reference.adder_conv2d(
        x, stored.reshape(3, 2, 4, 5), total, strides=(2, 1), padding=padding
    )
    assert np.array_equal(back(module(real(x, 4)), 4), want)


def test_adder_dense() -> None:
    weight = rng().normal(size=(5, 9)).astype(np.float32)
    module = modules.AdderLinear(torch.from_numpy(weight), 6).eval()
    x = int8_maps(4, 9)
    assert np.array_equal(back(module(real(x, 6)), 6), reference.adder_dense(x, *module.integers()))
    with pytest.raises(InputError, match="bias of 5 values"):
        modules.AdderLinear(torch.from_numpy(weight), 6, torch.zeros(4))


@pytest.mark.parametrize("op", ["adder_conv2d", "adder_dense"])
def test_adder_layers_of_a_conversion(op: str) -> None:
    shape = (3, 3, 4, 5) if op == "adder_conv2d" else (20, 5)
    attrs = {"strides": (2, 1), "padding": (1, 0, 1, 1)} if op == "adder_conv2d" else {}
    factor = ChannelFactor(codes.encode(np.array([64, 57, -48, 1, 3]), 3), np.arange(5, dtype="i4"))
    weight = int8_maps(int(np.prod(shape[:-1])), 5, seed=4)
    plan = AdderPlan(weight, rng().integers(-9999, 9999, 5).astype(np.int32), factor)
    node = Node("layer", op, ("x",), "y", attrs, np.zeros(shape, np.float32))
    cls = modules.AdderConv2d if op == "adder_conv2d" else modules.AdderLinear
    module = cls.from_plan(node, plan, 5).eval()
    x = int8_maps(2, 7, 6, 4) if op == "adder_conv2d" else int8_maps(4, 20)
    got = back(module(real(x, 5)), 5 + factor.exponent)
    acc = getattr(reference, op)(x, weight.reshape(shape), plan.bias, **attrs)
    assert np.array_equal(got, reference.scale(acc, factor.codes))
    again = module.to_plan()
    assert np.array_equal(again.weight, weight) and np.array_equal(again.bias, plan.bias)
    assert again.factor is not None and np.array_equal(again.factor.codes, factor.codes)
    with pytest.raises(InputError, match="expected a layer of adder_"):
        cls.from_plan(Node("layer", "dense", ("x",), "y"), plan, 5)


@pytest.mark.parametrize("op", ["conv2d", "dense"])
def test_a_factor_behind_a_layer(op: str) -> None:
    shape = (3, 3, 4, 5) if op == "conv2d" else (20, 5)
    attrs = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    attrs = attrs if op == "conv2d" else {}
    node, plan = layer(op, shape, 1, **attrs)
    factor = ChannelFactor(codes.encode(np.array([64, 57, 48, 1, 3]), 3), np.arange(5, dtype="i4"))
    plan = replace(plan, factor=factor, bias=(plan.bias >> 12).astype(np.int32))
    cls = modules.ShiftConv2d if op == "conv2d" else modules.ShiftLinear
    module = cls.from_plan(node, plan, 5).eval()
    x = int8_maps(2, 7, 6, 4) if op == "conv2d" else int8_maps(4, 20)
    got = back(module(real(x, 5)), module.output_exponent().numpy())
    acc = getattr(reference, op)(x, codes.decode(plan.codes).reshape(shape), plan.bias, **attrs)
    assert np.array_equal(got, reference.scale(acc, factor.codes))
    same_plan(module.to_plan(), plan)
    again = module.to_plan().factor
    assert again is not None and np.array_equal(again.exponent, factor.exponent)


@given(st.integers(1, 3), st.lists(st.integers(-260, 260), min_size=1, max_size=40))
@settings(max_examples=30)
def test_terms_are_the_converters_nearest(terms: int, halves: list[int]) -> None:
    scaled = np.array(halves, np.float64) / 2 + rng().choice([0, 1e-3, -1e-3], len(halves))
    got = rounding.nearest_terms(torch.from_numpy(scaled), terms).numpy()
    assert np.array_equal(got, nearest(scaled, terms))


def test_gradients_pass_straight_through_the_rounding_of_weights() -> None:
    node, plan = layer("dense", (6, 3), 2)
    module = modules.ShiftLinear.from_plan(node, plan, 4).train()
    with torch.no_grad():
        module.weight *= 0.93  # off the representable values, and below the largest
        module.weight[0, 0] = 1e6  # saturates
    x = torch.randn(5, 6)
    ahead = torch.randn(5, 3)
    (module(x) * ahead).sum().backward()
    expected = ahead.T @ x
    expected[0, 0] = 0
    assert torch.allclose(module.weight.grad, expected, rtol=1e-5)
    assert torch.allclose(module.bias.grad, ahead.sum(0).double(), rtol=1e-5)


def test_gradients_of_activations_stop_where_they_saturate() -> None:
    for module in (modules.Quantize(4), modules.Requantize(4)):
        x = torch.tensor([-100.0, -3.3, 0.2, 7.9, 100.0], requires_grad=True)
        module(x).sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 1, 0]
    x = torch.tensor([-1.0, 2.0, 9.0], requires_grad=True)
    modules.Requantize(4, 0, 100)(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_gradients_of_adder_layers() -> None:
    module = modules.AdderConv2d(torch.randn(3, 2, 2, 2), 4).train()
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    module(x).sum().backward()
    assert torch.isfinite(module.adder.grad).all() and module.adder.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
    # Where a weight lies below every input, moving it up brings it nearer.
    with torch.no_grad():
        module.adder.fill_(-50.0)
    module.adder.grad = None
    module(x).sum().backward()
    assert torch.allclose(module.adder.grad, torch.full((3, 2, 2, 2), 18.0))


def test_training_brings_the_loss_down() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        modules.Quantize(5),
        modules.ShiftConv2d(
            torch.randn(4, 3, 3, 3) * 0.2, torch.full((4,), 6), 5, terms=1, padding=(1, 1, 1, 1)
        ),
        modules.Requantize(4, lo=0),
        torch.nn.Flatten(),
        modules.ShiftLinear(torch.randn(2, 256) * 0.05, torch.full((2,), 8), 4, terms=2),
    )
    x, y = torch.randn(64, 3, 8, 8), torch.randint(0, 2, (64,))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert network.eval()(x).dtype == torch.float64


def test_wrong_arguments() -> None:
    node, plan = layer("dense", (6, 3), 2)
    with pytest.raises(InputError, match="expected a layer of conv2d, got 'layer'"):
        modules.ShiftConv2d.from_plan(node, plan, 4)
    with pytest.raises(InputError, match="one weight exponent for each of 3 outputs"):
        modules.ShiftLinear(torch.zeros(3, 6), torch.zeros(2), 4)
    with pytest.raises(InputError, match="some beside it"):
        activations.integers(torch.tensor([[0.3]]), 2)
