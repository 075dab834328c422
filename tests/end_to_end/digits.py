"""The network that comes with the package, and the images it was trained on."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tvm_shiftadd.cli import main


def load(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Put digits.onnx into the folder; the images, ``[1797, 1, 8, 8]``, and their labels."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    model = resources.files("tvm_shiftadd.demo") / "digits.onnx"
    (folder / "digits.onnx").write_bytes(model.read_bytes())
    return digits.images[:, None].astype(np.float32), digits.target


def compile_into(folder: Path, **targets: str) -> None:
    """Put images.npz, x.npz with five images, and an artifact for each target into the folder."""
    pixels, labels = load(folder)
    np.savez(folder / "images.npz", features=pixels[:120], labels=labels[:120])
    np.savez(folder / "x.npz", pixels[:5])
    for name, target in targets.items():
        arguments = ["compile", folder / "digits.onnx", "-o", folder / name, "--target", target]
        arguments += ["--calib", folder / "images.npz", "--json"]
        assert main([str(argument) for argument in arguments]) == 0


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
