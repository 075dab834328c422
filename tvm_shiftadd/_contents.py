"""The files of an artifact other than its library: what describes them, and reading them back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from tvm_shiftadd import _directory, manifest
from tvm_shiftadd.errors import ArtifactError
from tvm_shiftadd.manifest import FileEntry, TensorInfo

Array = NDArray[Any]


def describe(name: str, array: Array) -> TensorInfo:
    """Name, shape and type of a tensor."""
    return TensorInfo(str(name), tuple(int(d) for d in array.shape), str(array.dtype))


def entry(content: bytes) -> FileEntry:
    """What the manifest says of a file."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    """A file that must be what the manifest says; ArtifactError where it is not."""
    content = _directory.read_inside(folder, name, max(entry.bytes, 0))
    if len(content) != entry.bytes:
        raise ArtifactError(
            f"{folder / name} has {len(content)} bytes, expected {entry.bytes}: it was cut short; "
            "compile the model again"
        )
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ArtifactError(
            f"{folder / name} was altered: its SHA-256 is not the one in the manifest; "
            "compile the model again"
        )
    return content


def read_weights(content: bytes, described: Sequence[TensorInfo], folder: Path) -> dict[str, Array]:
    """The parameters in their order; ArtifactError where they are not those described."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    where = folder / manifest.WEIGHTS
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{where} is damaged ({error}); compile the model again") from None
    found = {name: describe(name, array) for name, array in tensors.items()}
    if found != {info.name: info for info in described}:
        raise ArtifactError(
            f"{where} does not hold the parameters of the manifest; compile the model again"
        )
    return {info.name: tensors[info.name] for info in described}


def read_report(content: bytes, folder: Path) -> dict[str, Any]:
    """The report; ArtifactError where it is no JSON object."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / manifest.REPORT} is damaged ({error}); compile the model again"
        ) from None
