"""Whole networks, compiled for a GPU and emulated, give the bits of the CPU's artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cuda.emulation import emulated
from tvm_shiftadd import api
from tvm_shiftadd.convert import Conversion, ConvertOptions


def compare(model: api.Model, conversion: Conversion, images: np.ndarray, order: str) -> None:
    """All images at once, again in their memory, then one, which has a function of its own."""
    wanted = api.build(model, conversion, target="cpu").run(images)
    with emulated(order):
        artifact = api.build(model, conversion, target="cuda")
        np.testing.assert_array_equal(artifact.run(images[::-1]), wanted[::-1])
        np.testing.assert_array_equal(artifact.run(images), wanted)
        if model.graph.batch is None:
            np.testing.assert_array_equal(artifact.run(images[-1:]), wanted[-1:])
    assert np.ptp(wanted) > 0


def test_the_network_of_the_demo(digits: tuple[api.Model, Conversion]) -> None:
    images = np.random.default_rng(1).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)
    compare(*digits, images, "backward")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("cifar10_akamaster_resnet20.onnx", 1),
        ("cifar10_akamaster_resnet20.onnx", 2),
        ("imagenet_mobilenet_v1_0.25_224.onnx", 1),
        ("addernet_resnet20_cifar10.pth", 2),
    ],
)
def test_real_networks(data_dir: Path, name: str, terms: int) -> None:
    if name.endswith(".pth"):
        pytest.importorskip("torch")  # its file is read by it
    model = api.load(data_dir / "models" / name)
    shape = model.graph.shapes[model.graph.inputs[0]]
    size = model.graph.batch or 2
    x = np.random.default_rng(0).standard_normal((size, *shape[1:])).astype(np.float32)
    options = ConvertOptions(terms=terms, compensation=False)
    compare(model, api.convert(model, x, options), x, "random")
