"""CUDA's runtime on the CPU: kernels as TVM generates them, compiled by the C++ compiler.

Within ``emulated`` the device ``tvm.cuda()`` is the CPU's memory, and a CUDA module is made of its
kernels' source (by ``machine.h``) instead of being handed to a driver. All else is what runs on
a GPU: the same host code, launches, virtual machine and generated kernels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tvm
import tvm_ffi

from tests.cuda.guarded import GuardedTensor
from tvm_shiftadd.target import CUDATarget, cuda, cuda_runtime, nvrtc

HERE = Path(__file__).parent
ORDERS = ("forward", "backward", "random")
#: When asynchronous copies are made: when they are waited for, or at once.
COPIES = ("late", "early")

_CREATE = "ffi.Module.create.cuda"
_ORDER, _COPIES = "CUDA_MACHINE_ORDER", "CUDA_MACHINE_COPIES"
#: What stands in ``assembly.h`` instead: functions of one PTX instruction.
_INSTRUCTION = re.compile(r"^.*__forceinline__ \w+ shiftadd_asm_\w+\(.*\basm\b.*\n", re.M)
#: Accesses have to be aligned as their types, and to stay within arrays.
_CHECKS = "-fsanitize=alignment,bounds,object-size"
_HEADER = re.compile(r"#include <(?:cuda|mma|sm_61_intrinsics|math_constants)\.h>")
_ALIGNED = re.compile(r"alignas\((\d+)\)")
#: Kernels without one of these do not wait: their threads need no stacks of their own.
_WAITS = re.compile(r"sync|barrier|mma|ldmatrix|cp_async|asm")
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(')
_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(\w+(?: \w+)?) (\w+)\[\];")
_EXTENTS = {
    f"{a}Idx.{d}": f"{b}.{d}" for a, b in (("block", "grid"), ("thread", "block")) for d in "xyz"
}


@contextmanager
def emulated(order: str = "forward", rewrite: Callable[[str], str] = str) -> Iterator[None]:
    """Let ``tvm.cuda()`` be emulated; threads run in ``order`` between barriers.

    ``rewrite`` may change the source of kernels before it is compiled.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    if tvm.get_global_func("ffi.Module.load_from_bytes.cuda", allow_missing=True):
        pytest.skip("CUDA's own runtime is loaded")
    with tempfile.TemporaryDirectory(prefix="cuda-machine-") as folder:
        made = 0

        def create(source: bytes, _format: str, functions: dict, _sources: dict) -> tvm_ffi.Module:
            nonlocal made
            made += 1
            library = Path(folder) / f"kernels{made}.so"
            _compile(compiler, rewrite(bytes(source).decode()), functions, library)
            return tvm.runtime.load_module(str(library))

        tvm.register_global_func(_CREATE, create, override=True)
        # The CPU's functions for memory do not look at which device they are asked for.
        memory = tvm.get_global_func("device_api.cpu")
        tvm.register_global_func("device_api.cuda", lambda: memory(), override=True)
        try:
            with (
                mock.patch.dict(os.environ, {_ORDER: order}),
                mock.patch.object(nvrtc, "check"),
                mock.patch.object(nvrtc, "compile_source", lambda source, arch: source),
                mock.patch.object(cuda_runtime, "device", lambda arch: tvm.cuda()),
            ):
                yield
        finally:
            tvm_ffi.registry.remove_global_func(_CREATE)


def copies_made(when: str) -> Any:
    """Within it, emulated kernels' asynchronous copies are made ``when`` ``COPIES`` says."""
    return mock.patch.dict(os.environ, {_COPIES: when})


def _compile(compiler: str, source: str, functions: dict, library: Path) -> None:
    """Write a library with a function of TVM's calling convention for each kernel."""
    text = _INSTRUCTION.sub("", _ALIGNED.sub(r"__align__(\1)", _HEADER.sub("", source)))
    text = _DYNAMIC.sub(r"\1* \2 = (\1*)machine::dynamic_shared;", text)
    kernels = "\n".join(
        _entry(str(name), [str(tag) for tag in info.launch_param_tags], len(info.arg_types), text)
        for name, info in functions.items()
    )
    path = library.with_suffix(".cpp")
    path.write_text(f'#include "machine.h"\n{text}\n{kernels}\n', encoding="utf-8")
    options = "-O1 -fPIC -std=c++17 -w -fno-strict-aliasing -fwrapv -U_FORTIFY_SOURCE"
    include = tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()
    made = library.with_suffix(".o")
    compile_only = [*options.split(), _CHECKS, *(f"-I{folder}" for folder in (HERE, *include))]
    # Linked apart from that: machine.h has what the checks call, and no other library is needed.
    for arguments in ([*compile_only, "-c", path, "-o", made], ["-shared", made, "-o", library]):
        command = [compiler, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]


def _entry(name: str, tags: list[str], arguments: int, source: str) -> str:
    settings = []
    for index, tag in enumerate(tags, arguments):
        field = _EXTENTS.get(tag, "shared")
        settings.append(f"launch.{field} = args[{index}].v_int64;")
    shared = source[: source.index('extern "C"')]
    waits = "true" if _WAITS.search(shared + _body(name, source)) else "false"
    return f"""
extern "C" __attribute__((visibility("default"))) int __tvm_ffi_{name}(
    void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {{
  machine::Launch launch;
  {" ".join(settings)}
  result->type_index = kTVMFFINone;
  return machine::run("{name}", launch, {waits}, [](void* given) {{
    machine::invoke({name}, static_cast<const TVMFFIAny*>(given)); }}, (void*)args);
}}"""


def _body(name: str, source: str) -> str:
    """The definition of a kernel, to where the next one begins."""
    starts = list(_KERNEL.finditer(source))
    mine = [i for i, match in enumerate(starts) if match[1] == name][-1]
    end = starts[mine + 1].start() if mine + 1 < len(starts) else len(source)
    return source[starts[mine].start() : end]


def run_function(func: tvm.tirx.PrimFunc, *arrays: np.ndarray, arch: str = "sm_80") -> None:
    """Compile a scheduled function within ``emulated`` and call it; it writes into the arrays.

    Each array is where the memory that may be touched ends. Raises RuntimeError where a kernel goes
    on behind it.
    """
    built = cuda.build_function(func, CUDATarget(arch=arch))
    with ExitStack() as stack:
        tensors = [GuardedTensor(array, stack) for array in arrays]
        built["main"](*(tvm.runtime.from_dlpack(tensor) for tensor in tensors))
        for array, tensor in zip(arrays, tensors, strict=True):
            array[...] = tensor.array
