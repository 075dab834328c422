"""The demo's network on the CPU, 100 images a call: shift-add beside onnxruntime's float.

One thread each: onnxruntime is told so, TVM reads TVM_NUM_THREADS when its first kernel runs.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "1")

IMAGES = 100


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    return digits.images[:IMAGES, None].astype(np.float32)


@pytest.mark.benchmark(group="digits, 100 images, 1 thread")
def test_shift_add(benchmark: Any, images: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    import tvm_shiftadd as tsa

    with resources.as_file(resources.files("tvm_shiftadd.demo") / "digits.onnx") as path:
        artifact = tsa.compile(Path(path), calibration=images, terms=2)
    artifact.run(images)
    benchmark(artifact.run, images)


@pytest.mark.benchmark(group="digits, 100 images, 1 thread")
def test_float_onnxruntime(benchmark: Any, images: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = (resources.files("tvm_shiftadd.demo") / "digits.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    benchmark(session.run, None, {"image": images})
