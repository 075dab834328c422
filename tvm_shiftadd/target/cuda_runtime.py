"""Finding the GPU that runs a network, and TVM's runtime for it."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import DependencyError, DeviceError
from tvm_shiftadd.target.gpu import capability

#: The name of the function that TVM's runtime has source compiled by when it opens a library.
_COMPILE = "tvm_callback_cuda_compile"
#: A function that is there once TVM's runtime for CUDA is loaded.
_LOADED = "ffi.Module.load_from_bytes.cuda"
#: What the libraries hold instead of source.
_PTX = ".version"

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_CUDA = ("lib/libcudart.so.13", "bin/x86_64/cudart64_13.dll")
_TVM = ("libtvm_runtime_cuda.so", "tvm_runtime_cuda.dll")


def device(arch: str) -> Any:
    """The GPU that runs kernels compiled for ``arch``, as a TVM device.

    It is the first that is visible; the environment variable CUDA_VISIBLE_DEVICES chooses. Raises
    DeviceError where there is none, or an older one, and DependencyError where NVIDIA's runtime
    library is missing.
    """
    import tvm

    major, minor = capability(arch)
    needs = (
        f"this artifact needs an NVIDIA GPU of compute capability {major}.{minor} or newer; none "
        "is visible here"
    )
    if tvm.get_global_func(_LOADED, allow_missing=True) is None:
        _load(needs)
    _pass_on_ptx()
    found = tvm.cuda(0)
    if not found.exist:
        raise DeviceError(f"{needs} (the NVIDIA driver lists no device)")
    version = str(found.compute_version)
    have, _, rest = version.partition(".")
    if (int(have), int(rest)) < (major, minor):
        raise DeviceError(f"{needs} (device 0 has {version})")
    return found


def driver() -> str | None:
    """The name of the NVIDIA driver's library; None where it cannot be loaded."""
    for name in _DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def _load(needs: str) -> None:
    """Load TVM's runtime for CUDA. ``import tvm`` does where it finds CUDA's own beside it."""
    import tvm

    if driver() is None:
        raise DeviceError(f"{needs} (no NVIDIA driver: {_DRIVERS[0]} cannot be loaded)")
    for path in _wheel():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    folder = Path(tvm.__file__).parent / "lib"
    try:
        ctypes.CDLL(str(next(p for n in _TVM if (p := folder / n).exists())))
    except (OSError, StopIteration) as error:
        raise DependencyError(
            "running on a GPU needs NVIDIA's CUDA 13 runtime library, which cannot be loaded "
            f"({error}); get it by pip install 'tvm-shiftadd[cuda]'"
        ) from error


def _wheel() -> Iterator[Path]:
    """CUDA's runtime library in NVIDIA's wheel, a package without a module."""
    try:
        found = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        return
    for folder in (found.submodule_search_locations or ()) if found else ():
        yield from (path for name in _CUDA if (path := Path(folder) / name).exists())


@lru_cache(maxsize=1)
def _pass_on_ptx() -> None:
    """Have TVM's runtime hand PTX to the driver as it is; once in a process."""
    import tvm

    compiled = tvm.get_global_func(_COMPILE, allow_missing=True)

    def compile_cuda(code: str) -> Any:
        if _PTX in code.partition("{")[0]:
            return code.encode() + b"\0"  # the driver reads as far as the zero
        return compiled(code)

    tvm.register_global_func(_COMPILE, compile_cuda, override=True)
