"""The demo's network and its data: handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import DependencyError, InputError

#: The last images test; the network was trained on those before them (models/digits.py).
TEST_IMAGES = 360

NETWORK = "digits.onnx"
TRAIN = "digits-train.npz"
TEST = "digits-test.npz"


def datasets() -> tuple[Dataset, Dataset]:
    """The images to calibrate with and the images to test with: uint8 [N, 8, 8, 1], 0 to 16.

    Raises DependencyError without scikit-learn, whose installation holds the images.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DependencyError(
            "the demo's images come with scikit-learn, which is not installed; "
            "install it with: pip install 'tvm-shiftadd[demo]'"
        ) from None
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    return (
        Dataset(images[:-TEST_IMAGES], labels[:-TEST_IMAGES], name="training digits"),
        Dataset(images[-TEST_IMAGES:], labels[-TEST_IMAGES:], name="test digits"),
    )


def write_files(directory: Path, train: Dataset, test: Dataset) -> Path:
    """Put the network and both sets of images into ``directory``; returns the network's path.

    Raises InputError if the file system refuses.
    """
    network = directory / NETWORK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        network.write_bytes((resources.files("tvm_shiftadd.demo") / NETWORK).read_bytes())
        for name, data in ((TRAIN, train), (TEST, test)):
            pixels = np.concatenate(list(data.batches())).astype(np.uint8).transpose(0, 2, 3, 1)
            np.savez_compressed(directory / name, images=pixels, labels=_labels(data))
    except OSError as error:
        raise InputError(
            f"the demo could not write its files into {directory} "
            f"({error.strerror or error}); run it in a folder you may write to"
        ) from None
    return network


def _labels(data: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    assert data.labels is not None
    return np.asarray(data.labels, dtype=np.int64)
