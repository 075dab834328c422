"""Artifacts for a machine other than the one that compiles: AArch64 from x86-64, or the reverse."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd import _processor, _runtime, api, doctor
from tvm_shiftadd._processor import machine
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.cli import main
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import ArtifactError, CompileError, DependencyError, InputError
from tvm_shiftadd.manifest import Source, TargetInfo, TensorInfo
from tvm_shiftadd.target import CPUTarget, cpu, link, parse
from tvm_shiftadd.target.processor import AARCH64, TRIPLES, X86_64
from tvm_shiftadd.topi.schedules.cpu.dot.arm import DOTPROD, I8MM

#: A machine that this one is not.
OTHER = next(triple for triple in TRIPLES if link.is_foreign(triple))
NEEDS_LINKER = pytest.mark.skipif(not link.linker(OTHER), reason=link.remedy(OTHER))
#: What the header of an ELF file says its code is for.
ELF_MACHINES = {X86_64: 62, AARCH64: 183}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu:aarch64", CPUTarget(mcpu="generic", mtriple=AARCH64)),
        ({"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu"}, parse("cpu:aarch64")),
        (
            {"kind": "llvm", "mtriple": AARCH64, "mcpu": "cortex-a76"},
            CPUTarget(mcpu="cortex-a76", mtriple=AARCH64),
        ),
    ],
)
def test_targets_are_read_and_written(text, expected) -> None:
    assert parse(text) == expected
    assert parse(expected.as_dict()) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mtriple": "armv7l-linux-gnueabihf"}, AARCH64),
        ({"mtriple": "aarch64"}, AARCH64),
        ({"mtriple": 64}, AARCH64),
        ({"mtriple": None}, AARCH64),
        ({"mtriple": AARCH64, "mcpu": "host"}, "cortex-a76"),
    ],
)
def test_what_names_no_machine_is_refused(fields, said) -> None:
    with pytest.raises(InputError, match=said):
        parse({"kind": "llvm", **fields})


def arm(mcpu: str, *mattr: str) -> CPUTarget:
    return CPUTarget(mcpu=mcpu, mattr=mattr, mtriple=AARCH64)


def test_processor_and_features_are_those_of_the_machines_family() -> None:
    assert "dotprod" in cpu.features(arm("cortex-a76"))
    assert "i8mm" in cpu.features(arm("cortex-a76", "+i8mm"))
    with pytest.raises(CompileError, match=r"znver4.*cortex-a76"):
        cpu.tvm_target(arm("znver4"))
    with pytest.raises(CompileError, match=r"\+avx2"):
        cpu.tvm_target(arm("generic", "+avx2"))
    with pytest.raises(CompileError, match="AVX2"):
        cpu.tvm_target(CPUTarget(mcpu="x86-64", mtriple=X86_64))


def test_the_best_instructions_of_a_processor_are_taken() -> None:
    expected = {
        "generic": None,
        "cortex-a72": None,
        "cortex-a76": DOTPROD,
        "neoverse-n1": DOTPROD,
        "neoverse-v1": I8MM,
        "apple-m2": I8MM,
    }
    assert {mcpu: cpu.instruction_set(arm(mcpu)) for mcpu in expected} == expected
    assert cpu.vector_lanes(cpu.tvm_target(arm("cortex-a76"))) == 8


def test_the_manifest_says_machine_and_features() -> None:
    found = pinned(arm("cortex-a76"))
    assert found.attributes["triple"] == AARCH64
    assert found.attributes["features"] == ["asimd", "asimddp", "asimdhp"]
    assert parse(found.asked) == arm("cortex-a76")
    here = pinned(CPUTarget())
    assert str(here.attributes["triple"]).split("-")[0].replace("arm64", "aarch64") == machine()
    assert parse(here.asked) == CPUTarget()


def pinned(target: CPUTarget) -> TargetInfo:
    return _runtime.pinned(TargetInfo("cpu", target.as_dict()))


@pytest.fixture(scope="module")
def elsewhere(adding) -> Artifact:
    """x + w, compiled for the other machine."""
    target = CPUTarget(mcpu="generic", mtriple=OTHER)
    return Artifact(
        cpu.build(adding, target, data_inputs=1),
        {"w": np.arange(4, dtype=np.float32)},
        source=Source(name="tiny.onnx", sha256="0" * 64, format="onnx"),
        target=TargetInfo("cpu", target.as_dict()),
        inputs=[TensorInfo("x", (-1, 4), "float32")],
        outputs=[TensorInfo("y", (-1, 4), "float32")],
    )


def test_it_does_not_run_here(elsewhere: Artifact) -> None:
    with pytest.raises(ArtifactError, match=f"machines of {OTHER}, this one is {machine()}"):
        elsewhere.run(np.zeros((1, 4), np.float32))


@NEEDS_LINKER
def test_it_is_linked_for_the_other_machine(elsewhere: Artifact, tmp_path: Path) -> None:
    elsewhere.save(tmp_path / "out")
    library = (tmp_path / "out" / "library.so").read_bytes()
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == ELF_MACHINES[OTHER]
    loaded = Artifact.load(tmp_path / "out")
    assert loaded.manifest.target.attributes["mtriple"] == OTHER
    with pytest.raises(ArtifactError, match=OTHER):
        loaded.run(np.zeros((1, 4), np.float32))


def test_code_for_this_machine_is_refused_on_another(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_processor.platform, "machine", lambda: "riscv64")
    with pytest.raises(ArtifactError, match="this one is riscv64"):
        Artifact.load(saved).run(np.zeros((1, 4), np.float32))


def test_features_of_another_family_are_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulators of a whole process show what the machine below them has."""
    shown = tmp_path / "cpuinfo"
    monkeypatch.setattr(_processor, "_CPUINFO", shown)
    names = {"x86_64": "flags\t: fpu avx2", "aarch64": "Features\t: fp asimd asimddp"}
    found = {}
    for family in names:
        monkeypatch.setattr(_processor.platform, "machine", lambda family=family: family)
        for other, text in names.items():
            shown.write_text(f"{text}\n")
            _processor.vector_features.cache_clear()
            found[family, other] = _processor.vector_features()
    _processor.vector_features.cache_clear()
    assert found == {
        ("x86_64", "x86_64"): {"avx2"},
        ("x86_64", "aarch64"): None,
        ("aarch64", "x86_64"): None,
        ("aarch64", "aarch64"): {"asimd", "asimddp"},
    }


@pytest.fixture
def no_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "linker", lambda _: ())


@pytest.mark.usefixtures("no_linker")
def test_a_missing_linker_is_said_before_the_work(
    elsewhere: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "g++-" + OTHER.replace("_", "-")
    target = {"kind": "llvm", "mtriple": OTHER}
    with pytest.raises(DependencyError, match=rf"{OTHER}.*{package.replace('+', '.')}"):
        api.compile("no model is read.onnx", target=target, calibration={})
    with pytest.raises(DependencyError, match=OTHER):
        elsewhere.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(doctor, "_tvm", lambda: ())
    check = next(c for c in doctor.diagnose().checks if c.name == f"linker for {OTHER}")
    assert check.status == "optional" and package in check.remedy


def test_gnu_links_before_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    zig = (sys.executable, "-m", "ziglang", "cc", "-target", f"{OTHER}.2.28")
    assert link.linker(OTHER) == zig
    gnu = tmp_path / f"{OTHER}-gcc"
    gnu.touch(stat.S_IRWXU)
    assert link.linker(OTHER) == (str(gnu),)


def test_a_linker_that_fails_is_quoted_with_its_command(
    elsewhere: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / f"{OTHER}-g++"
    tool.write_text("#!/bin/sh\necho 'ld: error: no such emulation' >&2\nexit 1\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert link.linker(OTHER) == (str(tool),)
    with pytest.raises(CompileError, match=rf"no such emulation.*{OTHER}-g\S+ -shared -o"):
        elsewhere.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_this_machine_needs_no_cross_linker() -> None:
    assert not link.is_foreign("")
    assert not any(link.is_foreign(t) for t in TRIPLES if t.split("-")[0] == machine())
    assert link.is_foreign(OTHER)


def test_what_is_to_run_here_is_refused_before_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "load", None)
    monkeypatch.setattr(api, "convert", None)
    target = {"kind": "llvm", "mtriple": OTHER}
    images = Dataset(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64))
    network = object.__new__(api.Model)
    for described in (target, {"kind": "vta", "host": target}, {"kind": "cuda", "host": target}):
        with pytest.raises(InputError, match=rf"this machine.*one of {OTHER}.*run the artifact"):
            api.evaluate(network, images, calibration=images, target=described)
    (tmp_path / "any.onnx").touch()
    arguments = ["bench", str(tmp_path / "any.onnx"), "--target", json.dumps(target)]
    assert main(arguments) == 2
    assert f"got one of {OTHER}" in capsys.readouterr().err
