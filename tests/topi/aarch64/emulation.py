"""AArch64 code under QEMU: kernels without TVM's runtime, artifacts in TVM's own."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from numpy.typing import NDArray

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.manifest import LIBRARY
from tvm_shiftadd.target.batch import SINGLE
from tvm_shiftadd.target.processor import AARCH64

Array = NDArray[Any]

HERE = Path(__file__).parent
COMPILER, EMULATOR = f"{AARCH64}-g++", "qemu-aarch64"
TOOLS = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR} (Debian: g++-aarch64-linux-gnu, qemu-user)",
)
#: DLPack's codes of element types.
CODES = {"i": 0, "u": 1, "f": 2}


def written(array: Array) -> bytes:
    """An array as ``kernels.c`` and ``network.cc`` read it."""
    kind = CODES[array.dtype.kind], 8 * array.dtype.itemsize, array.ndim
    shape = struct.pack(f"<3i{array.ndim}q", *kind, *array.shape)
    return shape + np.ascontiguousarray(array).tobytes()


def read(content: bytes) -> list[Array]:
    """What ``network.cc`` has written."""
    (count,), at, found = struct.unpack_from("<i", content), 4, []
    letters = {code: letter for letter, code in CODES.items()}
    for _ in range(count):
        code, bits, dimensions = struct.unpack_from("<3i", content, at)
        shape = struct.unpack_from(f"<{dimensions}q", content, at + 12)
        at += 12 + 8 * dimensions
        dtype = np.dtype(f"{letters[code]}{bits // 8}")
        size = int(np.prod(shape, dtype=int))
        found.append(np.frombuffer(content, dtype, size, at).reshape(shape))
        at += size * dtype.itemsize
    assert at == len(content)
    return found


def run_kernels(
    folder: Path, objects: Sequence[Path], arguments: Sequence[Sequence[Array]]
) -> list[Array]:
    """The last array of each list after the kernel of each object file was called with it.

    ``objects``: each defines one kernel, named as the file is.
    """
    names = "".join(f"KERNEL(__tvm_ffi_{path.stem})\n" for path in objects)
    (folder / "kernels.inc").write_text(names)
    include = [f"-I{folder}", f"-I{tvm_ffi.libinfo.find_include_path()}"]
    include.append(f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}")
    source = ["-x", "c", "-std=c11", "-Wall", "-Wextra", "-Werror", str(HERE / "kernels.c")]
    made = ["-static", "-o", str(folder / "kernels"), "-x", "none", *map(str, objects), "-lm"]
    _call([COMPILER, "-O1", *include, *source, *made])
    with (folder / "input").open("wb") as file:
        for arrays in arguments:
            file.write(struct.pack("<i", len(arrays)) + b"".join(map(written, arrays)))
    _emulate([], [str(folder / name) for name in ("kernels", "input", "output")])
    content, at, found = (folder / "output").read_bytes(), 0, []
    for *_, last in arguments:
        found.append(np.frombuffer(content, last.dtype, last.size, at).reshape(last.shape))
        at += last.nbytes
    assert at == len(content)
    return found


def runtime() -> Path:
    """The folder with TVM's packages for AArch64; the test is skipped where there is none."""
    named = os.environ.get("TVM_SHIFTADD_AARCH64", "")
    if not named:
        pytest.skip("needs TVM's packages for AArch64: TVM_SHIFTADD_AARCH64, see CONTRIBUTING.md")
    return Path(named)


class Runner:
    """Runs saved artifacts in TVM's virtual machine for AArch64."""

    def __init__(self, folder: Path) -> None:
        packages, self._program = runtime(), folder / "network"
        libraries = [packages / "tvm/lib/libtvm_runtime.so", packages / "tvm_ffi/lib/libtvm_ffi.so"]
        include = [f"-I{packages / 'tvm_ffi/include'}"]
        paths = [f"-Wl,-rpath,{library.parent}" for library in libraries]
        source = ["-O1", "-std=c++17", str(HERE / "network.cc"), "-o", str(self._program)]
        _call([COMPILER, *include, *source, *map(str, libraries), *paths])
        library = _call([COMPILER, "-print-file-name=libstdc++.so.6"]).strip()
        self._root = str(Path(library).resolve().parents[1])

    def __call__(self, saved: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What ``Artifact.run`` would return there, by the outputs' names."""
        artifact, folder = Artifact.load(saved), self._program.parent
        feeds = [inputs[info.name] for info in artifact.inputs]
        arrays = [*feeds, *artifact.parameters.values()]
        head = struct.pack("<2i", len(feeds), len(artifact.parameters))
        (folder / "input").write_bytes(head + b"".join(map(written, arrays)))
        single = len(feeds[0]) == 1 and artifact.inputs[0].shape[0] == -1
        names = [str(saved / LIBRARY), SINGLE if single else "main"]
        names += [str(folder / "input"), str(folder / "output")]
        _emulate(["-L", self._root], [str(self._program), *names])
        results = read((folder / "output").read_bytes())
        return dict(zip((info.name for info in artifact.outputs), results, strict=True))


def _emulate(options: Sequence[str], command: Sequence[str]) -> None:
    _call([EMULATOR, "-cpu", "max", *options, *command])


def _call(command: Sequence[str]) -> str:
    threads = {"TVM_NUM_THREADS": "2", "TVM_BIND_THREADS": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | threads
    )
    assert done.returncode == 0, done.stderr or done.returncode
    return done.stdout
