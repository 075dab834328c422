"""Databases that come with the package: sound, and used where they match only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tvm

from tvm_shiftadd._processor import vector_names
from tvm_shiftadd.target import CPUTarget, cpu
from tvm_shiftadd.topi.schedules.cpu.dot.sets import SETS
from tvm_shiftadd.topi.schedules.cpu.dot.space import problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.tune import check
from tvm_shiftadd.tune import cpu as tuning
from tvm_shiftadd.tune import database as databases
from tvm_shiftadd.tune.cpu_space import parameters_of
from tvm_shiftadd.tune.database import Database, Record

SHIPPED = sorted((Path(tuning.__file__).parent / "databases").glob("*.jsonl"))
TARGET = CPUTarget(num_threads=1)

needs_kernels = pytest.mark.skipif(
    cpu.instruction_set(TARGET) is None, reason="needs a processor with fused kernels"
)


def records(path: Path) -> list[Record]:
    return Database.read(path, databases.identity_of(path)).records


def test_there_are_some_and_each_is_for_another_target() -> None:
    identities = [databases.identity_of(path) for path in SHIPPED]
    assert identities
    assert all(identity != other for identity in identities for other in identities[1:])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_records_are_winners_that_can_be(path: Path) -> None:
    assert databases.identity_of(path)["target"] == "cpu"
    features = set(databases.identity_of(path)["features"])
    found = records(path)
    assert found and len({record.key for record in found}) == len(found)
    for record in found:
        work = Workload.from_dict(record.workload)
        isa = next(one for one in SETS if vector_names(one.features) <= features)
        assert problem_of(work.plan(isa, parameters_of(work, record.parameters))) == ""
        assert record.final and record.verified and record.value < min(record.baseline)


@needs_kernels
def test_used_where_the_target_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = records(SHIPPED[0])
    mine, other = tuning.identity(TARGET), {**tuning.identity(TARGET), "processor": "another"}
    monkeypatch.setattr(tuning, "_SHIPPED", tmp_path)
    databases.write(tmp_path / "a.jsonl", other, given)
    assert tuning.chosen(None, TARGET).tuned == {}
    databases.write(tmp_path / "b.jsonl", mine, given)
    assert len(tuning.chosen(None, TARGET).tuned) == len(given)
    # A database that was named stands alone.
    databases.write(tmp_path / "c", mine, given[:1])
    assert len(tuning.chosen(tmp_path / "c", TARGET).tuned) == 1


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_kernels_compute_the_references_integers(path: Path) -> None:
    isa = tuning.check_target(TARGET)

    def build(mod: Any) -> Any:
        return tvm.compile(mod, target=cpu.tvm_target(TARGET))

    for record in records(path):
        work = Workload.from_dict(record.workload)
        parameters = parameters_of(work, record.parameters)
        tensors = [tvm.runtime.tensor(a) for a in check.arguments(work, isa, parameters)]
        function = work.kernel(isa, parameters).with_attr("global_symbol", "main")
        build(tvm.IRModule({"main": function}))["main"](*tensors)
        assert check.problem(work, tensors[-1].numpy()) == "", work.text
