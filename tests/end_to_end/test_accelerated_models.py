"""The real models on the simulated accelerator, bit for bit as the integer reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vta_ext.offloading import verify
from tvm_shiftadd import api
from vta_ext.presets import SHIFT, SHIFT_ADDER

pytestmark = pytest.mark.data

REAL = ("mnist_lenet_germanov", "mlperftiny_ic_resnet8", "cifar10_akamaster_resnet20")
SLOW = (
    "imagenet_mobilenet_v1_0.25_224",
    "superres_espcn_x3_224",
    "imagenet_mobilenet_v2_1.0_224_qat_dequant",
    "ultraface_slim_320",
)


@pytest.mark.parametrize(
    "name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_real_networks(name: str, real_model: Callable[[str], Any]) -> None:
    real = real_model(name)
    x = real.images(4, 4 + (real.model.graph.batch or 1))
    found = verify(real.model, real.conversion.plan, x, SHIFT)
    assert len(found.regions) == 1
    assert found.reasons == {}


@pytest.mark.slow
def test_the_adder_network(data_dir: Path) -> None:
    pytest.importorskip("torch")
    model = api.load(data_dir / "models/addernet_resnet20_cifar10.pth")
    with np.load(data_dir / "data/cifar10_train_calib_5k.npz") as stored:
        images = stored["images"][:34].transpose(0, 3, 1, 2).astype(np.float32) / 255
    x = np.ascontiguousarray((images - np.float32(0.45)) / np.float32(0.2))
    plan = api.convert(model, x[:32]).plan
    assert verify(model, plan, x[32:], SHIFT_ADDER).reasons == {}
