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

    - ``resize``: height and width in pixels, or one number for both, bilinear; None leaves the size
    - ``grey``: luminance alone (Y of YCbCr, ITU-R BT.601), for networks with one input channel
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
    grey: bool = False
    resize: int | tuple[int, int] | None = None
    reshape: tuple[int, ...] | None = None
    label_offset: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.scale, *self.mean, *self.std)))
        checks = (
            (finite, "scale, mean and std must be finite"),
            (len(self.mean) > 0 and len(self.std) > 0, "mean and std must not be empty"),
            (0.0 not in np.asarray(self.std, np.float32), "std must not be zero"),
            (all(1 <= side <= 8192 for side in self.size or ()), "resize must be 1 to 8192"),
            (not (self.grey and self.bgr), "grey leaves no channels for bgr to reverse"),
            (self.label_offset >= 0, "label_offset must not be negative"),
            (self.batch is None or 1 <= self.batch <= 65536, "batch must be 1 to 65536"),
        )
        for holds, rule in checks:
            if not holds:
                raise InputError(f"preprocess: {rule}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that ``resize`` asks for."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

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
            if self.size is not None:
                images = np.stack([resized(image, self.size) for image in images])
            if self.grey and images.shape[-1] == 3:
                images = np.stack([_luminance(image) for image in images])
            x = self._normalise(images[..., ::-1] if self.bgr else images)
            x = x.transpose(0, 3, 1, 2)
        else:
            if self.bgr or self.grey or self.resize is not None:
                raise DataError(
                    "preprocess: bgr, grey and resize need uint8 images, got float features"
                )
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


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image [H, W, C] brought to [*size, C], bilinear, as Pillow does it."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    height, width = size
    plane = image[..., 0] if image.shape[-1] == 1 else image
    picture = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, image.shape[-1])


def _luminance(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Y [H, W, 1] of an RGB image [H, W, 3], as Pillow does it."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


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
