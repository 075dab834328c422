"""Images that stay compressed in a folder or a zip file until a batch needs them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.data.preprocess import resized
from tvm_shiftadd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

#: A picture file larger than this, or with more pixels, is refused before it is decoded.
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 64 << 20

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"P", "RGB", "RGBA", "CMYK", "YCbCr", "LA"})

#: A larger member whose claim is more than this many times its packed size is refused. Pictures
#: and features come nowhere near it; what does is made of one byte, repeated.
MAX_RATIO = 200
_SMALL = 64 << 20

#: Opens the store and gives a function from a picture's name to its bytes.
Store = Callable[[], AbstractContextManager[Callable[[str], bytes]]]


@dataclass(frozen=True)
class Pictures:
    """Picture files of one store; grey (one channel) if all of them are, else RGB."""

    where: str
    names: tuple[str, ...]
    store: Store
    size: tuple[int, int] | None
    grey: bool

    @classmethod
    def scan(
        cls, where: str, names: Sequence[str], store: Store, size: tuple[int, int] | None
    ) -> Pictures:
        """Read every picture's header.

        Raises :class:`DataError` for one that is no picture, is too large, or, where no
        ``size`` is set, has another size than the first.
        """
        grey, first = True, None
        with store() as read:
            for name in names:
                with _opened(where, name, read(name)) as picture:
                    grey = grey and picture.mode in _GREY
                    first = first or (name, picture.size)
                    if size is None and picture.size != first[1]:
                        raise DataError(
                            f"{where}: {name} is {_size(picture.size)} but {first[0]} is "
                            f"{_size(first[1])}; make them one size or set resize"
                        )
        return cls(where, tuple(names), store, size, grey)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, part: slice) -> Pictures:
        """A consecutive part, in order."""
        return replace(self, names=self.names[part])

    def decode(self) -> NDArray[np.uint8]:
        """All pictures as uint8 [N, H, W, C], C = 1 or 3."""
        with self.store() as read:
            return np.stack([self._decode(name, read(name)) for name in self.names])

    def digest(self) -> bytes:
        """SHA-256 of the names and the compressed bytes."""
        digest = hashlib.sha256()
        with self.store() as read:
            for name in self.names:
                digest.update(hashlib.sha256(name.encode()).digest())
                digest.update(hashlib.sha256(read(name)).digest())
        return digest.digest()

    def _decode(self, name: str, content: bytes) -> NDArray[np.uint8]:
        with _opened(self.where, name, content) as picture:
            try:
                pixels = np.asarray(picture.convert("L" if self.grey else "RGB"))
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{self.where}: {name} is damaged ({error})") from None
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return pixels if self.size is None else resized(pixels, self.size)


def folder_store(folder: Path) -> Store:
    """Pictures as files of ``folder``."""

    @contextmanager
    def store() -> Iterator[Callable[[str], bytes]]:
        yield lambda name: _read_file(folder / name)

    return store


def zip_store(path: Path) -> Store:
    """Pictures as members of the zip file ``path``; nothing is extracted to the disk."""

    @contextmanager
    def store() -> Iterator[Callable[[str], bytes]]:
        with open_zip(path) as archive:
            yield lambda name: read_member(archive, name, str(path), MAX_FILE_BYTES)

    return store


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file; raises :class:`DataError` if it is missing or damaged."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable zip file ({_words(error)})") from None
    with archive:
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, where: str, limit: int) -> bytes:
    """The bytes of one member, at most ``limit``: what it claims is checked before it is read."""
    try:
        info = archive.getinfo(name)
        size = info.file_size
        if size > limit:
            raise DataError(f"{where}: {name} claims {size} bytes, at most {limit} are accepted")
        if size > _SMALL and size > MAX_RATIO * info.compress_size:
            raise DataError(
                f"{where}: {name} claims {size} bytes packed into {info.compress_size}; save it "
                "without compression if that is right"
            )
        with archive.open(name) as member:
            return _read_bounded(member, size)
    except KeyError:
        raise DataError(f"{where} has no member {name}") from None
    except DataError:
        raise
    except Exception as error:  # zipfile raises nearly anything for damaged members
        raise DataError(f"{where}: {name} is damaged ({_words(error)})") from None


def _read_bounded(member: IO[bytes], size: int) -> bytes:
    content = member.read(size)
    if len(content) != size:
        raise EOFError(f"{len(content)} bytes instead of {size}")
    # The checksum is compared when the end is reached.
    member.read(1)
    return content


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"could not read {path}: {_words(error)}") from None


@contextmanager
def _opened(where: str, name: str, content: bytes) -> Iterator[Image]:
    """The picture with its header read and its pixels still packed."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise DataError(f"{where}: {name} is not a readable picture") from None
    except Image.DecompressionBombError:
        raise DataError(f"{where}: {name} has too many pixels") from None
    with picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(
                f"{where}: {name} is {_size(picture.size)}, at most "
                f"{MAX_PIXELS} pixels are accepted"
            )
        if picture.mode not in _GREY | _COLOUR:
            raise DataError(
                f"{where}: {name} has pixels of mode {picture.mode}; save it with 8 bits a channel"
            )
        yield picture


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _words(error: BaseException) -> str:
    text: Any = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
