"""The files of ``tvm-shiftadd image``: both are written, or neither."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.vta_ext.bare.networks import NAMES, made
from tvm_shiftadd.cli import main
from vta_ext.bare.image import Image
from vta_ext.presets import SMALL


@pytest.fixture(autouse=True)
def artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network in the place of any artifact."""
    inputs, outputs = ([SimpleNamespace(name=name) for name in names] for names in NAMES)
    loaded = SimpleNamespace(regions=made(SMALL), inputs=inputs, outputs=outputs)
    monkeypatch.setattr("tvm_shiftadd.artifact.Artifact.load", lambda folder: loaded)


def image(*arguments: str | Path) -> int:
    return main(["image", "any.vta", *map(str, arguments)])


def test_image_and_header(tmp_path: Path) -> None:
    target, header = tmp_path / "net.img", tmp_path / "net.h"
    target.write_bytes(b"old")
    assert image("-o", target, "--header", header) == 0
    crc = Image.from_bytes(target.read_bytes()).crc
    assert f"#define NET_IMAGE_CRC 0x{crc:08x}u" in header.read_text()
    assert sorted(tmp_path.iterdir()) == [header, target]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("net.img", "would both be"),
        ("x/../net.img", "would both be"),
        ("none/net.h", "cannot write"),
        ("folder", "is a directory"),
        ("shiftadd.h", "would begin with SHIFTADD_"),
    ],
)
def test_headers_that_cannot_be(
    header: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image that was there before stays."""
    (tmp_path / "folder").mkdir()
    target = tmp_path / "net.img"
    target.write_bytes(b"old")
    assert image("-o", target, "--header", tmp_path / header) == 2
    assert words in capsys.readouterr().err
    assert target.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "net.img"}
