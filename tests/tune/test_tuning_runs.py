"""The command: killed and resumed, refused, many machines, and what compile makes of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.bench import inputs
from tvm_shiftadd.cli import main, options
from tvm_shiftadd.cli import tune as tune_command
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target import CPUTarget, cpu
from tvm_shiftadd.target.processor import AARCH64
from tvm_shiftadd.topi.schedules.cpu.dot.arm import DOTPROD
from tvm_shiftadd.tune import cpu as tuning
from tvm_shiftadd.tune import database as databases
from tvm_shiftadd.tune import remote, search
from tvm_shiftadd.tune.database import Database, Record
from tvm_shiftadd.tune.run import tune

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tvm_shiftadd" / "demo" / "digits.onnx"
TARGET = CPUTarget(num_threads=1)

pytestmark = pytest.mark.skipif(
    cpu.instruction_set(TARGET) is None, reason="needs a processor with fused kernels"
)


def compiled(database: Path | None = None) -> Artifact:
    images = np.random.default_rng(3).uniform(0, 16, (64, 1, 8, 8)).astype(np.float32)
    return api.compile(MODEL, target=TARGET, calibration={"image": images}, database=database)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration's network, compiled by rule."""
    folder = tmp_path_factory.mktemp("tuning") / "digits"
    compiled().save(folder)
    return folder


#: The command, killed in the middle of writing its sixth record.
KILLED = """
import os, signal, sys
from tvm_shiftadd.cli import main

write, records = os.write, []

def cut(descriptor, data):
    if data.startswith(b'{"workload"'):
        records.append(data)
    if len(records) < 6:
        return write(descriptor, data)
    write(descriptor, data[:40])
    os.kill(os.getpid(), signal.SIGKILL)

os.write = cut
sys.exit(main(sys.argv[1:]))
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **more}


def identity() -> dict[str, Any]:
    return tuning.identity(TARGET)


def test_killed_and_resumed_without_losing_a_record(
    artifact: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "digits.jsonl"
    arguments = ["tune", str(artifact), "--db", str(path), "--trials", "12", "--json"]
    # Longer than any candidate takes on a machine with much other work.
    arguments += ["--timeout", "600"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment())
    assert killed.returncode == -signal.SIGKILL
    whole = path.read_bytes()
    assert not whole.endswith(b"\n")
    kept = Database.read(path, identity()).records
    assert len(kept) == 5
    capfd.readouterr()

    monkeypatch.setattr(search, "ROUNDS", 1)
    monkeypatch.setattr(search, "FINALISTS", 1)
    assert main(arguments) == 0
    said = capfd.readouterr()
    assert path.read_bytes().startswith(whole[: whole.rfind(b"\n") + 1])
    records = Database.read(path, identity()).records
    assert records[: len(kept)] == kept
    trials = [r for r in records if not r.final]
    assert len(trials) == 12 == len({(*r.key, str(r.parameters)) for r in trials})
    summary = json.loads(said.out)
    assert sum(w["tried"] for w in summary["workloads"]) == 12 and not summary["failures"]
    assert said.err.count("12/12 ") == 1
    assert all(w["best"] and w["parameters"] for w in summary["workloads"])


def test_a_database_of_another_target_is_refused(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "foreign.jsonl"
    databases.write(path, {**identity(), "processor": "znver9"}, [])
    assert main(["tune", str(artifact), "--db", str(path), "--trials", "2"]) == 2
    said = capsys.readouterr().err.strip()
    assert "its processor is znver9" in said and len(said.splitlines()) == 1
    with pytest.raises(InputError, match="its processor is znver9"):
        compiled(path)
    assert Database.read(path, {**identity(), "processor": "znver9"}).records == []


def fastest_by_decree(artifact: Path, path: Path) -> dict[str, Any]:
    """A database in which the last candidate of the first kernel has won."""
    kernel = Artifact.load(artifact).report["kernels"][1]
    other = tuning.tunable(TARGET).space.candidates(kernel["workload"])[-1]
    won = Record(kernel["workload"], other, 1, (1e-6,), verified=True, final=True)
    databases.write(path, identity(), [won])
    return other


def test_compile_uses_what_was_found_and_computes_the_same(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "decree.jsonl"
    chosen = fastest_by_decree(artifact, path)
    plain, tuned = Artifact.load(artifact), compiled(path)
    before, after = plain.report["kernels"][1], tuned.report["kernels"][1]
    assert (before["tuned"], after["tuned"]) == (False, True)
    assert after["parameters"] == chosen != before["parameters"]
    assert after["workload"] == before["workload"]
    feed = inputs.random_inputs(plain, 3)
    np.testing.assert_array_equal(plain.run(feed), tuned.run(feed))


def test_a_model_has_the_workloads_of_its_artifacts(artifact: Path) -> None:
    """Factors behind layers are part of a workload, and what a model is compiled for has them."""
    choice = options.ModelChoice(MODEL, (), None)
    config = tune_command.Config(choice, Path("any"), 1, "cpu", 2, None, 1.0, None)
    found, used = tune_command._compiled(config, TARGET), Artifact.load(artifact)
    mine, theirs = ([k["workload"] for k in a.report["kernels"]] for a in (found, used))
    assert mine == theirs
    assert any(work["scaled"] for work in mine)


def test_other_numbers_of_threads_share_the_work_by_rule(artifact: Path, tmp_path: Path) -> None:
    """What one thread has found is good for each of several; how they share the work is not."""
    path = tmp_path / "decree.jsonl"
    given = fastest_by_decree(artifact, path)
    two = CPUTarget(num_threads=2)
    (work,) = tuning.chosen(path, TARGET).tuned
    (parameters,) = tuning.chosen(path, two).tuned.values()
    assert asdict(parameters) == {**given, "parts": 2, "parallel": False}
    record = Record(work.to_dict(), given, 2, (1e-6,), verified=True, final=True)
    databases.write(path, identity(), [*Database.read(path, identity()).records, record])
    assert asdict(tuning.chosen(path, two).tuned[work]) == given


def test_real_shifts_have_nothing_to_tune(tmp_path: Path) -> None:
    target = CPUTarget(kernels="shift")
    with pytest.raises(InputError, match="kernels can be tuned"):
        tuning.tunable(target)
    with pytest.raises(InputError, match="kernels can be tuned"):
        tuning.chosen(tmp_path / "any", target)
    assert tuning.chosen(None, target).tuned == {}


def test_an_aarch64_processor_without_dot_products_is_told_of_one_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model is loaded: this one could not be."""
    (tmp_path / "no.onnx").touch()
    arguments = ["tune", str(tmp_path / "no.onnx"), "--db", str(tmp_path / "db")]
    assert main([*arguments, "--target", "cpu:aarch64"]) == 2
    assert 'such as "cortex-a76"' in capsys.readouterr().err
    assert tuning.check_target(CPUTarget(mcpu="cortex-a76", mtriple=AARCH64)) is DOTPROD


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--db", "x", "--trials", "0"], "--trials and --timeout above 0"),
        (["--db", "x", "--tracker", "localhost"], "--tracker HOST:PORT"),
        (["--db", "no/such/folder/x"], "cannot be written: No such file"),
        ([], "--db"),
    ],
)
def test_wrong_usage(
    artifact: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(artifact), *arguments]) == 2
    assert says in capsys.readouterr().err


# Many machines.


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(module: str, *arguments: object) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(TVM_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def tracker() -> Iterator[dict[str, Any]]:
    """A tracker on this machine with two servers."""
    found: dict[str, Any] = {"host": "127.0.0.1", "port": free_port(), "key": "tests"}
    serving = ("--tracker", f"127.0.0.1:{found['port']}", "--key", "tests")
    with contextlib.ExitStack() as stack:
        stack.enter_context(running("tvm.exec.rpc_tracker", *listening(found["port"])))
        for _ in range(2):
            stack.enter_context(running("tvm.exec.rpc_server", *serving, *listening(free_port())))
        yield found


def listening(port: int) -> tuple[object, ...]:
    return ("--host", "127.0.0.1", "--port", port, "--port-end", port + 1)


def wait_for(tracker: Mapping[str, Any], count: int) -> int:
    found, end = 0, time.monotonic() + 60
    while found < count and time.monotonic() < end:
        with contextlib.suppress(InputError):
            found = remote.servers(tracker["host"], tracker["port"], tracker["key"])
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tornado") is None, reason="TVM's tracker needs tornado"
)
def test_two_servers_of_a_tracker_tune_together(
    artifact: Path, tracker: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ROUNDS", 1)
    assert wait_for(tracker, 2) == 2
    tunable = tuning.tunable(TARGET, None, tracker)
    assert tunable.processes == 2
    path, kernels = tmp_path / "remote.jsonl", Artifact.load(artifact).report["kernels"][:1]
    result = tune(tunable, path, lambda: kernels, trials=4, timeout=600.0)
    assert result.failures == []
    records = [r for r in Database.read(path, identity()).records if not r.final]
    assert len(records) == 4 and any(r.verified for r in records)
    assert all(0 < r.value < 0.1 and "127.0.0.1" in r.machine for r in records)
    with (
        remote.session(tracker, 1.0) as lent,
        pytest.raises(tvm.error.RPCSessionTimeoutError),
    ):
        time.sleep(2)
        lent.load_module("none.so")
    with pytest.raises(InputError, match="no server for the key 'others'"):
        tuning.tunable(TARGET, None, {**tracker, "key": "others"})
    with pytest.raises(InputError, match="got no answer"):
        tuning.tunable(TARGET, None, {**tracker, "port": free_port()})
