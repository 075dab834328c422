"""Tuning of an accelerator's kernels by the cycles that its timing model counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_shiftadd.target import AcceleratorTarget, accelerator, runtime
from tvm_shiftadd.tune.database import Database
from tvm_shiftadd.tune.run import Tunable


def tunable(target: AcceleratorTarget) -> Tunable:
    """What to tune for an accelerator; its processes count cycles, so all cores may at once.

    Raises InputError where there is no such machine.
    """
    package = accelerator.backend(target.kind)
    package.check(target.machine)
    space, factory, config = package.trials(target.machine)
    identity = package.identity(target.machine)
    cores = runtime.available_cores()
    return Tunable(identity, space, factory, config, processes=cores, machine="timing model")


def tuned(database: Path | None, target: AcceleratorTarget) -> dict[str, Mapping[str, Any]]:
    """The best known parameters by workload. Raises InputError for another target's database."""
    if database is None:
        return {}
    identity = accelerator.backend(target.kind).identity(target.machine)
    best = Database.read(database, identity).best()
    return {text: record.parameters for (text, _), record in best.items()}
