from __future__ import annotations

import numpy as np
import pytest

from tvm_shiftadd.data import Dataset, Preprocess
from tvm_shiftadd.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)
LABELS = np.arange(10, dtype=np.uint8)


def test_batches_cover_everything_in_order() -> None:
    batches = list(Dataset(IMAGES, LABELS).batches(4))
    assert [len(b) for b in batches] == [4, 4, 2]
    expected = IMAGES.transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_batch_size_comes_from_the_specification() -> None:
    assert len(next(Dataset(IMAGES, None, Preprocess(batch=3)).batches())) == 3


def test_subset_keeps_labels_beside_images() -> None:
    part = Dataset(IMAGES, LABELS).subset(skip=3, limit=4)
    assert part.labels is not None
    assert part.labels.tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(
        next(part.batches()), IMAGES[3:7].transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert len(Dataset(IMAGES).subset(skip=8, limit=100)) == 2


@pytest.mark.parametrize(("skip", "limit"), [(10, None), (-1, None), (0, 0), (11, 3)])
def test_subset_never_is_empty(skip: int, limit: int | None) -> None:
    with pytest.raises(DataError):
        Dataset(IMAGES).subset(skip, limit)


def test_grey_images_need_no_channel_axis() -> None:
    assert next(Dataset(np.zeros((2, 4, 5), np.uint8)).batches()).shape == (2, 1, 4, 5)


def test_fingerprint_tells_sets_apart() -> None:
    base = Dataset(IMAGES, LABELS)
    changed = IMAGES.copy()
    changed[-1, -1, -1, -1] ^= 1
    others = [
        Dataset(changed, LABELS),
        Dataset(IMAGES, LABELS[::-1]),
        Dataset(IMAGES),
        Dataset(IMAGES, LABELS, Preprocess(scale=0.5)),
        base.subset(limit=9),
        Dataset(IMAGES.reshape(10, 5, 4, 3), LABELS),
    ]
    prints = {d.fingerprint for d in [base, *others]}
    assert len(prints) == 1 + len(others)
    assert Dataset(IMAGES.copy(), LABELS.astype(np.int64)).fingerprint == base.fingerprint


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[:0], "empty"),
        (IMAGES.transpose(0, 3, 1, 2).copy(), "1 to 4 channels"),
        (IMAGES[0, 0], "1 to 4 channels"),
        (IMAGES.astype(np.int32), "int32"),
        (np.array([["a"]]), "dtype"),
        (np.zeros((3,), np.float32), "features"),
        (np.zeros((3, 0), np.float32), "features"),
        (np.full((2, 3), np.nan, np.float32), "NaN"),
        (np.full((2, 3), 1e300), "finite float32"),
    ],
)
def test_unusable_images(images: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Dataset(images)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:9], "10 images but 9 labels"),
        (LABELS.astype(np.float32), "integer labels"),
        (LABELS[:, None], "integer labels"),
        (LABELS.astype(np.int64) - 1, "negative"),
    ],
)
def test_unusable_labels(labels: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Dataset(IMAGES, labels)
