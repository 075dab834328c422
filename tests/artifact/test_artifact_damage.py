from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_shiftadd import manifest
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.errors import ArtifactError
from tvm_shiftadd.manifest import FileEntry, Manifest

FILES = ("manifest.json", "library.so", "weights.safetensors", "report.json")


def rewrite(folder: Path, change: Any) -> None:
    """Change the manifest's fields and seal it again, as a forger would."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_bytes(json.dumps(fields).encode())


def seal(folder: Path) -> None:
    """Give the manifest a correct checksum for whatever it says now."""
    import msgspec

    path = folder / "manifest.json"
    forged = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_bytes(manifest.encode(manifest.seal(forged)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.33, 0.5, 0.999])
def test_flipped_byte(saved: Path, name: str, place: float) -> None:
    path = saved / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        Artifact.load(saved)


def test_every_byte_of_the_manifest_counts(saved: Path) -> None:
    text = (saved / "manifest.json").read_bytes()

    @given(st.integers(0, len(text) - 1), st.integers(1, 255))
    def flip(position: int, bits: int) -> None:
        changed = bytearray(text)
        changed[position] ^= bits
        with pytest.raises(ArtifactError):
            manifest.decode(bytes(changed), "manifest.json")

    flip()


@pytest.mark.parametrize("name", FILES)
def test_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        Artifact.load(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_file(saved: Path, name: str, keep: float) -> None:
    path = saved / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ArtifactError):
        Artifact.load(saved)


def test_longer_file(saved: Path) -> None:
    with (saved / "report.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match="expected at most"):
        Artifact.load(saved)


def test_future_version(saved: Path) -> None:
    rewrite(saved, lambda m: m.update(format_version=99, something_new=[1]))
    with pytest.raises(ArtifactError, match=r"format version 99.*upgrade"):
        Artifact.load(saved)


def test_older_version(saved: Path) -> None:
    # The first version knew no unsigned activations.
    rewrite(saved, lambda m: m.update(format_version=1))
    with pytest.raises(ArtifactError, match=r"format version 1, .*compile the model again"):
        Artifact.load(saved)


def test_unknown_field(saved: Path) -> None:
    rewrite(saved, lambda m: m.update(surprise=1))
    with pytest.raises(ArtifactError, match="surprise"):
        Artifact.load(saved)


@pytest.mark.parametrize(
    "name", ["../library.so", "/etc/passwd", "a/b", "..", ".hidden", "", "a\\b"]
)
def test_file_name_that_leaves_the_folder(saved: Path, name: str) -> None:
    def escape(fields: dict[str, Any]) -> None:
        fields["files"][name] = fields["files"].pop("library.so")

    rewrite(saved, escape)
    seal(saved)
    with pytest.raises(ArtifactError, match="leaves the artifact's folder"):
        Artifact.load(saved)


def test_file_set_must_be_complete(saved: Path) -> None:
    rewrite(saved, lambda m: m["files"].pop("report.json"))
    seal(saved)
    with pytest.raises(ArtifactError, match="must list"):
        Artifact.load(saved)


def test_link_out_of_the_folder(saved: Path, tmp_path: Path) -> None:
    os.rename(saved / "library.so", tmp_path / "elsewhere.so")
    (saved / "library.so").symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(ArtifactError, match="leads out"):
        Artifact.load(saved)


def test_link_to_itself(saved: Path) -> None:
    (saved / "library.so").unlink()
    (saved / "library.so").symlink_to("library.so")
    with pytest.raises(ArtifactError):
        Artifact.load(saved)


def test_pipe_instead_of_a_file_does_not_hang(saved: Path) -> None:
    (saved / "report.json").unlink()
    os.mkfifo(saved / "report.json")
    with pytest.raises(ArtifactError, match="not a regular file"):
        Artifact.load(saved)


def forge(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and correct its hash, so that only its content can give it away."""
    from hashlib import sha256

    (folder / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    FileEntry(**entry)
    rewrite(folder, lambda m: m["files"].update({name: entry}))
    seal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (60).to_bytes(8, "little")
        + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,9000000]}}',
        (2).to_bytes(8, "little") + b"{}",
    ],
)
def test_weights_header_that_claims_too_much(saved: Path, content: bytes) -> None:
    forge(saved, "weights.safetensors", content)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        Artifact.load(saved)


def test_weights_of_another_network(saved: Path) -> None:
    from safetensors.numpy import save

    forge(saved, "weights.safetensors", save({"w": np.zeros(5, np.float32)}))
    with pytest.raises(ArtifactError, match="does not hold the parameters"):
        Artifact.load(saved)


def test_report_that_is_no_json(saved: Path) -> None:
    forge(saved, "report.json", b"[" * 10)
    with pytest.raises(ArtifactError, match=r"report\.json"):
        Artifact.load(saved)


def test_library_that_is_no_library(saved: Path) -> None:
    forge(saved, "library.so", b"not a library")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Artifact.load(saved).run(np.ones((1, 4), np.float32))


def test_library_of_another_tvm(saved: Path) -> None:
    rewrite(saved, lambda m: m.update(tvm_version="0.99.1"))
    seal(saved)
    with pytest.raises(ArtifactError, match=r"TVM 0\.99\.1"):
        Artifact.load(saved).run(np.ones((1, 4), np.float32))


def test_library_for_another_processor(saved: Path) -> None:
    rewrite(saved, lambda m: m["target"]["attributes"].update(features=["avx4096"]))
    seal(saved)
    with pytest.raises(ArtifactError, match="processor with avx4096"):
        Artifact.load(saved).run(np.ones((1, 4), np.float32))


def test_library_changed_after_loading(saved: Path) -> None:
    artifact = Artifact.load(saved)
    (saved / "library.so").write_bytes(b"x")
    with pytest.raises(ArtifactError):
        artifact.run(np.ones((1, 4), np.float32))


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an artifact directory"):
        Artifact.load(tmp_path / "none")
