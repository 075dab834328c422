"""The passes from Relax operators to kernels, of which targets differ in three places.

Those are how operators are computed (legalisation and what fuses layers before it) and how what
came of it is scheduled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm

from tvm_shiftadd._compat import ir, relax, tirx
from tvm_shiftadd.dialect.purity import multiplications
from tvm_shiftadd.errors import VerificationError
from tvm_shiftadd.target.batch import AddSingle
from tvm_shiftadd.target.calls import CallRecord
from tvm_shiftadd.topi.schedules.fusion.function import COMPUTED_BY

#: Gives a PrimFunc its schedule.
Schedule = Callable[[tirx.PrimFunc], tirx.PrimFunc]

#: TVM's operator pattern of a function that is not fused.
_OPAQUE = 8
#: Functions that compute the dialect's operators, alone or fused with others.
_DIALECT = "shiftadd_"


def lowering(
    legalize: Mapping[str, Any],
    schedule: Schedule,
    *,
    fuse: Any = None,
    record: CallRecord | None = None,
    data_inputs: int | None = None,
) -> Any:
    """From Relax operators to what the virtual machine's code generator takes.

    ``legalize``: how operators are computed that do not keep their definition, by name.
    ``fuse``: a pass that replaces layers by calls of kernels before that. ``record`` takes down the
    calls; ``data_inputs`` as for a target's ``build``.
    """
    transform, record = relax.transform, record or CallRecord()
    return tvm.transform.Sequential(
        [
            relax.backend.DispatchSortScan(),
            record.begin(),
            *([fuse] if fuse else []),
            transform.LegalizeOps(dict(legalize)),
            # Only of functions that say, by num_input, which of their parameters are data.
            transform.LiftTransformParams(),
            KeepFloatApart(),
            transform.AnnotateTIROpPattern(),
            record.follow(transform.FuseOps()),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
            ScheduleFunctions(schedule),
            RefuseMultiplications(),
            AddSingle(data_inputs),
            transform.RewriteDataflowReshape(),
            transform.ToNonDataflow(),
            record.end(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


@tvm.transform.module_pass(opt_level=0, name="KeepFloatApart")
class KeepFloatApart:
    """Mark what is not to be fused: functions of floats, and the host's products of integers.

    The latter, so that each function with an operator of the dialect in it can be checked to be
    free of products. As to the former: fused, a product and a sum become one rounding instead of
    two. Calibration and the integer reference run such operators one by one; kept apart here, they
    give the same bits everywhere.
    """

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Mark as opaque what has no integer tensor, and what of the host has a product."""
        for var, func in mod.functions.items():
            if not isinstance(func, tirx.PrimFunc):
                continue
            host = not var.name_hint.startswith(_DIALECT)
            if _is_float(func) or (host and multiplications(func)):
                mod[var] = func.with_attr("op_pattern", _OPAQUE)
        return mod


def _is_float(func: tirx.PrimFunc) -> bool:
    buffers = [param for param in func.params if isinstance(param.ty, tirx.BufferType)]
    return all(str(buffer.dtype).startswith("float") for buffer in buffers)


@tvm.transform.module_pass(opt_level=0, name="ScheduleFunctions")
class ScheduleFunctions:
    """Give every TensorIR function that has none its schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Schedule all PrimFuncs that are not marked as scheduled."""
        scheduled = {}
        for var, func in mod.functions.items():
            if isinstance(func, tirx.PrimFunc) and "tirx.is_scheduled" not in (func.attrs or {}):
                func = self._schedule(func)
            scheduled[var] = func
        return ir.IRModule(scheduled, attrs=mod.attrs)


@tvm.transform.module_pass(opt_level=0, name="RefuseMultiplications")
class RefuseMultiplications:
    """Check the kernels that the code is made from; what they compute was checked before.

    Left out are those that say, by the attribute COMPUTED_BY, which instruction of the target
    stands for the shifts of their definition.
    """

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Raise VerificationError where a function of the dialect multiplies data."""
        for var, func in mod.functions.items():
            if not isinstance(func, tirx.PrimFunc) or COMPUTED_BY in (func.attrs or {}):
                continue
            if _DIALECT in var.name_hint:
                refuse_multiplications(func, var.name_hint)
        return mod


def refuse_multiplications(func: tirx.PrimFunc, name: str) -> None:
    """Raise VerificationError if a kernel multiplies data."""
    found = multiplications(func)
    if found:
        raise VerificationError(
            f"expected no multiplication of data in the kernel {name}, got {found[0]}"
        )
