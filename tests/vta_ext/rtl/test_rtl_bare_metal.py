"""The C runtime as a program of its own, linked with the Verilated machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from tests.vta_ext.bare.networks import NAMES, expected, made
from tests.vta_ext.bare.runtime import FOLDER, SOURCES, compiled
from tvm_shiftadd import api
from tvm_shiftadd.data import Preprocess, open_dataset
from tvm_shiftadd.errors import DependencyError
from vta_ext.bare.image import Image
from vta_ext.bare.make import make
from vta_ext.config import Config
from vta_ext.presets import SHIFT, SMALL
from vta_ext.rtl.build import build

Floats = NDArray[np.float32]


def run(folder: Path, config: Config, image: Image, x: Floats) -> tuple[list[Floats], list[int]]:
    """Every output for images ``x`` of the one input, and the cycles of each launch."""
    try:
        machine = build(config)
    except DependencyError as error:
        pytest.skip(str(error))
    sources = (FOLDER / "verilated.c", *SOURCES, machine)
    program = compiled(folder / "run", sources, "-O2", f"-Wl,-rpath,{machine.parent}")
    (folder / "image").write_bytes(image.to_bytes())
    x.astype("<f4").tofile(folder / "x")
    outputs = [folder / f"y{number}" for number in range(len(image.outputs))]
    command = [program, folder / "image", folder / "x", *outputs]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cycles = [int(line.removesuffix(" cycles")) for line in done.stdout.splitlines()]
    found = [np.fromfile(path, "<f4").reshape(len(x), -1) for path in outputs]
    return found, cycles


@pytest.mark.rtl
def test_a_small_network(tmp_path: Path) -> None:
    """Inputs that are arranged, outputs of 8 and 32 bits, bit for bit."""
    regions = made(SMALL)
    x = np.random.default_rng(5).normal(0, 4, (3, 3, 6, 5)).astype(np.float32)
    found, cycles = run(tmp_path, SMALL, make(regions, *NAMES).image, x)
    for got, wanted in zip(found, expected(regions, x), strict=True):
        assert got.tobytes() == wanted.tobytes()
    assert len(cycles) == 3 and min(cycles) > 100


@pytest.mark.rtl
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mnist_lenet_germanov", "mlperftiny_ic_resnet8", "cifar10_akamaster_resnet20"]
)
def test_real_networks(name: str, data_dir: Path, tmp_path: Path) -> None:
    """The artifact's outputs on the functional simulator, two terms a weight."""
    entries = json.loads((data_dir / "models.json").read_text())
    (entry,) = [one for one in entries if Path(one["file"]).stem == name]
    spec = {key: entry[key] for key in Preprocess.__struct_fields__ if key in entry}
    data = open_dataset(data_dir / entry["data"], Preprocess.parse(json.dumps(spec)))
    x = np.concatenate(list(data.subset(0, 6).batches()))
    model = api.load(data_dir / entry["file"])
    artifact = api.build(model, api.convert(model, x[:4]), target="vta")
    image = make(artifact.regions, model.graph.inputs, model.graph.outputs).image
    (found,), _ = run(tmp_path, SHIFT, image, x[4:])
    wanted = artifact.run(x[4:])
    assert isinstance(wanted, np.ndarray)
    assert found.tobytes() == wanted.tobytes()
