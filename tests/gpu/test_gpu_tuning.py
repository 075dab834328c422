"""On a real GPU: a search finds parameters that a build uses and that compute the same."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from tvm_shiftadd.target import CUDATarget
from tvm_shiftadd.tune import cuda as tuning
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.run import tune

pytestmark = pytest.mark.gpu


def test_a_search(arch: str, tmp_path: Path) -> None:
    with resources.as_file(resources.files("tvm_shiftadd.demo") / "digits.onnx") as path:
        model = api.load(path)
    images = np.random.default_rng(0).integers(0, 17, (16, 1, 8, 8)).astype(np.float32)
    conversion = api.convert(model, images, ConvertOptions(compensation=False))
    target, database = CUDATarget(arch=arch), tmp_path / "gpu.jsonl"
    plain = api.build(model, conversion, target=target)
    kernels = plain.report["kernels"]
    result = tune(tuning.tunable(target), database, lambda: kernels, trials=16, timeout=120.0)
    assert result.failures == []
    assert all(outcome.rule and outcome.best for outcome in result.outcomes)
    records = Database.read(database, tuning.identity(target)).records
    assert len([record for record in records if not record.final]) == 16
    assert all(0 < record.value < 0.1 for record in records)
    tuned = api.build(model, conversion, target=target, database=database)
    assert all(kernel["tuned"] for kernel in tuned.report["kernels"])
    np.testing.assert_array_equal(tuned.run(images), plain.run(images))
