"""The demo's network, converted once for all tests of GPUs."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from tvm_shiftadd import api
from tvm_shiftadd.convert import Conversion, ConvertOptions


@pytest.fixture(scope="session")
def digits() -> tuple[api.Model, Conversion]:
    """The network of the demo, with every kind of layer, and its integers."""
    with resources.as_file(resources.files("tvm_shiftadd.demo") / "digits.onnx") as path:
        model = api.load(path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (16, 1, 8, 8)).astype(np.float32)
    return model, api.convert(model, images, ConvertOptions(compensation=False))
