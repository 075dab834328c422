"""The real models, each loaded and converted once, and the pictures they are meant for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.convert import Conversion
from tvm_shiftadd.data import Dataset, Preprocess, open_dataset

Floats = NDArray[np.float32]

#: What the models' table does not say: where inputs come from and how they are brought to size.
SPECIAL: dict[str, dict[str, Any]] = {
    "superres_espcn_x3_224": {
        "data": "data/imagenet224_A.zip",
        "scale": 1 / 255,
        "grey": True,
    },
    "ultraface_slim_320": {"resize": (240, 320)},
}
KEYS = Preprocess.__struct_fields__


@dataclass
class RealModel:
    """A model of the data folder with its inputs."""

    path: Path
    data: Dataset

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def model(self) -> api.Model:
        return api.load(self.path)

    def images(self, start: int, stop: int) -> Floats:
        """Prepared inputs of the data set."""
        return np.concatenate(list(self.data.subset(start, stop - start).batches()))

    @cached_property
    def conversion(self) -> Conversion:
        """Two terms, calibrated on four images: enough for what does not ask for accuracy."""
        return api.convert(self.model, self.images(0, 4))

    @cached_property
    def artifact(self) -> Artifact:
        return api.build(self.model, self.conversion)


@pytest.fixture(scope="session")
def real_model(data_dir: Path) -> Callable[[str], RealModel]:
    entries = {
        Path(entry["file"]).stem: entry
        for entry in json.loads((data_dir / "models.json").read_text())
    }
    made: dict[str, RealModel] = {}

    def get(name: str) -> RealModel:
        if name not in made:
            entry = {**entries[name], **SPECIAL.get(name, {})}
            spec = {key: entry[key] for key in KEYS if key in entry}
            preprocess = Preprocess.parse(json.dumps(spec))
            data = open_dataset(data_dir / entry["data"], preprocess)
            made[name] = RealModel(data_dir / entry["file"], data)
        return made[name]

    return get
