"""The whole command line on the network that comes with the package, on real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tvm_shiftadd as tsa
from tests.end_to_end import digits
from tvm_shiftadd.cli import main

COMMAND = [sys.executable, "-m", "tvm_shiftadd.cli"]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, arguments)]
    # Waiting threads of OpenBLAS take the time of others where a machine is busy.
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, env=env)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the images of both classes of use, and a compiled artifact."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = digits.load(folder)
    np.savez(folder / "calib.npz", features=pixels[:1437])
    np.savez(folder / "test.npz", features=pixels[1437:], labels=labels[1437:])
    np.savez(folder / "input.npz", image=pixels[1437:1447])
    done = call(
        *("compile", folder / "digits.onnx", "-o", folder / "out"),
        *("--calib", folder / "calib.npz", "--dump-ir", folder / "ir", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["multiplications"] == 0
    return folder


def test_the_module_is_written_after_each_pass(place: Path) -> None:
    names = [path.name for path in sorted((place / "ir").iterdir())]
    assert names[0] == "00-Imported.txt"
    assert [name[3:-4] for name in names[1:]] == [
        *("Canonicalize", "FoldBatchNorm", "ChannelsLast", "SelectRegions"),
        *("RewriteToDialect", "AlignResiduals", "PlaceRequantize", "VerifyMultiplierFree"),
        "LiftConstants",
    ]
    assert "relax.nn.conv2d" in (place / "ir" / names[4]).read_text()
    assert "shiftadd.conv2d" in (place / "ir" / names[8]).read_text()


def test_run_gives_what_the_python_interface_gives(place: Path) -> None:
    done = call("run", place / "out", "--input", place / "input.npz", "--output", place / "y.npz")
    assert done.returncode == 0, done.stderr
    with np.load(place / "y.npz") as result, np.load(place / "input.npz") as given:
        (name,) = result.files
        expected = tsa.Artifact.load(place / "out").run(given["image"])
        np.testing.assert_array_equal(result[name], expected)
        assert result[name].shape == (10, 10)


def test_eval_of_model_and_artifact_agree(place: Path) -> None:
    data = ("--data", place / "test.npz", "--json")
    model = call("eval", place / "digits.onnx", "--calib", place / "calib.npz", *data)
    artifact = call("eval", place / "out", *data)
    assert model.returncode == artifact.returncode == 0, model.stderr + artifact.stderr
    both = json.loads(model.stdout), json.loads(artifact.stdout)
    assert both[0]["n"] == both[1]["n"] == 360
    assert both[0]["shiftadd"]["top1"] == both[1]["shiftadd"]["top1"] >= 96
    assert both[0]["agreement"] >= 98 and both[1]["agreement"] is None


def test_terms_are_given_out_within_a_budget(place: Path) -> None:
    data = ("--data", place / "test.npz", "--calib", place / "calib.npz", "--json")
    words = ("--terms", "auto", "--budget", "terms=1.3", "--frontier", place / "frontier.csv")
    done = call("eval", place / "digits.onnx", *data, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0.97 * 1.3 <= result["terms_per_weight"] <= 1.3
    assert result["agreement"] >= 98
    assert result["allocation"]["cost"] == pytest.approx(result["terms_per_weight"])
    rows = (place / "frontier.csv").read_text().splitlines()
    assert rows[0].startswith("label,terms,bytes,energy,cycles,error,agreement")
    assert sum(row.endswith("True") for row in rows) == 1 and len(rows) >= 8


def test_a_compiled_allocation_is_reported(place: Path) -> None:
    words = ("--terms", "auto", "--budget", "bytes=4500", "--calib", place / "calib.npz")
    done = call("compile", place / "digits.onnx", "-o", place / "auto", *words, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["terms"], made["weight_bytes"] <= 4500) == ("auto", True)
    report = json.loads(call("report", place / "auto", "--json").stdout)
    allocation = report["conversion"]["allocation"]
    assert (allocation["grain"], allocation["cost"]) == ("layer", made["weight_bytes"])
    text = call("report", place / "auto").stdout
    assert "Terms by layer, bytes <= 4500" in text and "optim" in text


def test_explain_and_report_name_the_layers(place: Path) -> None:
    explained = call("explain", place / "digits.onnx", "--json")
    operators = json.loads(explained.stdout)["operators"]
    weights = {op["name"] for op in operators if op["macs"]}
    report = json.loads(call("report", place / "out", "--json").stdout)
    assert weights and weights <= {layer["name"] for layer in report["conversion"]["layers"]}


def nan_weights(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array.flat[0] = np.nan
    name = model.graph.initializer[0].name
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, name))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Frobnicate"


def damaged(place: Path, damage: Callable[[Any], None] | str) -> Path:
    """A damaged model beside the good one."""
    path = place / "damaged.onnx"
    content = (place / "digits.onnx").read_bytes()
    if callable(damage):
        model = onnx.load_from_string(content)
        damage(model)
        content = model.SerializeToString()
    else:
        content = {"cut": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("damage", ["cut", "text", nan_weights, unknown_operator])
def test_a_bad_model_leaves_the_output_alone(
    place: Path, damage: Callable[[Any], None] | str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(place / "out")
    refused(
        capfd,
        *("compile", damaged(place, damage), "-o", place / "out"),
        *("--calib", place / "calib.npz"),
    )
    assert contents(place / "out") == before


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 1, 8, 8), np.float32),
        np.zeros((4, 3, 8, 8), np.float32),
        np.zeros((4, 1, 8, 7), np.float32),
        np.zeros((4, 1, 8, 8), np.int64),
        np.full((4, 1, 8, 8), np.nan, np.float32),
    ],
    ids=["empty", "channels", "size", "type", "nan"],
)
def test_bad_calibration_writes_nothing(
    place: Path, tmp_path: Path, images: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bad.npz", features=images)
    refused(
        capfd,
        *("compile", place / "digits.onnx", "-o", tmp_path / "new"),
        *("--calib", tmp_path / "bad.npz"),
    )
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> None:
    """One sentence and exit code 2."""
    assert main([str(word) for word in arguments]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err


def test_an_interrupt_while_converting_leaves_the_output_alone(place: Path) -> None:
    before = contents(place / "out")
    dump = place / "interrupted"
    arguments = ("-o", place / "out", "--calib", place / "calib.npz", "--dump-ir", dump)
    child = subprocess.Popen(
        [*COMMAND, "compile", *map(str, (place / "digits.onnx", *arguments))],
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background have it ignored, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # The first dump is written when conversion is over and compilation begins.
    deadline = time.monotonic() + 120
    while not dump.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 130
    assert messages.startswith("error: interrupted\n")
    assert contents(place / "out") == before
    assert not [path for path in place.iterdir() if path.name.startswith((".out", "out."))]
