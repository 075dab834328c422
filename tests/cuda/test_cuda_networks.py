"""Whole networks, compiled for a GPU and emulated, give the bits of the CPU's artifacts."""

from __future__ import annotations

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
        np.testing.assert_array_equal(artifact.run(images[-1:]), wanted[-1:])
    assert np.ptp(wanted) > 0


def test_the_network_of_the_demo(digits: tuple[api.Model, Conversion]) -> None:
    images = np.random.default_rng(1).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)
    compare(*digits, images, "backward")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("terms", [1, 2])
def test_resnet20(data_dir, terms: int) -> None:
    model = api.load(data_dir / "models" / "cifar10_akamaster_resnet20.onnx")
    images = np.load(data_dir / "data" / "cifar10_test_A.npz")["images"][:6]
    x = (images.transpose(0, 3, 1, 2) / 255 - 0.45).astype(np.float32) / np.float32(0.22)
    options = ConvertOptions(terms=terms, compensation=False)
    compare(model, api.convert(model, x[:4], options), x[4:], "random")
