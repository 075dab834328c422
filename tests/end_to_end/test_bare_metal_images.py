"""An artifact's image from the command line, and the C runtime in the artifact's place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tvm_shiftadd as tsa
from tests.end_to_end import digits
from tests.vta_ext.bare.runtime import Board, Runtime
from tvm_shiftadd.cli import main
from tvm_shiftadd.manifest import TargetInfo
from vta_ext.presets import SMALL


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and the artifact of the built-in network, for the small machine."""
    folder = tmp_path_factory.mktemp("bare")
    pixels, labels = digits.load(folder)
    np.savez(folder / "images.npz", features=pixels[:60], labels=labels[:60])
    arguments = ["compile", folder / "digits.onnx", "-o", folder / "digits.vta"]
    arguments += ["--target", "vta:ecp5-small", "--calib", folder / "images.npz", "--json"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_the_built_in_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The runtime gives the artifact's outputs, and the header is the image's."""
    arguments = ["image", place / "digits.vta", "-o", place / "digits.img"]
    arguments += ["--header", place / "digits.h", "--json"]
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    data = (place / "digits.img").read_bytes()
    header = dict(re.findall(r"#define DIGITS_(\w+) (\S+)", (place / "digits.h").read_text()))
    assert said["bytes"] == len(data) == int(header["IMAGE_BYTES"].rstrip("u"))
    assert said["crc"] == f"{int.from_bytes(data[-4:], 'little'):08x}"
    assert header["IMAGE_CRC"] == f"0x{said['crc']}u"
    assert said["configuration"] == SMALL.hash

    artifact = tsa.Artifact.load(place / "digits.vta")
    inputs, outputs = (some[0].name.upper() for some in (artifact.inputs, artifact.outputs))
    arena = int(header["ARENA_BYTES"].rstrip("u"))
    elements = int(header[f"OUTPUT_{outputs}_ELEMENTS"].rstrip("u"))
    assert header[f"INPUT_{inputs}_ELEMENTS"] == "64u"
    runtime = Runtime(data, Board(SMALL, arena))
    assert runtime.status == "OK"
    with np.load(place / "images.npz") as stored:
        x = stored["features"][:5]
    wanted = artifact.run(x)
    assert isinstance(wanted, np.ndarray)
    for image, row in zip(x, wanted, strict=True):
        assert runtime.write(0, image) == "OK"
        assert runtime.run() == "OK"
        assert runtime.read(0, elements).tobytes() == row.tobytes()


def test_it_says_what_it_wrote(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["image", str(place / "digits.vta"), "-o", str(place / "again.img")]) == 0
    said = capsys.readouterr().out
    assert f"bytes {(place / 'again.img').stat().st_size}, " in said
    assert f"configuration {SMALL.hash}" in said


def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No artifact at all, and ones of the CPU and of a GPU; nothing is written."""
    arguments = ["image", str(tmp_path / "nothing"), "-o", str(tmp_path / "no.img")]
    assert main(arguments) == 2
    assert "not an artifact directory" in capsys.readouterr().err
    for kind, name in (("cpu", "CPU"), ("cuda", "GPU")):
        manifest = SimpleNamespace(target=TargetInfo(kind))
        loaded = SimpleNamespace(regions=None, manifest=manifest)
        monkeypatch.setattr("tvm_shiftadd.artifact.Artifact.load", lambda _, given=loaded: given)
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert f"for the {name} alone; compile the model with --target vta" in said
    assert not (tmp_path / "no.img").exists()
