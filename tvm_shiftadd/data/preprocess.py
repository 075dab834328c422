"""How an image becomes a network's input: resize, channel order, scale, mean, deviation, shape."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import DataError, InputError

_MAX_SPEC_BYTES = 1 << 20


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The steps, in the order in which they are applied.

    - ``resize``: height and width in pixels, bilinear; None leaves the size
    - ``bgr``: reverse the channels, for networks trained on blue-green-red images
    - ``scale``, ``mean``, ``std``: (x * scale - mean) / std in float32; mean and std hold one
      number, or one per channel
    - ``reshape``: shape of one input without the batch axis, for networks that want it otherwise
    - ``label_offset``: outputs before the first class, for networks with a background class
    - ``batch``: images per call; None leaves the choice to the caller
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False
    resize: int | None = None
    reshape: tuple[int, ...] | None = None
    label_offset: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.scale, *self.mean, *self.std)))
        checks = (
            (finite, "scale, mean and std must be finite"),
            (len(self.mean) > 0 and len(self.std) > 0, "mean and std must not be empty"),
            (0.0 not in self.std, "std must not be zero"),
            (self.resize is None or 1 <= self.resize <= 8192, "resize must be 1 to 8192"),
            (self.label_offset >= 0, "label_offset must not be negative"),
            (self.batch is None or 1 <= self.batch <= 65536, "batch must be 1 to 65536"),
        )
        for holds, rule in checks:
            if not holds:
                raise InputError(f"preprocess: {rule}")

    @classmethod
    def parse(cls, spec: str | os.PathLike[str] | None) -> Preprocess:
        """Read a specification from JSON text or from a JSON file; None gives the defaults.

        Raises :class:`InputError` for a missing file, JSON that does not parse, an unknown key or
        a value of the wrong type or range.
        """
        if spec is None:
            return cls()
        text = os.fspath(spec)
        source: str | bytes = text
        where = "the preprocess text"
        if not text.lstrip().startswith("{"):
            source, where = _read(Path(text)), text
        try:
            return msgspec.json.decode(source, type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            known = ", ".join(cls.__struct_fields__)
            raise InputError(f"{where} is not usable ({error}); the keys are {known}") from None

    def apply(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Turn uint8 images [N, H, W, C] into the network's float32 input [N, C, H, W].

        Floats are features, not images: [N, C, H, W] or [N, ...], only scaled and reshaped.
        Raises :class:`DataError` if mean or std does not fit the channels, or reshape the size.
        """
        if images.dtype == np.uint8:
            if self.resize is not None:
                images = np.stack([resized(image, self.resize) for image in images])
            x = self._normalise(images[..., ::-1] if self.bgr else images)
            x = x.transpose(0, 3, 1, 2)
        else:
            if self.bgr or self.resize is not None:
                raise DataError("preprocess: bgr and resize need uint8 images, got float features")
            x = np.moveaxis(self._normalise(np.moveaxis(images, 1, -1)), -1, 1)
        if self.reshape is not None:
            try:
                x = x.reshape((len(x), *self.reshape))
            except ValueError:
                raise DataError(
                    f"preprocess: cannot reshape {list(x.shape[1:])} to {list(self.reshape)}"
                ) from None
        return np.ascontiguousarray(x, dtype=np.float32)

    def _normalise(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(x * scale - mean) / std, channels last, every step in float32."""
        channels = x.shape[-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"preprocess: {name} has {len(values)} numbers, the data {channels} channels"
                )
        scaled = x.astype(np.float32) * np.float32(self.scale)
        return (scaled - mean) / std


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The image [H, W, C] brought to [size, size, C], bilinear, as Pillow does it."""
    from PIL import Image

    plane = image[..., 0] if image.shape[-1] == 1 else image
    picture = Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(size, size, image.shape[-1])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SPEC_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"could not read the preprocess file {path}: {error.strerror}; "
            'give a JSON file or text such as {"scale": 0.0039}'
        ) from None
    if len(content) > _MAX_SPEC_BYTES:
        raise InputError(f"the preprocess file {path} is larger than {_MAX_SPEC_BYTES} bytes")
    return content
