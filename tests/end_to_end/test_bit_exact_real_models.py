"""Compiled code against the integer reference, bit for bit, on every real model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.convert import run_integer

pytestmark = pytest.mark.data

MODELS = (
    "cifar10_akamaster_resnet20",
    "mlperftiny_ic_resnet8",
    "mnist_lenet_germanov",
    "superres_espcn_x3_224",
    pytest.param("imagenet_mobilenet_v1_0.25_224", marks=pytest.mark.slow),
    pytest.param("imagenet_mobilenet_v2_1.0_224_qat_dequant", marks=pytest.mark.slow),
    pytest.param("style_transfer_udnie_224", marks=pytest.mark.slow),
    pytest.param("ultraface_slim_320", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("name", MODELS)
def test_artifact_gives_the_bits_of_the_integer_reference(
    name: str, real_model: Callable[[str], Any], tmp_path: Any
) -> None:
    real = real_model(name)
    graph = real.model.graph
    # Two images that calibration has not seen, so that values saturate too.
    x = real.images(4, 4 + (graph.batch or 2))
    wanted, _ = run_integer(graph, real.conversion.plan, {graph.inputs[0]: x})
    real.artifact.save(tmp_path / "saved")
    for artifact in (real.artifact, Artifact.load(tmp_path / "saved")):
        result = artifact.run(x)
        outputs = list(result.values()) if isinstance(result, dict) else [result]
        assert len(outputs) == len(graph.outputs)
        for tensor, output in zip(graph.outputs, outputs, strict=True):
            np.testing.assert_array_equal(output, wanted[tensor])
            assert np.ptp(output) > 0
