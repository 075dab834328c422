"""Checkpoints of shift-add networks compute what their own definitions compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importers.onnx_models import assert_same, names, operators, run_tvm
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers import load
from tvm_shiftadd.importers._checkpoint_weights import apot, apot_levels

torch = pytest.importorskip("torch")
networks = pytest.importorskip("tests.importers.torch_networks")

HALF = (8, 16, 32)


def save(network: Any, path: Path, *, wrapped: bool = False, container: bool = False) -> Path:
    state = network.state_dict()
    if wrapped:
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": state, "best_prec1": 9.5} if container else state, path)
    return path


#: DeepShift rounds activations down to 2^-16 in each layer, which the importer leaves out.
DEEPSHIFT = 2e-4


def check(network: Any, path: Path, size: int = 16, tolerance: float = 1e-5, **options: Any) -> Any:
    """Import the saved network and compare it with its own forward pass; the Relax module."""
    mod = load(path, shape=(-1, 3, size, size), **options)
    networks.assert_follows(mod, network, size, tolerance)
    return mod


def attributes(mod: Any) -> tuple[str, list[str]]:
    attrs = mod["main"].attrs
    return str(attrs["shiftadd.source"]["format"]), [str(n) for n in attrs["shiftadd.notes"]]


@pytest.mark.parametrize("shortcut", ["pad", "downsample", "shortcut"])
def test_float_networks_of_cifar(tmp_path: Path, shortcut: str) -> None:
    network = networks.ResNet([3, 3, 3], HALF, shortcut=shortcut, head_name="linear")
    networks.settle(network)
    mod = check(network, save(network, tmp_path / "n.th", wrapped=True, container=True))
    form, notes = attributes(mod)
    assert form == "float"
    assert notes == ["recognised as ResNet-20 by its keys"]
    assert names(mod)[:4] == ["conv1", "bn1.statistics", "bn1", "relu"]
    assert "layer2.0.conv1" in names(mod)
    assert operators(mod)[:2] == ["relax.nn.conv2d", "relax.nn.batch_norm"]


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "title"),
    [([2, 2, 2, 2], False, "ResNet-18"), ([1, 2, 1, 1], True, "ResNet-17")],
)
def test_float_networks_of_imagenet(
    tmp_path: Path, blocks: list[int], bottleneck: bool, title: str
) -> None:
    network = networks.ResNet(blocks, [4, 4, 8, 8], bottleneck=bottleneck, head_name="fc")
    networks.settle(network, 32)
    mod = check(network, save(network, tmp_path / "n.pth"), 40)
    assert f"recognised as {title} by its keys" in attributes(mod)[1]
    assert "relax.nn.max_pool2d" in operators(mod)


def test_the_input_is_that_of_the_data_the_network_was_made_for(tmp_path: Path) -> None:
    network = networks.settle(networks.ResNet([1, 1, 1], HALF))
    mod = load(save(network, tmp_path / "n.pt"))
    assert [int(d) for d in mod["main"].params[0].ty.shape.values[1:]] == [3, 32, 32]
    wide = networks.settle(networks.ResNet([1, 1, 1, 1], [4, 4, 4, 4]), 32)
    mod = load(save(wide, tmp_path / "w.pt"), shape={"x": (2, 3, 64, 48)})
    assert [int(d) for d in mod["main"].params[0].ty.shape.values] == [2, 3, 64, 48]


def test_deepshift_ps(tmp_path: Path) -> None:
    network = networks.ResNet(
        [1, 1, 1],
        HALF,
        networks.ShiftPS,
        stem=networks.ShiftPS,
        head=networks.ShiftPSLinear,
        head_name="linear",
        shortcut="pad",
    )
    networks.settle(network)
    with torch.no_grad():
        network.layer1[0].conv1.shift[0] = 2.0  # clamped to 0
        network.layer1[0].conv1.shift[1] = -14.8  # clamped to -14
    mod = check(network, save(network, tmp_path / "n.pth.tar", container=True), tolerance=DEEPSHIFT)
    assert attributes(mod)[0] == "DeepShift-PS"
    assert any("activations" in note for note in attributes(mod)[1])


def test_deepshift_q_must_be_asked_for(tmp_path: Path) -> None:
    network = networks.ResNet(
        [1, 1, 1], HALF, networks.ShiftQ, stem=networks.ShiftQ, head=networks.ShiftQLinear
    )
    path = save(networks.settle(network), tmp_path / "n.pth")
    mod = check(network, path, tolerance=DEEPSHIFT, weights="deepshift-q")
    assert attributes(mod)[0] == "DeepShift-Q"
    assert attributes(load(path))[0] == "float"


def test_apot(tmp_path: Path) -> None:
    network = networks.ResNet(
        [1, 1, 1],
        HALF,
        networks.APoT,
        stem=networks.eight_bit,
        head=networks.EightBitLinear,
    )
    mod = check(networks.settle(network), save(network, tmp_path / "n.pth"))
    form, notes = attributes(mod)
    assert form == "APoT, 4 bits"
    assert any("clipped to [0, 1.5]" in note for note in notes)
    assert any("weights='apot-N'" in note for note in notes)
    bounds = [b.value.args[2].value for b in _bindings(mod) if "clip" in str(b.value)]
    assert bounds == [pytest.approx(1.5)] * 8


def test_apot_as_the_imagenet_code_names_it(tmp_path: Path) -> None:
    network = networks.settle(
        networks.ResNet(
            [1, 1, 1],
            HALF,
            networks.APoT,
            stem=networks.eight_bit,
            head=networks.EightBitLinear,
        )
    )
    state = {
        key.replace("weight_quant.wgt_alpha", "weight_alpha"): value
        for key, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "n.pth")
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    mod = load(tmp_path / "n.pth", shape=(-1, 3, 16, 16), weights="apot-4")
    assert_same(run_tvm(mod, x), [networks.forward(network, x)], 1e-5)
    assert not any("apot-N" in note for note in attributes(mod)[1])


def test_the_levels_of_apot() -> None:
    for bits in (3, 4):
        np.testing.assert_allclose(apot_levels(bits), networks.apot_levels(bits).numpy())
    assert apot_levels(1).tolist() == [0, 1]
    assert apot_levels(2).tolist() == [0, 0.25, 0.5, 1]
    five = apot_levels(5)
    assert len(five) == 32 and five[-1] == 1
    # One of 1/2, 1/8, 1/64, one of 1/4, 1/16, 1/128, and 1/32.
    np.testing.assert_allclose(five[1] * (0.5 + 0.25 + 1 / 32), 1 / 128)
    weight = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    for bits in (2, 3, 4, 5):
        levels = np.unique(np.abs(apot(weight, 2.0, bits))) / 2
        assert np.isin(levels.round(6), apot_levels(bits - 1).round(6)).all()


def _bindings(mod: Any) -> list[Any]:
    return [
        b
        for block in mod["main"].body.blocks
        for b in block.bindings
        if getattr(getattr(b.value, "op", None), "name", "") == "relax.clip"
    ]


def test_a_key_of_another_network_is_named(tmp_path: Path) -> None:
    network = networks.settle(networks.ResNet([1, 1, 1], HALF))
    network.extra = torch.nn.Linear(3, 4)
    with pytest.raises(ModelError, match=r"stumbles over 'extra'.*ResNet-20, 32.*architecture="):
        load(save(network, tmp_path / "n.pth"))
    path = tmp_path / "vgg.pth"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).state_dict(), path)
    with pytest.raises(ModelError, match=r"none of the networks recognised.*ResNet-18"):
        load(path)


def test_layers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = networks.settle(networks.ResNet([1, 1, 1], HALF))
    network.layer2[0].conv2 = torch.nn.Conv2d(15, 16, 3, bias=False)
    with pytest.raises(ModelError, match=r"'layer2\.0\.conv2' takes 15 channels, but 16 come in"):
        load(save(network, tmp_path / "a.pth"))
    network.layer2[0].conv2 = torch.nn.Conv2d(16, 12, 3, bias=False)
    with pytest.raises(ModelError, match=r"'layer2\.0\.bn2' has 16 channels, but 12 come in"):
        load(save(network, tmp_path / "b.pth"))


def test_shapes_and_weights_that_make_no_sense(tmp_path: Path) -> None:
    path = save(networks.settle(networks.ResNet([1, 1, 1], HALF)), tmp_path / "n.pth")
    with pytest.raises(ModelError, match=r"\[batch or -1, 3, height, width\], but got \[1, 4"):
        load(path, shape=(1, 4, 32, 32))
    with pytest.raises(ModelError, match=r"weights to be one of.*'nonsense'"):
        load(path, weights="nonsense")
    with pytest.raises(ModelError, match="path of a checkpoint beside"):
        load("model.onnx", weights="apot-3")


@pytest.mark.data
def test_akamasters_checkpoint_is_the_network_exported_from_it(data_dir: Path) -> None:
    from tests.importers.onnx_models import run_onnxruntime

    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    mod = load(data_dir / "models/resnet20-12fca82f.th")
    exported = str(data_dir / "models/cifar10_akamaster_resnet20.onnx")
    assert_same(run_tvm(mod, x), run_onnxruntime(exported, x), 1e-5)


@pytest.mark.data
def test_apots_checkpoint_follows_its_definition(data_dir: Path) -> None:
    path = data_dir / "models/apot_resnet20_4bit_cifar10.pth.tar"
    network = networks.ResNet(
        [3, 3, 3],
        [16, 32, 64],
        networks.APoT,
        stem=networks.eight_bit,
        head=networks.EightBitLinear,
        classes=10,
    )
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    network.load_state_dict({key.removeprefix("module."): v for key, v in state.items()})
    images = np.load(data_dir / "data/cifar10_test_A.npz")["images"][:64] / 255
    images = (images - [0.491, 0.482, 0.447]) / [0.247, 0.243, 0.262]
    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    got = run_tvm(load(path), x)
    assert_same(got, [networks.forward(network.eval(), x)], 1e-5)
