"""Tuning of the fused kernels: databases and workloads of a processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tvm_shiftadd import _runtime
from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd.bench import machine as machines
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.manifest import SPECIFICATION_VERSION, TargetInfo, installed_tvm
from tvm_shiftadd.target import CPUTarget, cpu, runtime
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import VERSION
from tvm_shiftadd.topi.schedules.cpu.dot.sets import SETS
from tvm_shiftadd.topi.schedules.cpu.dot.space import problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices, Workload
from tvm_shiftadd.tune.cpu_space import CPUSpace, parameters_of
from tvm_shiftadd.tune.database import Database, identity_of
from tvm_shiftadd.tune.run import Tunable

#: What starts a process that tries candidates.
_FACTORY = "tvm_shiftadd.tune.cpu_worker:serve"
#: Databases that come with the package, one for each target that was measured.
_SHIPPED = Path(__file__).parent / "databases"


def identity(target: CPUTarget) -> dict[str, Any]:
    """What a database of a target must be for."""
    features = _runtime.pinned(TargetInfo("cpu", target.as_dict())).attributes["features"]
    return {
        "target": "cpu",
        "processor": str(cpu.tvm_target(target).attrs["mcpu"]),
        "features": features,
        "kernels": f"dot {VERSION}",
        "specification": SPECIFICATION_VERSION,
        "TVM": ".".join(installed_tvm().split(".")[:2]),
    }


def tunable(
    target: CPUTarget, threads: int | None = None, tracker: Mapping[str, Any] | None = None
) -> Tunable:
    """What to tune for a processor: this one, or those that a tracker ("host", "port", "key") has.

    ``threads``: of a run; None takes the target's. Raises InputError for a target whose kernels
    have nothing to tune, for a processor that lacks its instructions, and where the tracker or its
    servers are missing.
    """
    isa = check_target(target)
    count, mine = threads or threads_of(target), identity(target)
    processes, where, waiting = 1, machines.describe().processor, 0.0
    if tracker is not None:
        from tvm_shiftadd.tune import remote

        processes = remote.servers(tracker["host"], tracker["port"], tracker["key"])
        waiting = remote.WAITING
        where = f"{tracker['key']} of {tracker['host']}:{tracker['port']}"
    elif missing := set(mine["features"]) - vector_names(vector_features() or mine["features"]):
        raise InputError(
            f"expected a processor with {', '.join(sorted(missing))} to measure on, which this one "
            "lacks; measure on one of a --tracker"
        )
    config = {"target": asdict(target), "threads": count, "tracker": tracker}
    return Tunable(mine, CPUSpace(isa, count), _FACTORY, config, count, processes, where, waiting)


def check_target(target: CPUTarget) -> InstructionSet:
    """The instructions of the kernels; raises InputError where they have nothing to tune."""
    found = cpu.instruction_set(target)
    if found is None:
        names = ", ".join(one.name for one in SETS)
        raise InputError(
            f"expected a target whose kernels can be tuned, which are those for {names}, "
            f"got {target.as_dict()}{_advice(target)}"
        )
    return found


def _advice(target: CPUTarget) -> str:
    """What to name instead of an AArch64 processor whose vectors have no dot products."""
    if target.kernels == "shift" or not cpu.triple(target).startswith("aarch64"):
        return ""
    return '; name a processor with dot products of bytes as mcpu, such as "cortex-a76"'


def chosen(database: Path | None, target: CPUTarget) -> Choices:
    """The parameters to compile with: of a database, or of the one shipped for such a target.

    Raises InputError for a database of another target, and for a target that takes none.
    """
    if database is not None:
        isa = check_target(target)
        return choices(Database.read(database, identity(target)), threads_of(target), isa)
    instructions = cpu.instruction_set(target)
    if instructions is None:
        return Choices()
    mine = identity(target)
    for shipped in sorted(_SHIPPED.glob("*.jsonl")):
        if identity_of(shipped) == mine:
            return choices(Database.read(shipped, mine), threads_of(target), instructions)
    return Choices()


def threads_of(target: CPUTarget) -> int:
    """The threads that a network of this target runs on, on this machine."""
    return target.num_threads or runtime.available_cores()


def choices(database: Database, threads: int, isa: InstructionSet) -> Choices:
    """The best known parameters for runs on so many threads.

    Of a layer that was tuned for one thread alone, several share the work as the rules have it.
    """
    alone, exact = {}, {}
    for (_, count), record in database.best().items():
        if count in (1, threads):
            work = Workload.from_dict(record.workload)
            parameters = parameters_of(work, record.parameters)
            if count == threads:
                exact[work] = parameters
            elif not problem_of(work.plan(isa, parameters)):
                alone[work] = work.shared(isa, parameters)
    return Choices({**alone, **exact})
