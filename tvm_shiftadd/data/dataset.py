"""A set of images or features with their labels, handed out in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.data.preprocess import Preprocess
from tvm_shiftadd.errors import DataError

_DEFAULT_BATCH = 100


class Images(Protocol):
    """Images that may still lie compressed in a file."""

    def __len__(self) -> int: ...

    def select(self, part: slice) -> Images:
        """A consecutive part, not decoded."""
        ...

    def decode(self) -> NDArray[Any]:
        """All images: uint8 [N, H, W, C], or float features [N, ...]."""
        ...

    def digest(self) -> bytes:
        """SHA-256 of what is stored."""
        ...


class ArrayImages:
    """Images in memory: uint8 [N, H, W, C] or [N, H, W], or float features [N, ...]."""

    def __init__(self, array: NDArray[Any], where: str = "images") -> None:
        self._array = _checked(array, where)

    def __len__(self) -> int:
        return len(self._array)

    def select(self, part: slice) -> ArrayImages:
        """A view of consecutive images."""
        view = object.__new__(ArrayImages)
        view._array = self._array[part]
        return view

    def decode(self) -> NDArray[Any]:
        """The array itself."""
        return self._array

    def digest(self) -> bytes:
        """SHA-256 of shape, type and content."""
        kind = f"{self._array.dtype}{self._array.shape}".encode()
        content = np.ascontiguousarray(self._array).data
        return hashlib.sha256(kind + hashlib.sha256(content).digest()).digest()


class Dataset:
    """Images, their labels if there are any, and how to prepare them.

    ``images``: uint8 [N, H, W, C] or [N, H, W], float features [N, C, H, W] or [N, ...], or an
    :class:`Images`. ``labels``: integers [N]. Raises :class:`DataError` for an empty set, a wrong
    shape or type, NaN or infinity, or labels that do not fit the images.
    """

    def __init__(
        self,
        images: NDArray[Any] | Images,
        labels: NDArray[Any] | None = None,
        preprocess: Preprocess | None = None,
        *,
        name: str = "images",
    ) -> None:
        self.name = name
        self.preprocess = preprocess or Preprocess()
        self._images: Images = (
            ArrayImages(images, name) if isinstance(images, np.ndarray) else images
        )
        if len(self._images) == 0:
            raise DataError(f"{name} is empty; at least one image is needed")
        self.labels = None if labels is None else _checked_labels(labels, len(self), name)

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, size: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield prepared float32 inputs [n, C, H, W] in order; the last may be smaller.

        Each is decoded when it is asked for. ``size`` is the specification's batch, else 100.
        """
        step = size or self.preprocess.batch or _DEFAULT_BATCH
        for start in range(0, len(self), step):
            part = self._images.select(slice(start, start + step))
            yield self.preprocess.apply(part.decode())

    def subset(self, skip: int = 0, limit: int | None = None) -> Dataset:
        """The images from ``skip`` on, at most ``limit`` of them, in file order.

        Raises :class:`DataError` if none is left.
        """
        if skip < 0 or (limit is not None and limit < 1):
            raise DataError(f"expected skip >= 0 and limit >= 1, got {skip} and {limit}")
        part = slice(skip, len(self) if limit is None else min(len(self), skip + limit))
        if skip >= len(self):
            raise DataError(f"{self.name} has {len(self)} images; skipping {skip} leaves none")
        labels = None if self.labels is None else self.labels[part]
        return Dataset(self._images.select(part), labels, self.preprocess, name=self.name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of images, labels and preparation."""
        digest = hashlib.sha256(self._images.digest())
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        digest.update(msgspec.json.encode(self.preprocess))
        return digest.hexdigest()


def _checked(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.dtype == np.uint8:
        if array.ndim == 3:
            array = array[..., None]
        if array.ndim != 4 or not 1 <= array.shape[3] <= 4 or 0 in array.shape[1:]:
            raise DataError(
                f"{where}: expected uint8 images [N, H, W, C] with 1 to 4 channels, "
                f"got {list(array.shape)}"
            )
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{where}: expected uint8 images or float features, got dtype {array.dtype}"
        )
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise DataError(
            f"{where}: expected float features [N, C, H, W] or [N, ...], got {list(array.shape)}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinity; every value must be a finite float32")
    return array


def _checked_labels(labels: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: expected integer labels [{count}], got {labels.dtype} {list(labels.shape)}"
        )
    if len(labels) != count:
        raise DataError(f"{where}: {count} images but {len(labels)} labels; they must be as many")
    if labels.min() < 0:
        raise DataError(f"{where}: labels must not be negative, got {labels.min()}")
    return labels.astype(np.int64)
