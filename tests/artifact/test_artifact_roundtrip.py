from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.errors import DataError

X = np.ones((3, 4), np.float32)
EXPECTED = X + np.arange(4, dtype=np.float32)


def test_runs_before_and_after_saving(artifact: Artifact, saved: Path) -> None:
    np.testing.assert_array_equal(artifact.run(X), EXPECTED)
    np.testing.assert_array_equal(Artifact.load(saved).run(X), EXPECTED)


def test_keeps_everything(artifact: Artifact, saved: Path) -> None:
    loaded = Artifact.load(saved)
    assert loaded.manifest == artifact.manifest
    assert loaded.manifest.integer_specification.layers[0].weight_exponents == (5, 6)
    assert loaded.report == {"layers": [{"name": "fc", "snr": 31.5}]}
    assert list(loaded.parameters) == ["w"]


def test_a_loaded_artifact_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    Artifact.load(saved).save(tmp_path / "copy")
    for name in ("library.so", "weights.safetensors", "report.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (saved / name).read_bytes()
    np.testing.assert_array_equal(Artifact.load(tmp_path / "copy").run(X), EXPECTED)


def test_replaced_library_is_the_one_that_runs(
    saved: Path, subtracting: Artifact, artifact: Artifact
) -> None:
    # The dynamic loader remembers paths: without care the first library would run again.
    first = Artifact.load(saved)
    np.testing.assert_array_equal(first.run(X), EXPECTED)
    subtracting.save(saved)
    np.testing.assert_array_equal(Artifact.load(saved).run(X), X - np.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(first.run(X), EXPECTED)


def test_weights_are_prepared_once(prepared: Artifact, tmp_path: Path) -> None:
    expected = X + 2 * np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(prepared.run(X), expected)
    prepared.save(tmp_path / "out")
    loaded = Artifact.load(tmp_path / "out")
    for _ in range(2):
        np.testing.assert_array_equal(loaded.run(X), expected)
    assert loaded._machine is not None
    (constant,) = loaded._machine._constants
    np.testing.assert_array_equal(constant.numpy(), 2 * np.arange(4))


def test_the_number_of_threads_is_the_targets(saved: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from tvm_shiftadd._runtime import Machine\n"
        "import tvm\n"
        "from tvm_shiftadd.target import runtime\n"
        "library = tvm.runtime.load_module(sys.argv[1])\n"
        "machine = Machine(library, {'w': np.ones(4, np.float32)}, 1)\n"
        "machine([np.ones((1, 4), np.float32)])\n"
        "print(runtime.num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved / "library.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


def test_several_outputs_come_by_name(two_outputs: Artifact) -> None:
    result = two_outputs.run({"x": X})
    assert isinstance(result, dict)
    assert list(result) == ["y0", "y1"]
    np.testing.assert_array_equal(result["y1"], EXPECTED)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X.astype(np.float64), "float64"),
        (np.ones((3, 5), np.float32), r"\[3, 5\]"),
        (np.ones((0, 4), np.float32), r"\[0, 4\]"),
        (np.ones((2, 3, 4), np.float32), r"\[2, 3, 4\]"),
        ({"z": X}, "got z"),
        ({}, "got none"),
        ({"x": [1.0]}, "got list"),
    ],
)
def test_wrong_input_is_refused(artifact: Artifact, x: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        artifact.run(x)  # type: ignore[arg-type]


def test_an_input_in_any_memory_order_is_accepted(artifact: Artifact) -> None:
    np.testing.assert_array_equal(artifact.run(np.asfortranarray(X)), EXPECTED)


def test_runs_without_the_packages_that_import_models(saved: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxscript', 'onnx_ir', 'torch', 'rich', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from tvm_shiftadd.artifact import Artifact\n"
        "assert 'tvm' not in sys.modules\n"
        "a = Artifact.load(sys.argv[1])\n"
        "assert 'tvm' not in sys.modules\n"
        "print(a.run(np.ones((1, 4), np.float32)).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[1.0, 2.0, 3.0, 4.0]]
