"""Read a checkpoint file into named float arrays, and refuse what could do harm on the way.

A ``.pth`` file is a pickle, which can name any function to call. It is read with PyTorch's
restricted reader (``weights_only=True``) and in no other way: what that refuses is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers._common import import_torch, one_line_errors

#: Endings of checkpoint files. ``.tar`` is the habit of naming one ``model.pth.tar``.
SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".pkl", ".t7", ".safetensors")

#: The largest file that is read, in bytes: 1,000 times a ResNet-20, 40 times a ResNet-50.
MAX_BYTES = 4 << 30

#: Keys under which training scripts keep the weights, the first found is taken.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "weights")

#: Prefixes that wrappers add to every key.
_WRAPPERS = ("module.", "_orig_mod.")

#: A stored (uncompressed) archive is a little larger than its members.
_ARCHIVE_SLACK = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """``tensors``: float32 arrays by key, wrappers' prefixes taken off; ``label``: the file."""

    tensors: Mapping[str, NDArray[np.float32]]
    sha256: str
    label: str


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of a checkpoint."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the weights of a checkpoint.

    Raises:
        ModelError: missing, too large, damaged, of a format not handled, holding something
            other than tensors in plain containers, or weights that are not finite.
        DependencyError: PyTorch is not installed (a ``.safetensors`` file does without it).
    """
    path = Path(path)
    label = f"'{path.name}'"
    _check_file(path)
    with one_line_errors(label):
        if path.suffix.lower() == ".safetensors":
            tensors = _read_safetensors(path)
        else:
            _check_archive(path)
            tensors = _read_torch(path, label)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Checkpoint(_unwrapped(tensors), digest, label)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"No model at '{path}': check the path.")
    if not path.is_file():
        raise ModelError(f"Expected a checkpoint file, but '{path}' is a directory.")
    if path.suffix.lower() == ".t7":
        raise ModelError(
            f"'{path.name}' is in the format of Lua Torch, which is not read: save its weights as "
            "a .safetensors file."
        )
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"'{path.name}' is empty: expected a checkpoint.")
    if size > MAX_BYTES:
        raise ModelError(
            f"'{path.name}' has {size} bytes, but at most {MAX_BYTES} are read: save the weights "
            "alone, without the optimizer's state."
        )


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: PyTorch stores, it never compresses."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    size = path.stat().st_size
    if unpacked > size + _ARCHIVE_SLACK:
        raise ModelError(
            f"'{path.name}' has {size} bytes but would unpack to {unpacked}: it is no checkpoint "
            "that PyTorch wrote."
        )


def _read_torch(path: Path, label: str) -> dict[str, NDArray[np.float32]]:
    torch = import_torch(f"read {label}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(_refusal(label, error)) from None
    limit = path.stat().st_size
    return {
        key: _array(key, value, limit, torch)
        for key, value in _state_dict(stored, torch, label).items()
        if value.is_floating_point()
    }


def _refusal(label: str, error: Exception) -> str:
    """One sentence for whatever the restricted reader raised."""
    reason = str(error).lower()
    if any(word in reason for word in ("unsupported global", "unsupported class", "torchscript")):
        return (
            f"{label} holds objects and not only weights, and reading them would run code of the "
            "file: save model.state_dict() instead."
        )
    return (
        f"{label} cannot be read as a checkpoint: it is damaged, or holds more than "
        "tensors; save model.state_dict() again."
    )


def _state_dict(stored: Any, torch: Any, label: str) -> dict[str, Any]:
    """The tensors of a state dict, which may lie in a training script's container."""
    candidates = [stored]
    if isinstance(stored, Mapping):
        candidates = [*(stored[name] for name in _CONTAINERS if name in stored), stored]
    for candidate in candidates:
        if isinstance(candidate, Mapping):
            tensors = {
                str(key): value
                for key, value in candidate.items()
                if isinstance(value, torch.Tensor)
            }
            if tensors:
                return tensors
    raise ModelError(
        f"{label} holds no weights: expected a state dict, or a dict with one under "
        f"{', '.join(_CONTAINERS)}."
    )


def _array(key: str, tensor: Any, limit: int, torch: Any) -> NDArray[np.float32]:
    """A tensor's values. A stride of zero could make them any number of times the file."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise ModelError(f"Tensor '{key}' is sparse or quantised: save it as a dense float tensor.")
    if tensor.numel() * tensor.element_size() > limit:
        raise ModelError(
            f"Tensor '{key}' claims the shape {list(tensor.shape)}, more than the file holds: it "
            "is damaged."
        )
    return _checked(key, tensor.detach().to(torch.float32).contiguous().numpy())


def _checked(key: str, values: NDArray[Any]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "infinite values"
        raise ModelError(
            f"Tensor '{key}' holds {what}: expected finite weights; use a sound checkpoint."
        )
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise ModelError(f"Tensor '{key}' does not fit float32: use a sound checkpoint.")
    return result


def _read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"'{path.name}' is not a sound .safetensors file: {error}.") from None
    floats = {key: value for key, value in tensors.items() if value.dtype.kind == "f"}
    if not floats:
        raise ModelError(f"'{path.name}' holds no weights: expected float tensors.")
    return {key: _checked(key, value) for key, value in floats.items()}


def _unwrapped(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tensors under keys without a prefix that all of them share."""
    result = dict(tensors)
    with contextlib.suppress(StopIteration):
        while True:
            prefix = next(p for p in _WRAPPERS if all(key.startswith(p) for key in result))
            result = {key[len(prefix) :]: value for key, value in result.items()}
    return result
