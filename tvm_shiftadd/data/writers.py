"""Writing arrays to a file, whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tvm_shiftadd._directory import whole_file
from tvm_shiftadd.errors import DataError


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file by way of a hidden sibling, which is renamed when it is complete.

    Raises :class:`DataError` if the file system refuses; an existing file is then left as it was.
    """
    target = Path(path)
    if target.is_dir():
        raise DataError(f"{target} is a directory; name an .npz file")
    try:
        with whole_file(target) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            # Not numpy.savez: it takes the names as keywords, and "file" is one of its own.
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, np.asanyarray(array), allow_pickle=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"could not write {target}: {reason}; an existing file was left as it was"
        ) from error
