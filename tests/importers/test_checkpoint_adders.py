"""Checkpoints with adder layers: AdderNet, and ShiftAddNet in all its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importers.onnx_models import assert_same, operators, run_tvm
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers import load

torch = pytest.importorskip("torch")
networks = pytest.importorskip("tests.importers.torch_networks")

WIDTHS = (4, 6, 8)


def head(shift: Any) -> Any:
    """The last layer of these networks is a 1x1 convolution with a batch norm behind it."""
    return lambda taken, classes: shift(taken, classes, 1, 1)


def check(network: Any, state: dict[str, Any], path: Path, tolerance: float = 1e-5) -> Any:
    torch.save({"state_dict": state, "optimizer": {}}, path)
    mod = load(path, shape=(-1, 3, 8, 8))
    networks.assert_follows(mod, network, 8, tolerance)
    return mod


def form(mod: Any) -> str:
    return str(mod["main"].attrs["shiftadd.source"]["format"])


def shiftaddnet(shift: Any) -> Any:
    conv = networks.shift_add(shift)
    network = networks.ResNet([1, 1, 1], WIDTHS, conv, stem=shift, head=head(shift), head_norm=True)
    return networks.settle(network, 8)


def addernet() -> Any:
    last = head(networks.plain)
    network = networks.ResNet([1, 1, 1], WIDTHS, networks.Adder, head=last, head_norm=True)
    return networks.settle(network, 8)


def test_addernet(tmp_path: Path) -> None:
    network = addernet()
    mod = check(network, network.state_dict(), tmp_path / "n.pth")
    assert form(mod) == "AdderNet"
    assert operators(mod).count("shiftadd.float_adder_conv2d") == 8
    assert operators(mod).count("relax.nn.conv2d") == 2


def test_the_bias_of_an_adder_layer(tmp_path: Path) -> None:
    network = addernet()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["layer1.0.conv1.b"] = torch.arange(4.0)
    with torch.no_grad():
        network.layer1[0].bn1.running_mean -= torch.arange(4.0)
    check(network, state, tmp_path / "n.pth")


@pytest.mark.parametrize("adder", ["adder", "weight"])
def test_shiftaddnet(tmp_path: Path, adder: str) -> None:
    network = shiftaddnet(networks.ShiftPS)
    state = {
        key.replace(".adder", f".{adder}"): value for key, value in network.state_dict().items()
    }
    mod = check(network, state, tmp_path / "n.pth.tar", 3e-4)
    assert form(mod) == "ShiftAddNet"
    assert operators(mod).count("shiftadd.float_adder_conv2d") == 8
    assert operators(mod).count("relax.nn.conv2d") == 10


def test_masked_adders_count_as_zero(tmp_path: Path) -> None:
    network = shiftaddnet(networks.ShiftPS)
    layer = network.layer2[0].conv1[1]
    state = dict(network.state_dict())
    mask = (torch.rand(layer.adder.shape) > 0.5).float()
    state["layer2.0.conv1.1.adder_mask"] = mask
    with torch.no_grad():
        layer.adder *= mask
    check(network, state, tmp_path / "n.pth", 3e-4)


def test_fixed_shifts(tmp_path: Path) -> None:
    network = shiftaddnet(networks.FixedShift)
    mod = check(network, network.state_dict(), tmp_path / "n.pth", 3e-4)
    assert form(mod) == "ShiftAddNet, fixed shift"


def test_fixed_shifts_must_be_powers_of_two(tmp_path: Path) -> None:
    network = shiftaddnet(networks.FixedShift)
    with torch.no_grad():
        network.layer1[0].conv2[0].weight[0, 0, 0, 0] = 0.3
    torch.save(network.state_dict(), tmp_path / "n.pth")
    with pytest.raises(ModelError, match=r"'layer1\.0\.conv2\.0' is a fixed shift, but 1 of.*0\.3"):
        load(tmp_path / "n.pth")


@pytest.mark.data
def test_addernets_checkpoint_follows_its_definition(data_dir: Path) -> None:
    path = data_dir / "models/addernet_resnet20_cifar10.pth"
    network = networks.ResNet(
        [3, 3, 3],
        [16, 32, 64],
        networks.Adder,
        head=head(networks.plain),
        head_norm=True,
        classes=10,
    )
    state = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict({key.removeprefix("module."): v for key, v in state.items()})
    network.eval().double()
    archive = np.load(data_dir / "data/cifar10_test_A.npz")
    images = archive["images"][:48] / 255
    images = (images - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    got = run_tvm(load(path), x)
    # Sums of some thousands lose digits in float32 before a batch norm subtracts their mean.
    assert_same(got, [networks.forward(network, x.astype(np.float64))], 3e-4)
    assert np.mean(got[0].argmax(1) == archive["labels"][:48]) > 0.8
