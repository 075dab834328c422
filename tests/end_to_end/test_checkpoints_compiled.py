"""From a shift-add network's checkpoint to compiled integers: its weights are kept as trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_shiftadd as tsa
from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions, run_integer
from tvm_shiftadd.formats import codes

torch = pytest.importorskip("torch")
networks = pytest.importorskip("tests.importers.torch_networks")

SIZE = 8


def images(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def deepshift() -> Any:
    return networks.ResNet(
        [1, 1, 1],
        (4, 6, 8),
        networks.ShiftPS,
        stem=networks.ShiftPS,
        head=networks.ShiftPSLinear,
        head_name="linear",
        shortcut="pad",
    )


def apot() -> Any:
    return networks.ResNet(
        [1, 1, 1], (4, 6, 8), networks.APoT, stem=networks.eight_bit, head=networks.EightBitLinear
    )


def shiftaddnet() -> Any:
    return networks.ResNet(
        [1, 1, 1],
        (4, 6, 8),
        networks.shift_add(networks.FixedShift),
        stem=networks.FixedShift,
        head=lambda taken, classes: networks.FixedShift(taken, classes, 1, 1),
        head_norm=True,
    )


@pytest.mark.parametrize(
    ("make", "terms", "rounded"),
    [
        (deepshift, 1, set()),
        pytest.param(apot, 2, {"conv1", "fc"}, marks=pytest.mark.slow),
        pytest.param(shiftaddnet, 1, set(), marks=pytest.mark.slow),
    ],
)
def test_trained_weights_survive(tmp_path: Path, make: Any, terms: int, rounded: set[str]) -> None:
    network = networks.settle(make(), SIZE)
    torch.save(network.state_dict(), tmp_path / "n.pth")
    model = tsa.load(tmp_path / "n.pth", shape=(-1, 3, SIZE, SIZE))
    conversion = api.convert(model, images(64, 1), ConvertOptions(terms=terms))
    layers = {layer.name: layer for layer in conversion.report.layers}
    shifts = {name for name, layer in layers.items() if layer.terms}
    assert {name for name in shifts if not layers[name].exact} == rounded
    assert all(layers[name].weight_error < 0.024 for name in shifts - rounded)

    artifact = api.build(model, conversion)
    assert artifact.report["costs"]["multiplications"] == 0
    x = images(8, 2)
    graph = model.graph
    wanted = run_integer(graph, conversion.plan, {graph.inputs[0]: x})[0][graph.outputs[0]]
    np.testing.assert_array_equal(artifact.run(x), wanted)
    with torch.no_grad():
        real = network(torch.tensor(x)).numpy()
    assert np.linalg.norm(wanted - real) < 0.2 * np.linalg.norm(real)


def test_the_codes_of_a_layer_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    network = networks.settle(deepshift(), SIZE)
    torch.save(network.state_dict(), tmp_path / "n.pth")
    model = tsa.load(tmp_path / "n.pth", shape=(-1, 3, SIZE, SIZE))
    plan = api.convert(model, images(64, 1), ConvertOptions(terms=1)).plan
    trained = network.layer2[0].conv2.weight().detach().numpy().transpose(2, 3, 1, 0)
    trained = trained.reshape(-1, trained.shape[-1])
    values = codes.decode(plan.layers["layer2.0.conv2"].codes).astype(np.float64)
    negative = network.layer2[0].bn2.weight.detach().numpy() < 0
    signs = np.where(negative, -1, 1)
    np.testing.assert_allclose(
        values / np.abs(values).max(axis=0) * signs, trained / np.abs(trained).max(axis=0)
    )
