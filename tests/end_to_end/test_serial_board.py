"""ResNet-20 on the ULX3S, simulated to the pins of its serial port, by the driver of a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")
pytest.importorskip("serial", reason="no pyserial: pip install 'tvm-shiftadd[boards]'")
pytest.importorskip("pty", reason="this system has no pseudo-terminals")

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.convert import ConvertOptions
from tvm_shiftadd.errors import DependencyError
from vta_ext.boards import BOARDS
from vta_ext.boards.simulated import RATE, SimulatedBoard

pytestmark = [pytest.mark.rtl, pytest.mark.slow, pytest.mark.data]

IMAGES = 10


@pytest.mark.parametrize("name", ["ulx3s-85f", "ulx3s-85f-sdram"])
def test_resnet20(name: str, real_model: Callable[[str], Any], tmp_path: Path) -> None:
    """Ten images of the test set: the functional simulator's logits, the classes beside them.

    And the timing model's cycles: block memory is faster than it assumes, SDRAM about as fast.
    """
    board = BOARDS[name]
    try:
        simulation = SimulatedBoard(board)
    except DependencyError as error:
        pytest.skip(str(error))
    real = real_model("cifar10_akamaster_resnet20")
    conversion = api.convert(real.model, real.images(0, 8), ConvertOptions(1, compensation=False))
    api.build(real.model, conversion, target=f"vta:{name}").save(tmp_path / "resnet20")
    artifact = Artifact.load(tmp_path / "resnet20")
    x = real.images(8, 8 + IMAGES)
    artifact.connect("timing")
    wanted = artifact.run(x)
    model = artifact.counted["cycles"]
    try:
        artifact.connect(f"serial:{simulation.port},{RATE}")
        found = artifact.run(x)
    finally:
        simulation.close()
    np.testing.assert_equal(found, wanted)
    assert len(np.unique(np.argmax(found, axis=1))) > 3
    assert artifact.counted["launches"] == IMAGES
    assert 0.9 < artifact.counted["cycles"] / model < 1.1
    print(artifact.counted["cycles"] / IMAGES, model / IMAGES)
