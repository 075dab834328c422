"""The demo's network, converted once for all tests of GPUs."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.convert import Conversion, ConvertOptions
from tvm_shiftadd.target import nvrtc


@pytest.fixture(scope="session")
def digits() -> tuple[api.Model, Conversion]:
    """The network of the demo, with every kind of layer, and its integers."""
    with resources.as_file(resources.files("tvm_shiftadd.demo") / "digits.onnx") as path:
        model = api.load(path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (16, 1, 8, 8)).astype(np.float32)
    return model, api.convert(model, images, ConvertOptions(compensation=False))


@pytest.fixture(scope="session")
def artifact(digits: tuple[api.Model, Conversion]) -> Artifact:
    """The demo's network for a GPU of compute capability 8.6, compiled by NVRTC."""
    if not nvrtc.available():
        pytest.skip(f"needs NVRTC, NVIDIA's compiler: {nvrtc.INSTALL}")
    return api.build(*digits, target="cuda:sm_86")
