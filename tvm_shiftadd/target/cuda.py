"""Compiling a Relax module of dialect and float host operators for an NVIDIA GPU.

No GPU is needed for it. TVM writes CUDA C++, NVRTC makes PTX of that, and the PTX becomes part of
the library that starts the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import tvm
import tvm_ffi

from tvm_shiftadd._compat import register_error, relax
from tvm_shiftadd.errors import CompileError, DependencyError
from tvm_shiftadd.target import cpu, nvrtc
from tvm_shiftadd.target.calls import CallRecord
from tvm_shiftadd.target.code import code_of
from tvm_shiftadd.target.gpu import CUDATarget
from tvm_shiftadd.target.lowering import lowering
from tvm_shiftadd.topi.schedules.cuda.generic import schedule_function
from tvm_shiftadd.topi.schedules.cuda.graph import FuseLayers
from tvm_shiftadd.topi.schedules.cuda.workload import Choices

#: Makes of CUDA C++ for an architecture what the library is to hold.
Compile = Callable[[str, str], str]

#: TVM hands the source to the function of this name and keeps what it returns.
_POSTPROCESS = "tvm_callback_cuda_postproc"
# Raised by NVRTC under TVM's C++ code, which would turn them into RuntimeError.
for _error in (CompileError, DependencyError):
    register_error(_error)

#: The function is the process's; a build of another thread must not find ours.
_building = RLock()


def tvm_target(target: CUDATarget) -> tvm.target.Target:
    """TVM's target of a CUDATarget; raises what ``cpu.tvm_target`` does of its host."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.arch,
            # What every GPU since compute capability 7.5 has.
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 << 10,
            "thread_warp_size": 32,
        }
    ).with_host(cpu.tvm_target(target.host))


def check(target: CUDATarget) -> None:
    """Raise DependencyError where NVRTC is missing, CompileError where it does not know the GPU."""
    nvrtc.check(target.arch)


def build(
    mod: tvm.IRModule,
    target: CUDATarget,
    *,
    data_inputs: int | None = None,
    record: CallRecord | None = None,
    compiler: Compile | None = None,
    choices: Choices | None = None,
) -> Any:
    """Compile a module whose functions call dialect and float Relax operators.

    Returns a ``relax.VMExecutable``, as ``cpu.build`` does, which see for ``data_inputs`` and
    ``record``. ``compiler`` makes PTX of the kernels' source; None is NVRTC. ``choices`` has tuned
    parameters of kernels, and takes down what was chosen for each.

    Raises CompileError where TVM or NVRTC cannot build for the target, DependencyError where NVRTC
    is missing, and VerificationError where a kernel of real shifts multiplies data.
    """
    resolved = tvm_target(target)
    if data_inputs is not None:
        mod = mod.clone()
        mod["main"] = mod["main"].with_attr("num_input", data_inputs)
    pipeline = lowering(
        {},
        schedule_function,
        fuse=FuseLayers(target.level, choices) if target.kernels == "auto" else None,
        record=record,
        data_inputs=data_inputs,
    )
    try:
        with (
            _compiled_by(compiler or nvrtc.compile_source, target.arch),
            resolved,
            tvm.transform.PassContext(opt_level=3),
        ):
            return relax.build(mod, resolved, relax_pipeline=pipeline)
    except (RuntimeError, ValueError) as error:  # ValueError: of an expression that TVM folds
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(f"TVM could not compile for {target.arch}: {reason}") from error


def build_function(func: Any, target: CUDATarget) -> Any:
    """A scheduled PrimFunc as a TVM module whose function ``main`` launches it.

    Raises what ``build`` does.
    """
    return _build_function(func, target, nvrtc.compile_source)


def code(executable: Any) -> str:
    """The PTX of the kernels of an executable that ``build`` returned."""
    return code_of(executable.mod, "cuda")


def source(func: Any, target: CUDATarget) -> str:
    """The CUDA C++ of a scheduled PrimFunc; NVRTC is not needed for it."""
    return code_of(_build_function(func, target, lambda text, _arch: text), "cuda")


def _build_function(func: Any, target: CUDATarget, compiler: Compile) -> Any:
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with _compiled_by(compiler, target.arch):
        return tvm.tirx.build(module, target=tvm_target(target))


@contextmanager
def _compiled_by(compiler: Compile, arch: str) -> Iterator[None]:
    """Within it, TVM has the sources of kernels compiled by ``compiler``."""
    with _building:
        before = tvm.get_global_func(_POSTPROCESS, allow_missing=True)

        def postprocess(source: str, _target: Any) -> str:
            return compiler(str(source), arch)

        tvm.register_global_func(_POSTPROCESS, postprocess, override=True)
        try:
            yield
        finally:
            if before is None:
                tvm_ffi.registry.remove_global_func(_POSTPROCESS)
            else:
                tvm.register_global_func(_POSTPROCESS, before, override=True)
