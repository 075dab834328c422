"""The AdderNet checkpoint of its authors: bits of the artifact, and accuracy kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd import api
from tvm_shiftadd.convert import run_float, run_integer

pytest.importorskip("torch")  # its files are read by it
pytestmark = pytest.mark.data

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
DEVIATION = np.array([0.2023, 0.1994, 0.2010], np.float32)


def pictures(path: Path, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Prepared images, NCHW, and labels."""
    with np.load(path) as stored:
        images, labels = stored["images"][start:stop], stored["labels"][start:stop]
    x = (images.astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32), labels


@pytest.fixture(scope="module")
def converted(data_dir: Path) -> Any:
    model = api.load(data_dir / "models/addernet_resnet20_cifar10.pth")
    x, _ = pictures(data_dir / "data/cifar10_train_calib_5k.npz", 0, 256)
    return model, api.convert(model, x)


def test_its_layers_are_adder_layers(converted: Any) -> None:
    model, conversion = converted
    assert len(conversion.plan.adders) == 20
    assert len(conversion.plan.layers) == 2
    assert api.explain(model).shift_add_share == 1
    for report in conversion.report.layers:
        assert report.output_snr_db is not None and report.output_snr_db > 18


def test_the_artifact_gives_the_bits_of_the_integer_reference(
    converted: Any, data_dir: Path
) -> None:
    model, conversion = converted
    x, _ = pictures(data_dir / "data/cifar10_test_A.npz", 0, 8)
    (wanted,) = run_integer(model.graph, conversion.plan, {model.graph.inputs[0]: x})[0].values()
    got = api.build(model, conversion).run(x)
    np.testing.assert_array_equal(got, wanted)
    assert np.ptp(got) > 0


def test_accuracy_is_kept(converted: Any, data_dir: Path) -> None:
    model, conversion = converted
    x, labels = pictures(data_dir / "data/cifar10_test_A.npz", 0, 400)
    feeds = {model.graph.inputs[0]: x}
    floats = next(iter(run_float(model.graph, feeds).values())).argmax(axis=1)
    integers = next(iter(run_integer(model.graph, conversion.plan, feeds)[0].values())).argmax(1)
    assert np.mean(floats == labels) > 0.88
    assert np.mean(floats == integers) > 0.97
