"""Arrays that commands hand to an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tvm_shiftadd.artifact import Artifact


def read(artifact: Artifact, path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by the names of the artifact's inputs; raises DataError."""
    from tvm_shiftadd.data import read_arrays

    feeds = read_arrays(path)
    if len(feeds) == 1 and len(artifact.inputs) == 1:
        # A single array needs no name.
        return {artifact.inputs[0].name: next(iter(feeds.values()))}
    return feeds
