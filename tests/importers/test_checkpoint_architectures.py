"""A checkpoint of any network is imported with the architecture given as a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.importers.onnx_models import names
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers import load

torch = pytest.importorskip("torch")
networks = pytest.importorskip("tests.importers.torch_networks")
nn = torch.nn


def lenet(conv: Any, norm: bool = True) -> Any:
    """A small network that no importer recognises; ``conv`` as in ``torch_networks``."""
    layers = [conv(3, 4, 3, 2)]
    layers += [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(*layers, nn.ReLU(), conv(4, 6, 3, 1), nn.ReLU(), nn.Flatten())


def compare(trained: Any, given: Any, path: Path, tolerance: float = 1e-5, **options: Any) -> Any:
    torch.save(trained.state_dict(), path)
    mod = load(path, architecture=given, shape=(-1, 3, 8, 8), **options)
    networks.assert_follows(mod, trained, 8, tolerance)
    return mod


def test_float_weights(tmp_path: Path) -> None:
    trained = networks.settle(lenet(networks.plain), 8)
    given = lenet(networks.plain)
    before = given[0].weight.clone()
    mod = compare(trained, given, tmp_path / "n.pth")
    assert names(mod)[0] == "0"
    assert torch.equal(given[0].weight, before), "the caller's module was changed"
    assert str(mod["main"].attrs["shiftadd.source"]["format"]) == "float"


def test_shift_weights(tmp_path: Path) -> None:
    trained = networks.settle(lenet(networks.ShiftPS), 8)
    compare(trained, lenet(networks.plain), tmp_path / "n.pth", 2e-4)


def test_apot_weights_and_clips(tmp_path: Path) -> None:
    trained = networks.settle(lenet(networks.APoT), 8)
    compare(trained, lenet(networks.plain), tmp_path / "n.pth")


def test_a_module_that_is_another_network(tmp_path: Path) -> None:
    path = tmp_path / "n.pth"
    torch.save(networks.settle(lenet(networks.plain), 8).state_dict(), path)
    shape = (-1, 3, 8, 8)
    with pytest.raises(ModelError, match=r"checkpoint has a layer '1', but|no layer '2'"):
        load(path, architecture=lenet(networks.plain, norm=False), shape=shape)
    wider = lenet(networks.plain)
    wider[0] = nn.Conv2d(3, 5, 3)
    with pytest.raises(ModelError, match="Layer '0' of the architecture is a Conv2d"):
        load(path, architecture=wider, shape=shape)
    larger = nn.Sequential(*lenet(networks.plain), nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"has the weight '6\.weight', but the checkpoint has no"):
        load(path, architecture=larger, shape=shape)


def test_unusable_arguments(tmp_path: Path) -> None:
    path = tmp_path / "n.pth"
    torch.save(networks.settle(lenet(networks.plain), 8).state_dict(), path)
    with pytest.raises(ModelError, match="needs the shape of its input"):
        load(path, architecture=lenet(networks.plain))
    with pytest.raises(ModelError, match=r"to be a torch\.nn\.Module, but got str"):
        load(path, architecture="resnet", shape=(1, 3, 8, 8))
    with pytest.raises(ModelError, match="cannot be exported for an input of shape"):
        load(path, architecture=lenet(networks.plain), shape=(1, 2, 8, 8))
