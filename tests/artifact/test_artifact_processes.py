"""Threads and processes: who may run an artifact, and with how many threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tvm

from tvm_shiftadd import _runtime
from tvm_shiftadd._processor import vector_features, vector_names
from tvm_shiftadd._runtime import Machine
from tvm_shiftadd.errors import ArtifactError
from tvm_shiftadd.manifest import TargetInfo
from tvm_shiftadd.target import runtime

#: Runs argv[1] here and then in a forked process, by the same object and by one loaded anew.
FORK = """
import os, sys
import numpy as np
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.errors import InputError

def attempt(artifact):
    try:
        return str(artifact.run(np.ones((1, 4), np.float32)).tolist())
    except InputError as error:
        return f"refused: {error}"

artifact = Artifact.load(sys.argv[1])
if sys.argv[2] == "after":
    print(attempt(artifact), flush=True)
child = os.fork()
if child == 0:
    print(attempt(artifact), flush=True)
    print(attempt(Artifact.load(sys.argv[1])), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(attempt(artifact), flush=True)
"""


def forking(saved: Path, when: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(saved), when],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_forked_after_a_run_is_refused(saved: Path) -> None:
    before, again, anew, after = forking(saved, "after")
    assert before == after == "[[1.0, 2.0, 3.0, 4.0]]"
    assert again == anew
    assert again.startswith("refused: ")
    assert "spawn" in again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_forked_before_any_run_is_served(saved: Path) -> None:
    assert forking(saved, "before") == ["[[1.0, 2.0, 3.0, 4.0]]"] * 3


X = [np.ones((1, 4), np.float32)]


def threads_after_runs(machines: list[Machine]) -> list[int]:
    """TVM's threads after a run of each machine, all in one new Python thread."""

    def run() -> list[int]:
        counts = []
        for machine in machines:
            machine(X)
            counts.append(runtime.num_threads())
        return counts

    # TVM's threads belong to a Python thread, so a new one does not disturb the other tests.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def machine(saved: Path, threads: int | None) -> Machine:
    library = tvm.runtime.load_module(str(saved / "library.so"))
    return Machine(library, {"w": np.ones(4, np.float32)}, threads)


def test_the_number_of_threads_holds_in_every_python_thread(saved: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(machine, saved, 1).result()
        all_cores = pool.submit(machine, saved, None).result()
    cores = runtime.available_cores()
    assert threads_after_runs([one]) == [1]
    assert threads_after_runs([all_cores, one]) == [cores, 1]


def test_more_threads_than_processors_are_no_error(saved: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(machine, saved, 4096).result()
    assert threads_after_runs([many]) == [len(runtime._processors())]


X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is about x86-64")


@X86
@pytest.mark.parametrize(
    ("attributes", "needed"),
    [
        ({"mcpu": "generic"}, {"avx2", "fma", "sse41"}),
        ({"mcpu": "x86-64-v4"}, {"avx512bw", "avx512vl"}),
        ({"mcpu": "x86-64-v3", "mattr": ["+avx512vnni"]}, {"avx512vnni", "avx512f"}),
        ({"mcpu": "x86-64-v3", "mattr": ["+avxvnni"]}, {"avx2", "avxvnni"}),
    ],
)
def test_the_needed_features_are_written_down(attributes, needed) -> None:
    pinned = _runtime.pinned(TargetInfo("cpu", attributes)).attributes["features"]
    assert needed <= set(pinned)
    assert ("avx512bw" in pinned) == (attributes["mcpu"] == "x86-64-v4")


@X86
@pytest.mark.parametrize("mcpu", ["x86-64-v3", "x86-64-v4", "host"])
def test_another_processor_is_refused(artifact, saved, monkeypatch, mcpu) -> None:
    described = artifact.manifest
    target = _runtime.pinned(TargetInfo("cpu", {"mcpu": mcpu}))
    described = msgspec.structs.replace(described, target=target)
    present = {"avx", "sse4_1", "sse4_2"}
    monkeypatch.setattr(_runtime, "vector_features", lambda: frozenset(present))
    with pytest.raises(ArtifactError, match="avx2"):
        _runtime.check_processor(described)
    every = {"amx_tile", *map(str, target.attributes["features"])}
    monkeypatch.setattr(_runtime, "vector_features", lambda: frozenset(every))
    _runtime.check_processor(described)


@pytest.mark.skipif(vector_features() is None, reason="the system does not tell its features")
def test_code_for_this_machine_is_accepted_here() -> None:
    target = _runtime.pinned(TargetInfo("cpu", {"mcpu": "host"}))
    features = vector_features()
    assert features is not None
    assert set(target.attributes["features"]) <= vector_names(features)


def test_llvm_and_linux_spell_features_alike() -> None:
    llvm = ["sse4.1", "avx512vnni", "avxvnni", "amx-tile", "neon", "prefer-256-bit", "bmi2"]
    linux = ["sse4_1", "avx512_vnni", "avx_vnni", "amx_tile", "asimd", "bmi2"]
    assert vector_names(llvm) == vector_names(linux)
