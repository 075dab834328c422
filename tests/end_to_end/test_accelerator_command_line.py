"""The accelerator from the command line, on the network that comes with the package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_shiftadd as tsa
from tests.end_to_end import digits
from tests.end_to_end.digits import said
from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import DeviceError, ProgramError
from tvm_shiftadd.target import DeviceChoice
from vta_ext.config import save
from vta_ext.presets import preset
from vta_ext.runtime import server as serving

COMMAND = [sys.executable, "-m", "tvm_shiftadd.cli"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, inputs, and artifacts of both targets: vta and cpu."""
    folder = tmp_path_factory.mktemp("digits")
    digits.compile_into(folder, vta="vta", cpu="cpu")
    return folder


@pytest.fixture(scope="module")
def small(place: Path) -> Path:
    """The artifact of another machine, whose memory port is half as wide."""
    arguments = ["compile", place / "digits.onnx", "-o", place / "small", "--json"]
    arguments += ["--target", "vta:ecp5-small", "--calib", place / "images.npz"]
    assert main([str(argument) for argument in arguments]) == 0
    return place / "small"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) in (1, 2)
    return capsys.readouterr().err


def results(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path) as stored:
        return dict(stored)


def test_compile_names_the_machine(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compile", place / "digits.onnx", "-o", tmp_path / "out", "--target", "vta:pynq"]
    arguments += ["--calib", place / "images.npz", "--calib-limit", 8]
    found = said(capsys, *arguments, "--dump-ir", tmp_path / "ir")
    assert (found["target"], found["machine"], found["programs"]) == ("vta", "pynq", 1)
    (dumped,) = (tmp_path / "ir").glob("*-Partition.txt")
    assert "func @vta_region_000(" in dumped.read_text()


def test_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, *more in (("cpu",), ("vta",), ("vta", "--device", "timing")):
        out = place / f"{'-'.join([target, *more])}.npz"
        found = said(
            capsys, "run", place / target, "--input", place / "x.npz", "--output", out, *more
        )
        (wanted,) = results(place / "cpu.npz").values()
        (got,) = results(out).values()
        np.testing.assert_array_equal(got, wanted)
        assert ("device" in found) == (target == "vta")
    assert found["device"]["launches"] == 5
    assert found["device"]["cycles"] > 1000
    text = ["run", place / "vta", "--input", place / "x.npz", "--output", place / "t.npz"]
    assert main([str(word) for word in text]) == 0
    assert "a launch" in capsys.readouterr().out


def test_eval(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--data", place / "images.npz", "--limit", 20]
    cpu, vta = (said(capsys, "eval", place / target, *shared) for target in ("cpu", "vta"))
    assert vta["shiftadd"]["top1"] == cpu["shiftadd"]["top1"] > 80
    assert vta["device"]["launches"] >= 20
    assert "device" not in cpu
    model = said(
        capsys,
        *("eval", place / "digits.onnx", *shared, "--calib", place / "images.npz"),
        *("--target", "vta:shift-16x16", "--device", "timing"),
    )
    assert model["shiftadd"] | {"seconds": 0} == vta["shiftadd"] | {"seconds": 0}
    assert model["device"]["cycles"] > 0


def test_profile(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = place / "trace.json"
    found = said(capsys, "profile", place / "vta", "--trace", trace)
    assert json.loads(trace.read_text())["traceEvents"]
    assert found["machine"] == "shift-16x16"
    assert found["parameters"]["memory_bits"] == 64
    (region,) = found["regions"]
    assert found["cycles"] == region["cycles"]
    for label in region["labels"]:
        assert sum(label["bytes_by_memory"].values()) == label["bytes"]
    slow = said(capsys, "profile", place / "vta", "--memory-latency", 1000, "--memory-bits", 32)
    assert slow["cycles"] > found["cycles"]
    assert main(["profile", str(place / "vta")]) == 0
    text = capsys.readouterr().out
    for words in ("Cycles by layer", "Bytes by buffer", "token from load", f"{found['cycles']:,}"):
        assert words in text


def test_machines_that_take_several_images(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Full launches of 8 images, and figures that say what they are for."""
    machine = replace(preset("shift-16x16").config, log_batch=3)
    save(machine, tmp_path / "machine.json")
    arguments = ["compile", place / "digits.onnx", "-o", tmp_path / "wide", "--calib-limit", 8]
    arguments += ["--target", f"vta:{tmp_path / 'machine.json'}", "--calib", place / "images.npz"]
    said(capsys, *arguments)
    images = np.load(place / "images.npz")["features"][:17]
    np.savez(tmp_path / "x.npz", images)
    out = ("--output", tmp_path / "y.npz")
    found = said(capsys, "run", tmp_path / "wide", "--input", tmp_path / "x.npz", *out)
    assert found["device"]["launches"] == 3
    timed = said(capsys, "profile", tmp_path / "wide")
    assert timed["images"] == 8
    assert main(["profile", str(tmp_path / "wide")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{timed['cycles']:,} cycles a launch of 8 images" in text
    assert f"{timed['cycles'] / 8:,.0f} an image" in text
    assert "Bytes by buffer, a launch of 8 images" in text


def test_the_memory_port_is_the_same_everywhere(
    place: Path,
    small: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Profile, device and server count one machine's cycles."""
    profiled = said(capsys, "profile", small)
    assert profiled["parameters"]["memory_bits"] == 32
    run = ["run", small, "--input", place / "x.npz", "--output", place / "small.npz"]
    counted = said(capsys, *run, "--device", "timing")["device"]
    assert counted["cycles"] == counted["launches"] * profiled["cycles"]

    made: list[Any] = []
    monkeypatch.setattr(serving, "serve", lambda make, **more: made.append(make(1.0)))
    assert main(["serve", "ecp5-small", "--device", "timing"]) == 0
    program = tsa.Artifact.load(small).regions.regions[0].program
    assert made[0].load(program).counters()["cycles"] == profiled["cycles"]


def test_explain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = said(capsys, "explain", place / "digits.onnx", "--target", "vta")
    artifact = said(capsys, "explain", place / "vta")
    assert model["operators"] == artifact["operators"]
    assert model["accelerator_share"] == artifact["accelerator_share"] == 1.0
    assert main(["explain", str(place / "vta")]) == 0
    text = capsys.readouterr().out
    assert "runs on" in text
    assert "run on the accelerator" in text
    assert "accelerator_share" not in said(capsys, "explain", place / "cpu")


def test_wrong_use(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", place / "vta", "--input", place / "x.npz", "--output", place / "no.npz"]
    cases = [
        ([*run, "--device", "fpga"], "there is no device 'fpga'; the devices are sim"),
        ([*run, "--time-limit", "0"], "a time limit of more than 0 seconds"),
        ([*run, "--time-limit", "1e-9"], "stopped the program after 1e-09 s"),
        ([*run, "--key", "abc"], "--key is for --rpc"),
        ([*run, "--rpc", "nowhere"], "expected HOST:PORT"),
        ([*run, "--rpc", "127.0.0.1:1"], "expected a key"),
        ([*run, "--rpc", "127.0.0.1:1", "--key", "x"], "no server answers at 127.0.0.1:1"),
        (["run", place / "cpu", *run[2:], "--device", "sim"], "for the CPU alone"),
        (["profile", place / "cpu", "--trace", "t.json"], "this one is for the CPU"),
        (["profile", place / "vta", "--rounds", "3"], "are for artifacts of the CPU"),
        (["profile", place / "vta", "--memory-bits", "7"], "memory_bits must be whole bytes"),
        (["profile", place / "vta", "--trace", place / "no" / "t"], "a file in an existing folder"),
        (["explain", place / "digits.onnx", "--target", "vta:big"], "there is no machine 'big'"),
        (["bench", place / "vta"], "profile gives its cycles"),
        (["bench", place / "digits.onnx", "--target", "vta"], "profile gives its cycles"),
        (["serve", "big"], "there is no machine 'big'"),
        (["serve", "--device", "fpga"], "there is no device 'fpga'"),
        (["serve", "--key", "two words"], "expected a key"),
        (["serve", "--port", "99999", "--key", "k"], "cannot listen at 127.0.0.1:99999"),
    ]
    for arguments, words in cases:
        error = refused(capsys, *arguments)
        assert words in error, (arguments, error)
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (place / "no.npz").exists()


def test_a_key_in_the_environment_is_for_servers_alone(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", place / "vta", "--input", place / "x.npz", "--output", place / "key.npz"]
    monkeypatch.setenv("TVM_SHIFTADD_KEY", "abc")
    for more in ([], ["--device", "timing"]):
        assert said(capsys, *run, *more)["device"]["launches"] == 5
    data = ["--data", place / "images.npz", "--limit", 5]
    for target in ("vta", "cpu"):
        assert said(capsys, "eval", place / target, *data)["shiftadd"]["top1"] > 0


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """A server of its own process: what it says of itself."""
    words = [*COMMAND, "serve", "--device", "timing", "--time-limit", "20", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()
    assert process.stderr is not None
    assert "broken off" not in process.stderr.read()
    process.stderr.close()


def test_over_rpc(
    place: Path,
    server: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ["run", place / "vta", "--input", place / "x.npz", "--output", place / "rpc.npz"]
    there = ["--rpc", server["address"]]
    wanted = tsa.Artifact.load(place / "cpu").run(*results(place / "x.npz").values())
    monkeypatch.setenv("TVM_SHIFTADD_KEY", server["key"])
    found = said(capsys, *run, *there)
    np.testing.assert_array_equal(*results(place / "rpc.npz").values(), wanted)
    assert found["device"]["launches"] == 5
    assert found["device"]["cycles"] > 1000
    # A wrong key or a device of one's own gets a sentence; the next client is served.
    assert "it has another key" in refused(capsys, *run, *there, "--key", "wrong")
    assert "has its own device" in refused(capsys, *run, *there, "--device", "sim")
    assert said(capsys, *run, *there)["device"]["launches"] == 5


def test_a_server_with_another_machine(small: Path, server: dict[str, str]) -> None:
    artifact = tsa.Artifact.load(small)
    with pytest.raises(
        ProgramError, match=f"its machine has configuration {server['configuration']}"
    ):
        artifact.connect(DeviceChoice(rpc=server["address"], key=server["key"]))
    assert len(artifact.run(np.zeros((2, 1, 8, 8), np.float32))) == 2


def test_a_remote_time_limit_leaves_the_connection_usable(
    place: Path, server: dict[str, str]
) -> None:
    artifact = tsa.Artifact.load(place / "vta")
    x = next(iter(results(place / "x.npz").values()))
    artifact.connect(DeviceChoice(limit=1e-9, rpc=server["address"], key=server["key"]))
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"the server at .*stopped the program after 1e-09"):
            artifact.run(x)
    artifact.connect(DeviceChoice(rpc=server["address"], key=server["key"]))
    assert len(artifact.run(x)) == 5


def test_a_server_that_ends(place: Path) -> None:
    """One sentence at the next run, and the artifact runs elsewhere."""
    environment = os.environ | {"TVM_SHIFTADD_KEY": "abc"}
    process = subprocess.Popen(
        [*COMMAND, "serve", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["address"]
    artifact = tsa.Artifact.load(place / "vta")
    x = next(iter(results(place / "x.npz").values()))
    artifact.connect(DeviceChoice(rpc=address, key="abc"))
    wanted = artifact.run(x)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    with pytest.raises(DeviceError, match=f"the server at {address} broke off during"):
        artifact.run(x)
    artifact.connect("sim")
    np.testing.assert_array_equal(artifact.run(x), wanted)
