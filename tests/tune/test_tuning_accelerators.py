"""An accelerator's tilings through the same search and database."""

from __future__ import annotations

import json
from dataclasses import replace
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
from vta_ext import backend
from vta_ext.presets import PRESETS, SHIFT

MODEL = Path(__file__).resolve().parents[2] / "tvm_shiftadd" / "demo" / "digits.onnx"
TARGET = AcceleratorTarget()


def compiled(database: Path | None = None, target: AcceleratorTarget = TARGET) -> Artifact:
    model = api.load(MODEL)
    return api.compile(
        model,
        target=target,
        calibration=inputs.random_calibration(model.graph),
        options=inputs.plain_options(2),
        database=database,
    )


def test_tuned_and_compiled_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One process, so that answers always come in the same order, and others keep the other cores.
    path, tunable = tmp_path / "vta.jsonl", replace(accelerator.tunable(TARGET), processes=1)
    plain = compiled()
    kernels = plain.report["accelerator_kernels"]
    assert kernels and not any(kernel["tuned"] for kernel in kernels)
    result = tune(tunable, path, lambda: kernels, trials=40, timeout=600.0)
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


def test_the_machine_of_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset, or a sentence: neither a file's name nor a preset's of the same name is one."""
    for name, preset in PRESETS.items():
        said = {"machine": name, "configuration": preset.config.hash}
        assert backend.machine_of({**said, "memory_bits": preset.memory_bits}) == name
    for name in ("mine", "pynq"):
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps({**SHIFT.to_dict(), "LOG_INP_BUFF_SIZE": 14}))
        compiled(target=AcceleratorTarget(machine=str(config))).save(tmp_path / name)
        database = tmp_path / f"{name}.jsonl"
        arguments = ["tune", str(tmp_path / name), "--db", str(database), "--trials", "1"]
        assert main(arguments) == 2
        assert f"the artifact is for '{name}', a machine of one's own" in capsys.readouterr().err
        assert not database.exists()
