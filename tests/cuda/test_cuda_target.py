"""The target "cuda": names, what it compiles to, and what is said where something is missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.cli import main
from tvm_shiftadd.errors import CompileError, DependencyError, DeviceError, InputError
from tvm_shiftadd.target import CPUTarget, CUDATarget, cuda, cuda_runtime, nvrtc, parse

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.available(), reason=f"needs NVRTC, NVIDIA's compiler: {nvrtc.INSTALL}"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda", CUDATarget()),
        ("cuda:sm_90", CUDATarget(arch="sm_90")),
        ({"kind": "cuda", "kernels": "shift"}, CUDATarget(kernels="shift")),
        ('{"kind": "cuda", "arch": "sm_75", "host": {"kind": "llvm"}}', None),
    ],
)
def test_names_and_mappings(text: str, expected: CUDATarget | None) -> None:
    found = parse(text)
    assert found == (expected or CUDATarget(arch="sm_75", host=CPUTarget()))
    assert parse(found.as_dict()) == found


@pytest.mark.parametrize(
    "text",
    [
        "cuda:",
        "cuda:90",
        "cuda:sm_61",
        "cuda:sm_9O",
        {"kind": "cuda", "arch": 80},
        {"kind": "cuda", "threads": 4},
        {"kind": "cuda", "kernels": "fast"},
        {"kind": "cuda", "host": "cpu"},
        {"kind": "cuda", "host": {"kind": "cuda"}},
    ],
)
def test_wrong_targets_are_refused(text: object) -> None:
    with pytest.raises(InputError, match=r"expected|unknown"):
        parse(text)  # type: ignore[arg-type]


def test_the_choice_between_targets_lists_cuda() -> None:
    with pytest.raises(InputError, match="'cuda:ARCH'"):
        parse("cudda")


@needs_nvrtc
def test_an_architecture_that_the_compiler_does_not_know() -> None:
    with pytest.raises(CompileError, match=r"NVRTC makes code for sm_75, .*, not for sm_777"):
        cuda.check(CUDATarget(arch="sm_777"))


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_what_tvm_cannot_build_is_an_error_of_compilation(kind: type[Exception]) -> None:
    def compiler(_source: str, _arch: str) -> str:
        raise kind("no such instruction")

    x = relax.Var("x", relax.TensorType((4, 4), "int8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(x)))
    with pytest.raises(CompileError, match=r"could not compile for sm_80: .*no such instruction"):
        cuda.build(builder.get(), CUDATarget(), compiler=compiler)


@needs_nvrtc
def test_what_the_compiler_refuses_is_told_by_its_first_error() -> None:
    with pytest.raises(CompileError, match=r"for sm_80: kernels\.cu\(1\): error: .*nothing"):
        nvrtc.compile_source("int f() { return nothing; }", "sm_80")


def test_without_the_compiler_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvrtc, "_path", lambda: None)
    nvrtc._library.cache_clear()
    try:
        with pytest.raises(DependencyError, match=re.escape("pip install 'tvm-shiftadd[cuda]'")):
            cuda.check(CUDATarget())
    finally:
        nvrtc._library.cache_clear()


def test_an_artifact_states_its_gpu_and_can_be_read_without_one(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ptx = cuda.code(artifact._library)
    assert ".target sm_86" in ptx
    artifact.save(tmp_path / "saved")
    assert ptx.encode() in (tmp_path / "saved" / "library.so").read_bytes()
    loaded = Artifact.load(tmp_path / "saved")
    assert loaded.manifest.target.kind == "cuda"
    assert loaded.manifest.target.attributes["arch"] == "sm_86"
    for command in ("explain", "report"):
        assert main([command, str(tmp_path / "saved")]) == 0
    assert "Totals of one inference" in capsys.readouterr().out
    assert main(["profile", str(tmp_path / "saved")]) == 2


@pytest.mark.skipif(cuda_runtime.driver() is not None, reason="an NVIDIA driver is here")
def test_running_without_a_gpu_is_refused_with_a_sentence(artifact: Artifact) -> None:
    shape = [4, *artifact.inputs[0].shape[1:]]
    with pytest.raises(
        DeviceError,
        match=r"needs an NVIDIA GPU of compute capability 8\.6 or newer; none is visible here",
    ):
        artifact.run(np.zeros(shape, np.float32))
