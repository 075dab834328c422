"""Threads and processes: who may run an artifact, and with how many threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tvm

from tvm_shiftadd._runtime import Machine
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
