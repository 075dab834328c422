"""The GPU that is here."""

from __future__ import annotations

import pytest

from tvm_shiftadd.errors import DependencyError, DeviceError
from tvm_shiftadd.target import cuda_runtime, nvrtc


@pytest.fixture(scope="session")
def arch() -> str:
    """The architecture of the GPU that is here; skips where there is none."""
    if not nvrtc.available():
        pytest.skip(f"needs NVRTC, NVIDIA's compiler: {nvrtc.INSTALL}")
    try:
        device = cuda_runtime.device("sm_75")
    except (DeviceError, DependencyError) as error:
        pytest.skip(str(error))
    return "sm_" + str(device.compute_version).replace(".", "")
