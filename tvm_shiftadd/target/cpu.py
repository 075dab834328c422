"""Compiling a Relax module of dialect and float host operators for the CPU."""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm.target import codegen

from tvm_shiftadd._compat import relax
from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd.errors import CompileError
from tvm_shiftadd.target import CPUTarget
from tvm_shiftadd.target.calls import CallRecord
from tvm_shiftadd.target.code import code_of
from tvm_shiftadd.target.lowering import lowering
from tvm_shiftadd.target.processor import AARCH64, gnu_triple
from tvm_shiftadd.topi.schedules.cpu import schedule_function
from tvm_shiftadd.topi.schedules.cpu.dot.graph import FuseLayers
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.sets import choose
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices
from tvm_shiftadd.topi.schedules.cpu.legalize import legalize_map

#: 16-bit elements of a vector register, by the feature that brings it, widest first.
_LANES = {"avx512bw": 32, "avx2": 16}
_BASELINE_LANES = 8
_BASELINES = {"x86_64": "x86-64-v3"}


def tvm_target(target: CPUTarget) -> tvm.target.Target:
    """TVM's target of a CPUTarget.

    For "host" without the vector instructions that this system does not show: code, the kernels'
    instruction set and what an artifact says it needs all follow from here.

    Raises CompileError if LLVM does not know the processor or a feature, and for an x86-64
    processor without AVX2, on which LLVM makes multiplications of shifts by varying amounts.
    """
    machine, fields = triple(target).split("-", 1)[0], _machine_fields(target)
    fields["mcpu"] = _processor(target.mcpu, machine)
    if not codegen.llvm_is_valid_cpu(fields["mcpu"], _llvm_triple(target)):
        example = "cortex-a76" if target.mtriple == AARCH64 else "x86-64-v3"
        raise CompileError(
            f"expected mcpu to be a processor that LLVM knows for {triple(target)}, got "
            f'{target.mcpu!r}; use "generic" or a name such as "{example}"'
        )
    if target.mattr:
        known = _known_features(target)
        wrong = [a for a in target.mattr if not re.match(r"[+-]", a) or a[1:] not in known]
        if wrong:
            raise CompileError(
                'expected mattr to list features that LLVM knows, each with a sign like "+avx2", '
                f"got {wrong[0]!r}"
            )
    mattr = [*(_masked(fields["mcpu"]) if target.mcpu == "host" else ()), *target.mattr]
    if mattr:
        fields["mattr"] = mattr
    resolved = tvm.target.Target(fields)
    if machine == "x86_64" and not _has("avx2", resolved):
        raise CompileError(
            f"expected a processor with AVX2, got {target.mcpu!r}: without it LLVM turns shifts "
            'into multiplications; use "x86-64-v3" or a newer processor'
        )
    return resolved


def triple(target: CPUTarget) -> str:
    """The machine and system that code for the target runs on, as the GNU tools write it."""
    return target.mtriple or gnu_triple(str(codegen.llvm_get_system_triple()))


def _llvm_triple(target: CPUTarget) -> str:
    """The same for LLVM, which takes the system to be unknown where the vendor is left out."""
    if not target.mtriple:
        return str(codegen.llvm_get_system_triple())
    machine, system = target.mtriple.split("-", 1)
    return f"{machine}-unknown-{system}"


def _machine_fields(target: CPUTarget) -> dict[str, Any]:
    """A TVM target's fields that say which machine it is."""
    return {"kind": target.kind} | ({"mtriple": _llvm_triple(target)} if target.mtriple else {})


def features(target: CPUTarget) -> frozenset[str]:
    """What code for the target may use, as LLVM names it; raises what ``tvm_target`` does."""
    return frozenset(map(str, codegen.llvm_get_cpu_features(tvm_target(target))))


def _masked(processor: str) -> list[str]:
    """What the name of this processor promises to LLVM but a virtual machine does not show."""
    present = vector_features()
    if present is None:
        return []
    named = tvm.target.Target({"kind": "llvm", "mcpu": processor})
    promised = map(str, codegen.llvm_get_cpu_features(named))
    shown = vector_names(present)
    return sorted(f"-{feature}" for feature in promised if vector_names([feature]) - shown)


def _known_features(target: CPUTarget) -> frozenset[str]:
    """The features of all processors of a target's family."""
    family = _machine_fields(target)
    names: set[str] = set()
    for mcpu in codegen.llvm_get_cpu_archlist(tvm.target.Target(family)):
        one = tvm.target.Target(family | {"mcpu": str(mcpu)})
        names.update(map(str, codegen.llvm_get_cpu_features(one)))
    return frozenset(names)


def build(
    mod: tvm.IRModule,
    target: CPUTarget,
    *,
    data_inputs: int | None = None,
    record: CallRecord | None = None,
    choices: Choices | None = None,
) -> Any:
    """Compile a module whose functions call dialect and float Relax operators.

    Returns a ``relax.VMExecutable``: run it in a ``relax.VirtualMachine``, or write a shared
    library with its ``export_library``. Weight codes may be constants or parameters.

    With ``data_inputs``, the first so many parameters of ``main`` are data and the rest weights.
    What depends on weights alone (sorting their codes) is then not done in each run: ``main``
    takes the arrays that ``runtime.prepare_parameters`` makes of the weights once. Where all data
    has any batch there is a second function for one image (``batch.SINGLE``). ``record`` takes
    down which layers each kernel call computes.

    With ``kernels`` "auto" in the target, layers become fused kernels where the processor has what
    they need: the same integers, computed by its own products. ``choices`` has their tuned
    parameters, and takes down what was chosen for each.

    Raises CompileError where TVM or LLVM cannot build for the target, and VerificationError where
    another kernel of the dialect multiplies data.
    """
    resolved, found = tvm_target(target), instruction_set(target)
    if data_inputs is not None:
        mod = mod.clone()
        mod["main"] = mod["main"].with_attr("num_input", data_inputs)
    try:
        with resolved, tvm.transform.PassContext(opt_level=3):
            return relax.build(
                mod,
                resolved,
                relax_pipeline=lowering(
                    legalize_map(vector_lanes(resolved)),
                    schedule_function,
                    fuse=FuseLayers(found, choices) if found else None,
                    record=record,
                    data_inputs=data_inputs,
                ),
            )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(
            f"TVM could not compile for {target.mcpu} ({triple(target)}): {reason}"
        ) from error


def assembly(executable: Any) -> str:
    """The generated assembly of an executable that ``build`` returned."""
    return code_of(executable.mod, "llvm", "asm")


def vector_lanes(target: tvm.target.Target) -> int:
    """The 16-bit elements of one of the processor's vector registers."""
    # LLVM's own answer is about the machine that compiles, not about the target.
    return next((n for feature, n in _LANES.items() if _has(feature, target)), _BASELINE_LANES)


def instruction_set(target: CPUTarget) -> InstructionSet | None:
    """What the fused kernels are made of; None for real shifts, and where the target has none.

    Raises what ``tvm_target`` does.
    """
    return best_set(tvm_target(target)) if target.kernels == "auto" else None


def best_set(target: tvm.target.Target) -> InstructionSet | None:
    """The best instructions for fused kernels that the target's processor has, if any."""
    return choose(lambda feature: _has(feature, target))


def _has(feature: str, target: tvm.target.Target) -> bool:
    return bool(codegen.target_has_features(feature, target))


def _processor(mcpu: str, machine: str) -> str:
    if mcpu == "host":
        return str(codegen.llvm_get_system_cpu())
    if mcpu == "generic":
        return _BASELINES.get(machine, "generic")
    return mcpu
