"""Tuning for GPUs, with emulated kernels: the search, its database, and what builds make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda.emulation import emulated
from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.cli import main
from tvm_shiftadd.convert import Conversion
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target import CUDATarget, cuda_runtime
from tvm_shiftadd.topi.schedules.cuda.workload import Workload, parameters_of
from tvm_shiftadd.topi.schedules.shapes import conv_shape
from tvm_shiftadd.tune import cuda as tuning
from tvm_shiftadd.tune import cuda_space, cuda_worker, run, search
from tvm_shiftadd.tune import database as databases
from tvm_shiftadd.tune.database import Database, Record

TARGET = CUDATarget()
LEVEL = TARGET.level


def workload(
    kind: Any,
    size: tuple[int, int, int],
    outputs: int,
    terms: int = 2,
    window: int = 1,
    *,
    groups: int = 1,
    **known: Any,
) -> Workload:
    border = (window // 2,) * 4
    shape = conv_shape(size, outputs, terms, (window,) * 2, (1, 1), border, (1, 1), groups)  # type: ignore[arg-type]
    return Workload(kind, shape, known.pop("dtype", "int8"), **known)


WORKS = [
    workload("dot", (4, 5, 16), 24, 1, 3, scaled=True, residual="uint8"),
    workload("dot", (4, 4, 3), 8, window=3, dtype="uint8", result="uint8"),
    workload("adder", (4, 4, 8), 12, window=3, result="int32"),
    workload("dot", (5, 5, 8), 8, window=3, groups=8, images=2),
    workload("dot", (1, 1, 320), 40, result="int32"),
    workload("dot", (1, 1, 320), 40, 1, result="uint8", residual="int8", images=1),
]


def request(job: str, work: Workload, parameters: Any) -> dict[str, Any]:
    return {"job": job, "workload": work.to_dict(), "parameters": parameters}


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.text)
def test_candidates_are_measured_and_equal_the_reference(work: Workload) -> None:
    space = cuda_space.CUDASpace(LEVEL)
    found = space.candidates(work.to_dict())
    assert parameters_of(work, found[0], LEVEL) == work.by_rule(LEVEL)
    assert len({len(space.features(work.to_dict(), parameters)) for parameters in found}) == 1
    with emulated("random"):
        handler = cuda_worker.serve({"target": TARGET.as_dict()})
        assert handler(request("verify", work, found[-1])) == {"equal": True}
        values = handler(request("measure", work, found[-1]))["values"]
    assert len(values) == 5 and min(values) > 0


def test_one_model_learns_from_all_kernels() -> None:
    space = cuda_space.CUDASpace(LEVEL)
    rows = {
        len(space.features(work.to_dict(), space.candidates(work.to_dict())[0])) for work in WORKS
    }
    assert len(rows) == 1
    assert len({type(work.by_rule(LEVEL)) for work in WORKS}) == 5


def test_wrong_results_are_noticed() -> None:
    work = workload("dot", (4, 4, 3), 8, window=3)
    with emulated(rewrite=lambda source: source.replace("__dp4a(", "99999 + __dp4a(")):
        handler = cuda_worker.serve({"target": TARGET.as_dict()})
        parameters = cuda_space.CUDASpace(LEVEL).candidates(work.to_dict())[0]
        answer = handler(request("verify", work, parameters))
    assert "of 1024 results are wrong" in answer["error"]


def test_a_process_ends_where_a_kernel_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GPU takes nothing more from it."""

    def fail(*_: object) -> None:
        raise RuntimeError("stack\nCUDA: an illegal memory access was encountered")

    monkeypatch.setattr(cuda_worker.CUDAHandler, "_time", fail)
    work = WORKS[2]
    with emulated(), pytest.raises(SystemExit, match="an illegal memory access"):
        handler = cuda_worker.serve({"target": TARGET.as_dict()})
        handler(request("measure", work, cuda_space.CUDASpace(LEVEL).candidates(work.to_dict())[0]))


def test_workloads_come_back_from_json() -> None:
    for work in WORKS:
        values = work.to_dict()
        assert Workload.from_dict(values) == work
        shape = values["shape"]
        for change in (
            {"kind": "pool"},
            {"more": 1},
            {"images": -1},
            {"dtype": "float32"},
            {"shape": {**shape, "groups": 7}},
            {"shape": {**shape, "terms": 0}},
        ):
            with pytest.raises(InputError, match="expected a layer's workload"):
                Workload.from_dict({**values, **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [({"down": 3}, "cannot be"), ({"down": "many"}, "expected parameters for dot 3x3/1")],
)
def test_parameters_that_cannot_be_are_refused(change: dict[str, Any], says: str) -> None:
    work = WORKS[0]
    found = cuda_space.CUDASpace(LEVEL).candidates(work.to_dict())[0]
    with pytest.raises(InputError, match=says):
        parameters_of(work, {**found, **change}, LEVEL)


class Here:
    """Answers requests in this process, as ``Workers`` would have others do."""

    def __init__(self, factory: str, config: dict[str, Any], **_: object) -> None:
        assert factory == "tvm_shiftadd.tune.cuda_worker:serve"
        self.ask = cuda_worker.serve(config)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask_all(self, requests: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, one in enumerate(requests):
            yield index, self.ask(one)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 1)
    monkeypatch.setattr(search, "FINALISTS", 1)


@pytest.mark.usefixtures("short")
def test_a_search_resumes_and_refuses_another_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Workers", Here)
    path, kernels = tmp_path / "gpu.jsonl", [{"workload": WORKS[2].to_dict()}]
    with emulated():
        tunable = tuning.tunable(TARGET)
        for trials in (1, 2):
            result = run.tune(tunable, path, lambda: kernels, trials=trials, timeout=600.0)
            assert result.failures == [] and result.outcomes[0].tried == trials
    records = Database.read(path, tuning.identity(TARGET)).records
    assert [record.final for record in records] == [False, True, False, True]
    assert records[0].parameters == tunable.space.candidates(WORKS[2].to_dict())[0]
    assert records[0].verified and "compute capability" in records[0].machine
    (work,) = tuning.chosen(path, TARGET).tuned
    assert work == WORKS[2]
    with pytest.raises(InputError, match="its arch is sm_80, here it is sm_90"):
        tuning.chosen(path, CUDATarget(arch="sm_90"))
    with pytest.raises(InputError, match="kernels can be tuned"):
        tuning.chosen(path, CUDATarget(kernels="shift"))


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_candidates_are_tried_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_FACTORY", "tests.cuda.emulated_worker:serve")
    kernels = [{"workload": WORKS[2].to_dict()}]
    with emulated():
        tunable = tuning.tunable(TARGET)
    result = run.tune(tunable, tmp_path / "db", lambda: kernels, trials=2, timeout=600.0)
    assert result.failures == [] and result.outcomes[0].best


def test_builds_use_what_was_found_and_compute_the_same(
    digits: tuple[api.Model, Conversion], artifact: Artifact, tmp_path: Path
) -> None:
    path, target = tmp_path / "decree.jsonl", CUDATarget(arch="sm_86")
    images = np.random.default_rng(1).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)
    space, before = cuda_space.CUDASpace(target.level), artifact.report["kernels"]
    assert before and not any(kernel["tuned"] for kernel in before)
    # As if of each kernel the last candidate had won.
    others = [space.candidates(kernel["workload"])[-1] for kernel in before]
    won: dict[str, Any] = {"values": (1e-6,), "verified": True, "final": True}
    records = [
        Record(kernel["workload"], other, 1, **won)
        for kernel, other in zip(before, others, strict=True)
    ]
    databases.write(path, tuning.identity(target), records)
    wanted = api.build(*digits, target="cpu").run(images)
    with emulated():
        tuned = api.build(*digits, target=target, database=path)
        np.testing.assert_array_equal(tuned.run(images), wanted)
    after = tuned.report["kernels"]
    assert [kernel["workload"] for kernel in after] == [kernel["workload"] for kernel in before]
    assert all(kernel["tuned"] for kernel in after)
    assert [kernel["parameters"] for kernel in after] == others
    assert others != [kernel["parameters"] for kernel in before]


@pytest.mark.skipif(cuda_runtime.driver() is not None, reason="an NVIDIA driver is here")
def test_without_a_gpu_nothing_is_started(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact.save(tmp_path / "artifact")
    path = tmp_path / "gpu.jsonl"
    for options, code, says in (
        ([], 1, "needs an NVIDIA GPU of compute capability 8.6 or newer; none is visible here"),
        (["--threads", "2"], 2, "expected no --threads and no --tracker for a GPU"),
        (["--tracker", "localhost:9190"], 2, "expected no --threads and no --tracker for a GPU"),
    ):
        assert main(["tune", str(tmp_path / "artifact"), "--db", str(path), *options]) == code
        said = capsys.readouterr().err.strip()
        assert says in said and len(said.splitlines()) == 1
        assert not path.exists()
