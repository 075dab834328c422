"""Opening a data set: .npz, idx pairs, a zip of pictures, a folder of pictures."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tvm_shiftadd.data.dataset import Dataset
from tvm_shiftadd.data.pictures import (
    Pictures,
    folder_store,
    open_zip,
    read_member,
    zip_store,
)
from tvm_shiftadd.data.preprocess import Preprocess
from tvm_shiftadd.errors import DataError

#: An .npz or idx file whose arrays claim more than this is refused before they are read.
MAX_ARRAY_BYTES = 8 << 30
_MAX_CSV_BYTES = 64 << 20
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_LABELS = "labels.csv"


def open_dataset(path: str | os.PathLike[str], preprocess: Preprocess | None = None) -> Dataset:
    """Open a data set; pictures are decoded later, batch by batch.

    ``path`` is one of

    - ``.npz`` with ``images`` (uint8 [N, H, W, C]) or ``features`` (float [N, ...]), and
      ``labels`` (integers [N]) if known
    - ``*images-idx3-ubyte.gz``; the labels are read from ``*labels-idx1-ubyte.gz`` beside it
    - ``.zip`` of pictures, with ``labels.csv`` (columns file, class_index) if they are labelled
    - a folder of pictures, with ``labels.csv`` if they are labelled; else in order of their names

    Raises :class:`DataError` for anything else, and for damaged, empty or oversized data.
    """
    file = Path(path)
    chosen = preprocess or Preprocess()
    if file.is_dir():
        return _open_folder(file, chosen)
    if not file.is_file():
        raise DataError(f"{file} does not exist; give an .npz, idx .gz or .zip file, or a folder")
    if file.suffix == ".npz":
        return _open_npz(file, chosen)
    if file.suffix == ".zip":
        return _open_zip(file, chosen)
    if file.suffix == ".gz":
        return _open_idx(file, chosen)
    raise DataError(
        f"{file} has an unknown ending; give an .npz, idx .gz or .zip file, or a folder of pictures"
    )


def _open_npz(path: Path, preprocess: Preprocess) -> Dataset:
    with open_zip(path) as archive:
        keys = {name[:-4] for name in archive.namelist() if name.endswith(".npy")}
        key = next((k for k in ("images", "features") if k in keys), None)
        if key is None:
            found = ", ".join(sorted(keys)) or "nothing"
            raise DataError(f"{path} must hold images or features, but holds {found}")
        wanted = [key, "labels"] if "labels" in keys else [key]
        arrays = _read_members(archive, wanted, str(path))
    images, labels = arrays[key], arrays.get("labels")
    if images.dtype != np.uint8 and key == "images":
        raise DataError(f"{path}: images must be uint8, got {images.dtype}; call floats features")
    return Dataset(images, labels, preprocess, name=str(path))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Every array of an .npz file by name; raises :class:`DataError` if there is none."""
    file = Path(path)
    with open_zip(file) as archive:
        keys = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
        arrays = _read_members(archive, keys, str(file))
    if not arrays:
        raise DataError(f"{file} holds no arrays; write it with numpy.savez")
    return arrays


def _read_members(archive: ZipFile, keys: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz, together at most MAX_ARRAY_BYTES."""
    arrays: dict[str, NDArray[Any]] = {}
    left = MAX_ARRAY_BYTES
    for key in keys:
        arrays[key] = _read_array(archive, key, where, left)
        left -= arrays[key].nbytes
    return arrays


def _read_array(archive: ZipFile, key: str, where: str, limit: int) -> NDArray[Any]:
    """One array of an .npz, its header checked against the member's size; never unpickled."""
    content = read_member(archive, f"{key}.npy", where, limit)
    stream = io.BytesIO(content)
    shape, fortran, dtype = _read_header(stream, f"{where}: {key}")
    size = math.prod(shape) * dtype.itemsize
    if stream.tell() + size != len(content):
        raise DataError(
            f"{where}: {key} claims {list(shape)} {dtype}, which is {size} bytes, "
            f"but has {len(content) - stream.tell()}"
        )
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_header(stream: io.BytesIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type that an array's header claims; NumPy itself takes any literal."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # the header is read as a literal, which raises nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{what} is not a readable array ({reason})") from None
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects; save plain numbers")
    # An element of no bytes would allow any shape at all.
    if dtype.itemsize == 0 or any(type(size) is not int or size < 0 for size in shape):
        raise DataError(f"{what} claims the impossible shape {shape} {dtype}"[:200])
    # Zero elements, too, must have a shape that NumPy can hold.
    if len(shape) > 32 or math.prod(max(size, 1) for size in shape) > MAX_ARRAY_BYTES:
        raise DataError(f"{what} claims more than {MAX_ARRAY_BYTES} elements or 32 axes")
    return shape, bool(fortran), dtype


def _open_idx(path: Path, preprocess: Preprocess) -> Dataset:
    images = _read_idx(path, 3)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = _read_idx(beside, 1) if beside != path and beside.is_file() else None
    return Dataset(images, labels, preprocess, name=str(path))


def _read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """A gzip-compressed idx file of unsigned bytes with ``rank`` dimensions."""
    try:
        with gzip.open(path) as file:
            magic, *shape = struct.unpack(f">{rank + 1}I", file.read(4 * (rank + 1)))
            if magic != 0x800 | rank:
                raise DataError(f"{path} is not an idx{rank} file of unsigned bytes")
            size = math.prod(shape)
            if size > MAX_ARRAY_BYTES:
                raise DataError(
                    f"{path} claims {size} bytes, at most {MAX_ARRAY_BYTES} are accepted"
                )
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is not a readable idx .gz file ({error})") from None
    if len(content) != size:
        raise DataError(f"{path} claims {list(shape)}, which is {size} bytes, but has other data")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _open_zip(path: Path, preprocess: Preprocess) -> Dataset:
    with open_zip(path) as archive:
        names = archive.namelist()
        table = (
            read_member(archive, _LABELS, str(path), _MAX_CSV_BYTES) if _LABELS in names else None
        )
    store = zip_store(path)
    return _open_pictures(str(path), names, table, store, preprocess)


def _open_folder(folder: Path, preprocess: Preprocess) -> Dataset:
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    table = (folder / _LABELS).read_bytes() if _LABELS in names else None
    return _open_pictures(str(folder), names, table, folder_store(folder), preprocess)


def _open_pictures(
    where: str, names: list[str], table: bytes | None, store: Any, preprocess: Preprocess
) -> Dataset:
    if table is not None:
        files, labels = _read_labels(table, where)
        missing = sorted(set(files) - set(names))
        if missing:
            raise DataError(f"{where}: {_LABELS} names {missing[0]}, which is not there")
    else:
        files = sorted(n for n in names if Path(n).suffix.lower() in _SUFFIXES)
        labels = None
    if not files:
        raise DataError(f"{where} holds no pictures; expected .jpg, .png, .bmp or .webp files")
    pictures = Pictures.scan(where, files, store, preprocess.size)
    return Dataset(pictures, labels, preprocess, name=where)


def _read_labels(table: bytes, where: str) -> tuple[list[str], NDArray[np.int64]]:
    """Files and class indices of labels.csv, in its order."""
    try:
        rows = list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))
        files = [row["file"] for row in rows]
        labels = np.array([int(row["class_index"]) for row in rows], np.int64)
    except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{where}: {_LABELS} must have the columns file and class_index, with integers "
            f"({type(error).__name__}: {error})"
        ) from None
    return files, labels
