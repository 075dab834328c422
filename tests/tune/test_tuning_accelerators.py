"""An accelerator's tilings through the same search and database."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.bench import inputs
from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target import AcceleratorTarget
from tvm_shiftadd.tune import accelerator
from tvm_shiftadd.tune.database import Database, text_of
from tvm_shiftadd.tune.run import tune

MODEL = Path(__file__).resolve().parents[2] / "tvm_shiftadd" / "demo" / "digits.onnx"
TARGET = AcceleratorTarget()


def compiled(database: Path | None = None) -> Artifact:
    model = api.load(MODEL)
    return api.compile(
        model,
        target=TARGET,
        calibration=inputs.random_calibration(model.graph),
        options=inputs.plain_options(2),
        database=database,
    )


def test_tuned_and_compiled_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, tunable = tmp_path / "vta.jsonl", accelerator.tunable(TARGET)
    plain = compiled()
    kernels = plain.report["accelerator_kernels"]
    assert kernels and not any(kernel["tuned"] for kernel in kernels)
    result = tune(tunable, path, lambda: kernels, trials=40, timeout=60.0)
    assert result.unit == "cycles" and result.failures == []
    assert result.total("best") < result.total("rule")
    records = Database.read(path, tunable.identity).records
    assert len(records) == 40 and not any(record.final for record in records)

    tuned = compiled(path)
    made = {kernel["result"]: kernel for kernel in tuned.report["accelerator_kernels"]}
    best = accelerator.tuned(path, TARGET)
    assert len(made) == len(kernels)
    for kernel in made.values():
        assert kernel["tuned"] and kernel["parameters"] == best[text_of(kernel["workload"])]
    assert any(kernel["parameters"] != made[kernel["result"]]["parameters"] for kernel in kernels)
    feed = inputs.random_inputs(plain, 2)
    np.testing.assert_array_equal(plain.run(feed), tuned.run(feed))

    other = AcceleratorTarget(machine="ecp5-small")
    with pytest.raises(InputError, match="its machine is shift-16x16, here it is ecp5-small"):
        accelerator.tuned(path, other)
    model = str(MODEL)
    for arguments, says in (
        (["--target", "vta:ecp5-small"], "its machine is shift-16x16"),
        (["--target", "vta:none"], "there is no machine 'none'"),
        (["--target", "vta", "--threads", "2"], "no --threads"),
        ([], "its target is vta, here it is cpu"),
    ):
        assert main(["tune", model, "--db", str(path), "--trials", "1", *arguments]) == 2
        assert says in capsys.readouterr().err
