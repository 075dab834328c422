"""The network that comes with the package, and the images it was trained on."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def load(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Put digits.onnx into the folder; the images, ``[1797, 1, 8, 8]``, and their labels."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    model = resources.files("tvm_shiftadd.demo") / "digits.onnx"
    (folder / "digits.onnx").write_bytes(model.read_bytes())
    return digits.images[:, None].astype(np.float32), digits.target
