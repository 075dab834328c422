"""Artifacts with programs of the accelerator: saved, loaded, run; damaged and foreign ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.relay_passes.onnx_networks import NETWORKS, images_for
from tvm_shiftadd import api, manifest
from tvm_shiftadd.artifact import Artifact, check_replaceable
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import ArtifactError, DeviceError, InputError, ProgramError
from tvm_shiftadd.manifest import FileEntry, Manifest
from tvm_shiftadd.target import DeviceChoice
from vta_ext.isa import instruction as isa
from vta_ext.presets import SHIFT
from vta_ext.program import Program

PROGRAM, TABLE = "region-000.vta", "regions.json"


@pytest.fixture(scope="module")
def model() -> api.Model:
    return api.load(NETWORKS["residual"]())


@pytest.fixture(scope="module")
def images(model: api.Model) -> np.ndarray[Any, Any]:
    return images_for(model, 3)


@pytest.fixture(scope="module")
def made(model: api.Model, images: np.ndarray[Any, Any]) -> tuple[Artifact, Artifact]:
    """The same integers for the accelerator and for the CPU."""
    conversion = api.convert(model, images)
    return api.build(model, conversion, target="vta"), api.build(model, conversion)


@pytest.fixture
def saved(made: tuple[Artifact, Artifact], tmp_path: Path) -> Path:
    made[0].save(tmp_path / "out")
    return tmp_path / "out"


def test_the_results_are_those_of_the_cpu(
    made: tuple[Artifact, Artifact], saved: Path, images: np.ndarray[Any, Any]
) -> None:
    wanted = made[1].run(images)
    np.testing.assert_array_equal(made[0].run(images), wanted)
    loaded = Artifact.load(saved)
    np.testing.assert_array_equal(loaded.run(images), wanted)
    np.testing.assert_array_equal(loaded.run(images[:1]), wanted[:1])
    np.testing.assert_array_equal(loaded.machine(1)([images])[0], wanted)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"residual"}))
def test_networks_of_every_operator(name: str, tmp_path: Path) -> None:
    """Several regions, several outputs, operators that stay on the host."""
    model = api.load(NETWORKS[name]())
    x = images_for(model, 2)
    conversion = api.convert(model, x)
    api.build(model, conversion, target="vta").save(tmp_path / "out")
    found = Artifact.load(tmp_path / "out").run(x)
    np.testing.assert_equal(found, api.build(model, conversion).run(x))


def test_what_is_in_it(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        manifest.MANIFEST,
        *manifest.CONTENTS,
        PROGRAM,
        TABLE,
    }
    loaded = Artifact.load(saved)
    attributes = loaded.manifest.target.attributes
    assert loaded.manifest.target.kind == "vta"
    assert attributes["machine"] == "shift-16x16"
    assert attributes["configuration"] == SHIFT.hash
    assert "features" in attributes
    assert Program.load(saved / PROGRAM).config == SHIFT
    devices = {row["operator"]: row.get("device") for row in loaded.report["operators"]}
    assert devices["conv2d"] == "accelerator"
    again = saved.parent / "again"
    loaded.save(again)
    assert (again / PROGRAM).read_bytes() == (saved / PROGRAM).read_bytes()
    check_replaceable(again)


def test_compilation_is_deterministic(model: api.Model, saved: Path, images: Any) -> None:
    api.build(model, api.convert(model, images), target="vta:shift-16x16").save(saved.parent / "b")
    for name in (PROGRAM, TABLE):
        assert (saved / name).read_bytes() == (saved.parent / "b" / name).read_bytes()


def test_devices_count(saved: Path, images: Any) -> None:
    loaded = Artifact.load(saved)
    assert loaded.run(images[:1]) is not None
    assert loaded.counted == {"launches": 1}
    loaded.connect("timing")
    assert loaded.counted == {"launches": 0}
    loaded.run(images[:1])
    once = loaded.counted["cycles"]
    loaded.run(images)
    assert loaded.counted["cycles"] == 4 * once > 0
    assert loaded.counted["launches"] == 4


def test_wrong_devices(saved: Path, made: tuple[Artifact, Artifact], images: Any) -> None:
    loaded = Artifact.load(saved)
    wanted = loaded.run(images)
    with pytest.raises(InputError, match="no device 'fpga'"):
        loaded.connect("fpga")
    with pytest.raises(InputError, match="has its own device"):
        loaded.connect(DeviceChoice("sim", rpc="127.0.0.1:1", key="x"))
    np.testing.assert_array_equal(loaded.run(images), wanted)
    with pytest.raises(InputError, match="for the CPU alone"):
        made[1].connect("sim")


def test_a_device_that_takes_too_long(saved: Path, images: Any) -> None:
    """One sentence, through TVM's virtual machine; the artifact runs again."""
    loaded = Artifact.load(saved)
    loaded.connect(DeviceChoice(limit=1e-9))
    for _ in range(2):
        with pytest.raises(DeviceError, match="stopped the program after 1e-09 s"):
            loaded.run(images)
    loaded.connect("sim")
    assert len(loaded.run(images)) == len(images)


@pytest.mark.parametrize("name", [PROGRAM, TABLE])
def test_damaged_and_missing_files(name: str, saved: Path) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name} was altered"):
        Artifact.load(saved)
    (saved / name).write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"{name} has .* it was cut short"):
        Artifact.load(saved)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        Artifact.load(saved)


def replace(folder: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change files and make the manifest agree, as someone who means harm would."""
    described = manifest.decode((folder / manifest.MANIFEST).read_bytes(), "")
    files = {name: (folder / name).read_bytes() for name in described.files}
    change(files)
    for name in set(described.files) - set(files):
        (folder / name).unlink()
    entries = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        entries[name] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
    rewrite(folder, msgspec.structs.replace(described, files=entries))


def rewrite(folder: Path, described: Manifest) -> None:
    (folder / manifest.MANIFEST).write_bytes(manifest.encode(manifest.seal(described)))


def test_a_program_that_is_left_out(saved: Path) -> None:
    replace(saved, lambda files: files.pop(PROGRAM) and None)
    with pytest.raises(ArtifactError, match=r"lists the programs region-000.vta, but there are"):
        Artifact.load(saved)
    replace(saved, lambda files: files.pop(TABLE) and None)
    with pytest.raises(ArtifactError, match=r"regions.json is missing"):
        Artifact.load(saved)


def test_another_machines_program(saved: Path, model: api.Model, images: Any) -> None:
    other = saved.parent / "small"
    api.build(model, api.convert(model, images), target="vta:ecp5-small").save(other)
    foreign = (other / PROGRAM).read_bytes()
    replace(saved, lambda files: files.update({PROGRAM: foreign}))
    with pytest.raises(ArtifactError, match=r"region-000.vta: .*compile it for this device"):
        Artifact.load(saved)


def test_a_program_that_is_not_safe(saved: Path, images: Any) -> None:
    """Well-formed, but it stores what nobody wrote: refused before it runs."""
    original = Program.load(saved / PROGRAM)
    store = isa.store(sram_base=0, dram_base=0, x_size=1)
    unsafe = Program(SHIFT, (store, isa.finish()), original.sections)
    replace(saved, lambda files: files.update({PROGRAM: unsafe.to_bytes()}))
    loaded = Artifact.load(saved)
    with pytest.raises(ProgramError, match=r"vta_region_000: the program is not safe to run"):
        loaded.run(images)


def test_programs_in_an_artifact_of_the_cpu(
    made: tuple[Artifact, Artifact], saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cpu"
    made[1].save(folder)
    shutil.copy(saved / PROGRAM, folder)
    described = manifest.decode((folder / manifest.MANIFEST).read_bytes(), "")
    entry = FileEntry(1, "0" * 64)
    files = {**described.files, PROGRAM: entry}
    rewrite(folder, msgspec.structs.replace(described, files=files))
    with pytest.raises(ArtifactError, match=r"must list .* but lists .*region-000.vta"):
        Artifact.load(folder)


def test_machines_that_do_not_exist(model: api.Model, images: Any, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match="there is no machine 'big'; give a JSON file"):
        api.compile(
            model,
            target="vta:big",
            calibration={model.graph.inputs[0]: images},
            progress=lambda phase, *_: told.append(phase),
        )
    assert told == []  # before the conversion
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({**SHIFT.to_dict(), "LOG_BLOCK": 9}))
    with pytest.raises(InputError, match=r"mine.json: LOG_BLOCK must be 1 to 6"):
        api.explain(model, target=f"vta:{config}")


def test_devices_that_cannot_be_used(model: api.Model, images: Any) -> None:
    """Refused before the conversion, as by an artifact."""
    told: list[str] = []
    data = Dataset(images, np.zeros(len(images), np.int64))
    for target, device, says in (
        ("cpu", "sim", "for the CPU alone, which needs no device"),
        ("vta", "fpga", "there is no device 'fpga'"),
        ("vta", "serial", r"expected the device serial:PORT\[,BAUD\], got serial"),
        ("vta", "sim:1", "expected the device sim, got sim:1"),
        ("vta", DeviceChoice(limit=-1.0), "a time limit of more than 0 seconds"),
        ("vta", DeviceChoice(rpc="nowhere", key="k"), "expected HOST:PORT"),
        ("vta", DeviceChoice(rpc="127.0.0.1:1"), "expected a key"),
        ("vta", DeviceChoice(rpc="127.0.0.1:1", key="k", limit=-1.0), "more than 0 seconds"),
        ("vta", DeviceChoice("sim", rpc="127.0.0.1:1", key="k"), "has its own device"),
    ):
        with pytest.raises(InputError, match=says):
            api.evaluate(
                model,
                data,
                calibration={model.graph.inputs[0]: images},
                target=target,
                device=device,
                progress=lambda phase, *_: told.append(phase),
            )
    assert told == []


def test_a_machine_of_ones_own(model: api.Model, images: Any, tmp_path: Path) -> None:
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({**SHIFT.to_dict(), "LOG_INP_BUFF_SIZE": 14}))
    target = {"kind": "vta", "machine": str(config), "host": {"kind": "llvm", "mcpu": "generic"}}
    made = api.build(model, api.convert(model, images), target=target)
    assert made.manifest.target.attributes["machine"] == "mine"
    assert made.manifest.target.attributes["mcpu"] == "generic"
    assert made.regions.config.log_inp_buff_size == 14
    assert len(made.run(images)) == len(images)


def test_an_operator_that_stays_on_the_host_is_explained(model: api.Model) -> None:
    explanation = api.explain(model, target="vta")
    assert explanation.accelerator_share == 1.0
    rows = {row.name: row for row in explanation.operators}
    assert rows["stem/conv"].device == "accelerator"
    assert "device" not in api.explain(model).to_dict()["operators"][0]
