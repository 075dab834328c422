"""``eval``, compiled code included, on all labelled images: the figures of the README."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd import api
from tvm_shiftadd.data import open_dataset

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.mark.parametrize("terms", [1, 2])
def test_cifar_resnet20(real_model: Callable[[str], Any], data_dir: Path, terms: int) -> None:
    real = real_model("cifar10_akamaster_resnet20")
    calibration = open_dataset(data_dir / "data/cifar10_train_calib_5k.npz", real.data.preprocess)
    result = api.evaluate(real.model, real.data, calibration=calibration, terms=terms)
    assert result.n == 5000
    assert result.float_top1 == pytest.approx(91.72, abs=0.05)
    assert result.shiftadd_top1 is not None and result.agreement is not None
    assert result.shiftadd_top1 >= 91.72 - 1.0
    assert result.agreement >= (97.0 if terms == 1 else 98.0)
    assert result.costs["multiplications"] == 0
