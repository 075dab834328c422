"""CUDA's own compiler as a library: NVRTC, from NVIDIA's wheel, by its C interface.

It needs neither a GPU, a driver nor the CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import CompileError, DependencyError

#: How to get it. A later release would make PTX that the drivers of CUDA 13.0 do not read.
INSTALL = "pip install 'tvm-shiftadd[cuda]'"

#: Where the wheel puts the library, below its package, on Linux and on Windows.
_LIBRARIES = ("lib/libnvrtc.so.13", "bin/x86_64/nvrtc64_130_0.dll")

# What TVM's sources ask of the toolkit's headers, which the wheel does not have.
_HEADERS = {
    # Its functions are known to the compiler without it.
    b"sm_61_intrinsics.h": b"",
    b"cuda/std/cstdint": b"""
namespace cuda { namespace std {
using int8_t = signed char; using uint8_t = unsigned char;
using int16_t = short; using uint16_t = unsigned short;
using int32_t = int; using uint32_t = unsigned int;
using int64_t = long long; using uint64_t = unsigned long long;
} }
""",
    b"cuda/std/type_traits": b"""
namespace cuda { namespace std {
template <class A, class B> struct is_same { static constexpr bool value = false; };
template <class A> struct is_same<A, A> { static constexpr bool value = true; };
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <bool, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T, class F> struct conditional { using type = T; };
template <class T, class F> struct conditional<false, T, F> { using type = F; };
template <class T> struct is_integral { static constexpr bool value = T(1) / 2 == 0; };
template <class T> struct is_floating_point { static constexpr bool value = T(1) / 2 != 0; };
template <class T> struct is_signed { static constexpr bool value = T(-1) < T(0); };
template <class T> struct is_unsigned { static constexpr bool value = T(0) < T(-1); };
} }
""",
}


def available() -> bool:
    """Whether the library is installed."""
    return _path() is not None


def check(arch: str) -> None:
    """Raise DependencyError without NVRTC, and CompileError where it does not know ``arch``."""
    known = architectures()
    if arch not in known:
        raise CompileError(f"NVRTC makes code for {', '.join(known)}, not for {arch}")


def architectures() -> tuple[str, ...]:
    """The GPUs that NVRTC makes code for, "sm_75" and newer; raises DependencyError."""
    library, count = _library(), ctypes.c_int()
    _check(library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "count architectures")
    found = (ctypes.c_int * count.value)()
    _check(library.nvrtcGetSupportedArchs(found), "list architectures")
    return tuple(f"sm_{number}" for number in found)


def compile_source(source: str, arch: str) -> str:
    """CUDA C++ as PTX, the GPU assembly that a driver translates for its own GPU.

    ``arch``: "sm_80". The code is also assembled for that GPU, so that what its assembler refuses
    is found here. Raises CompileError with the compiler's first complaint, and DependencyError
    where NVRTC is not installed.
    """
    library = _library()
    program = ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program),
            source.encode(),
            b"kernels.cu",
            len(_HEADERS),
            _texts(list(_HEADERS.values())),
            _texts(list(_HEADERS)),
        ),
        "start",
    )
    try:
        # A product and a sum of floats are rounded each, as on the CPU.
        options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "--fmad=false"]
        failed = library.nvrtcCompileProgram(
            program, len(options), _texts([option.encode() for option in options])
        )
        if failed:
            log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            lines = [line for line in log.splitlines() if "error" in line] or [f"code {failed}"]
            raise CompileError(f"NVRTC could not compile kernels for {arch}: {lines[0].strip()}")
        return _text(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _texts(values: Sequence[bytes]) -> Any:
    return (ctypes.c_char_p * len(values))(*values)


def _text(size: Any, get: Any, program: Any) -> str:
    """What NVRTC hands out in two calls, its size and its bytes, less the zero at the end."""
    length = ctypes.c_size_t()
    _check(size(program, ctypes.byref(length)), "give the size of its result")
    buffer = ctypes.create_string_buffer(length.value)
    _check(get(program, buffer), "give its result")
    return buffer.value.decode()


def _check(code: int, what: str) -> None:
    if code:
        raise CompileError(f"NVRTC could not {what}: it returned code {code}")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    path = _path()
    if path is None:
        raise DependencyError(
            "compiling for a GPU needs NVIDIA's compiler NVRTC 13.0, which is not installed; "
            f"get it by {INSTALL}"
        )
    # NVRTC asks the loader for this one by its name alone, which finds what is loaded already.
    for builtins in sorted(path.parent.glob("*nvrtc-builtins*[0-9]*")):
        if ".alt" not in builtins.name:
            ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))


def _path() -> Path | None:
    """The library in NVIDIA's wheel, which is a package without a module."""
    try:
        found = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        return None
    folders = (found.submodule_search_locations or ()) if found else ()
    candidates = (Path(folder) / name for folder in folders for name in _LIBRARIES)
    return next((path for path in candidates if path.exists()), None)
