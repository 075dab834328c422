"""Finding the GPU that runs a network, and TVM's runtime for it."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
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

#: The CUDA whose PTX the libraries hold, and the first driver that knows it.
_NEEDED, _RELEASE = (13, 0), 580

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_CUDA = ("lib/libcudart.so.13", "bin/x86_64/cudart64_13.dll")
_TVM = ("libtvm_runtime_cuda.so", "tvm_runtime_cuda.dll")


def device(arch: str) -> Any:
    """The GPU that runs kernels compiled for ``arch``, as a TVM device.

    It is the first that is visible; the environment variable CUDA_VISIBLE_DEVICES chooses. Raises
    DeviceError where there is none, or an older one, or an older driver, and DependencyError where
    NVIDIA's runtime library is missing.
    """
    import tvm

    major, minor = capability(arch)
    needs = (
        f"this artifact needs an NVIDIA GPU of compute capability {major}.{minor} or newer; none "
        "is visible here"
    )
    if tvm.get_global_func(_LOADED, allow_missing=True) is None:
        _load(needs)
    _check_driver()
    _pass_on_ptx()
    found = tvm.cuda(0)
    if not found.exist:
        raise DeviceError(f"{needs} (the NVIDIA driver lists no device)")
    version = str(found.compute_version)
    have, _, rest = version.partition(".")
    if (int(have), int(rest)) < (major, minor):
        raise DeviceError(f"{needs} (device 0 has {version})")
    return found


@contextmanager
def reported() -> Iterator[None]:
    """Raise DeviceError where TVM's runtime for CUDA fails within it."""
    try:
        yield
    except RuntimeError as error:
        # What failed and why; behind that TVM may have all of the kernels' code.
        lines = str(error).strip().splitlines()[:2]
        reason = " ".join(line.strip() for line in lines) or type(error).__name__
        raise DeviceError(
            f"the GPU broke off ({reason}); where memory is short, run fewer images at a time"
        ) from error


def _check_driver() -> None:
    """Raise DeviceError for a driver that does not read the libraries' PTX."""
    name = driver()
    if name is None:
        return  # then there is no device either
    version = ctypes.c_int()
    failed = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version))
    found = divmod(version.value, 1000)
    if failed or (found[0], found[1] // 10) < _NEEDED:
        raise DeviceError(
            f"this artifact needs an NVIDIA driver of CUDA {_NEEDED[0]}.{_NEEDED[1]} or newer, "
            f"which is release {_RELEASE} or newer; got one of CUDA {found[0]}.{found[1] // 10}"
        )


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
