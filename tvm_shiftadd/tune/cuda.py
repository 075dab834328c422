"""Tuning of the kernels of NVIDIA GPUs: databases, and what tries their candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.manifest import SPECIFICATION_VERSION, installed_tvm
from tvm_shiftadd.target import CUDATarget, cuda, cuda_runtime
from tvm_shiftadd.topi.schedules.cuda.parameters import VERSION
from tvm_shiftadd.topi.schedules.cuda.workload import Choices, Workload, parameters_of
from tvm_shiftadd.tune.cuda_space import CUDASpace
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.run import Tunable

#: What starts a process that tries candidates.
_FACTORY = "tvm_shiftadd.tune.cuda_worker:serve"


def identity(target: CUDATarget) -> dict[str, Any]:
    """What a database of a target must be for; which GPU was measured, each record says."""
    return {
        "target": target.kind,
        "arch": target.arch,
        "kernels": f"cuda {VERSION}",
        "specification": SPECIFICATION_VERSION,
        "TVM": ".".join(installed_tvm().split(".")[:2]),
    }


def tunable(target: CUDATarget) -> Tunable:
    """What to tune for a GPU: kernels that run on the one that is here.

    Raises InputError for a target whose kernels have nothing to tune, DeviceError where there is
    no GPU for its code, and DependencyError where NVIDIA's compiler or runtime library is missing.
    """
    check_target(target)
    device = cuda_runtime.device(target.arch)
    cuda.check(target)
    return Tunable(
        identity(target),
        CUDASpace(target.level),
        _FACTORY,
        {"target": target.as_dict()},
        machine=f"{device.device_name}, compute capability {device.compute_version}",
    )


def check_target(target: CUDATarget) -> None:
    """Raise InputError for a target whose kernels have nothing to tune."""
    if target.kernels != "auto":
        raise InputError(
            'expected a target whose kernels can be tuned, which are those of "kernels": "auto", '
            f"got {target.as_dict()}"
        )


def chosen(database: Path | None, target: CUDATarget) -> Choices:
    """The parameters to compile with: of a database, or by rule.

    Raises InputError for a database of another target, and for a target that takes none.
    """
    if database is None:
        return Choices()
    check_target(target)
    best = Database.read(database, identity(target)).best()
    found = {}
    for record in best.values():
        work = Workload.from_dict(record.workload)
        found[work] = parameters_of(work, record.parameters, target.level)
    return Choices(found)
