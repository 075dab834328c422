"""The real models for the accelerator and for the CPU: the same bits on a hundred images each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.convert import Conversion

pytestmark = [pytest.mark.data, pytest.mark.slow]

IMAGES = 100
NAMES = (
    "mnist_lenet_germanov",
    "mlperftiny_ic_resnet8",
    "cifar10_akamaster_resnet20",
    "imagenet_mobilenet_v1_0.25_224",
    "superres_espcn_x3_224",
)
#: These are compiled and run on one image.
LARGE = (
    "imagenet_mobilenet_v2_1.0_224_qat_dequant",
    "ultraface_slim_320",
    "style_transfer_udnie_224",
)


def compare(
    model: api.Model, conversion: Conversion, x: NDArray[np.float32], target: str, folder: Path
) -> None:
    """Save for both targets, load, run in batches, compare every output bit by bit."""
    loaded = []
    for name in (target, "cpu"):
        api.build(model, conversion, target=name).save(folder / name.partition(":")[0])
        loaded.append(Artifact.load(folder / name.partition(":")[0]))
    step = model.graph.batch or min(25, len(x))
    for start in range(0, len(x) - len(x) % step, step):
        found, wanted = (artifact.run(x[start : start + step]) for artifact in loaded)
        np.testing.assert_equal(found, wanted)
    images = len(x) - len(x) % step
    assert loaded[0].counted["launches"] == images * len(loaded[0].regions.regions) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_images(name: str, real_model: Callable[[str], Any], tmp_path: Path) -> None:
    real = real_model(name)
    x = real.images(4, 4 + IMAGES)
    compare(real.model, real.conversion, x, "vta:shift-16x16", tmp_path)


def test_a_hundred_images_of_the_adder_network(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = api.load(data_dir / "models/addernet_resnet20_cifar10.pth")
    with np.load(data_dir / "data/cifar10_train_calib_5k.npz") as stored:
        images = stored["images"][: 32 + IMAGES].transpose(0, 3, 1, 2).astype(np.float32) / 255
    x = np.ascontiguousarray((images - np.float32(0.45)) / np.float32(0.2))
    conversion = api.convert(model, x[:32])
    compare(model, conversion, x[32:], "vta:shift-adder-16x16", tmp_path)


@pytest.mark.parametrize("name", LARGE)
def test_one_image(name: str, real_model: Callable[[str], Any], tmp_path: Path) -> None:
    real = real_model(name)
    x = real.images(4, 4 + (real.model.graph.batch or 1))
    compare(real.model, real.conversion, x, "vta:shift-16x16", tmp_path)
