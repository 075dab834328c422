"""Artifacts for AArch64, run under emulation: the bits that they give on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.relay_passes.onnx_networks import NETWORKS
from tests.topi.aarch64 import emulation
from tvm_shiftadd import api
from tvm_shiftadd.target.processor import AARCH64

pytestmark = [pytest.mark.slow, emulation.TOOLS]

#: Processors, and the instruction that their kernels are made of; the first has real shifts.
PROCESSORS = {"generic": "", "cortex-a76": "sdot", "neoverse-v1": "usdot"}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> emulation.Runner:
    return emulation.Runner(tmp_path_factory.mktemp("aarch64"))


def compare(
    run: emulation.Runner,
    model: api.Model,
    conversion: Any,
    x: NDArray[np.float32],
    folder: Path,
    processors: Mapping[str, str] = PROCESSORS,
) -> None:
    """Every output of both main functions, that for any batch and that for one image."""
    here = api.build(model, conversion)
    name = here.inputs[0].name
    fixed = here.inputs[0].shape[0]
    feeds = [{name: part} for part in ([x, x[:1]] if fixed == -1 else [x[:fixed]])]
    for mcpu, instruction in processors.items():
        target = {"kind": "llvm", "mtriple": AARCH64, "mcpu": mcpu}
        there = api.build(model, conversion, target=target)
        made = {call["computed_by"] for call in there.report["calls"]} - {"", None}
        assert made <= {instruction} and bool(made) == bool(instruction)
        there.save(folder / mcpu)
        for feed in feeds:
            expected: Any = here.run(feed)
            if not isinstance(expected, dict):
                expected = {here.outputs[0].name: expected}
            np.testing.assert_equal(run(folder / mcpu, feed), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_operator(runner: emulation.Runner, name: str, tmp_path: Path) -> None:
    model = api.load(NETWORKS[name]())
    shape = model.graph.shapes[model.graph.inputs[0]]
    x = np.random.default_rng(7).standard_normal((16, *shape[1:])).astype(np.float32)
    compare(runner, model, api.convert(model, x), x[:3], tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "processors"),
    [
        ("cifar10_akamaster_resnet20", PROCESSORS),
        ("imagenet_mobilenet_v1_0.25_224", {"cortex-a76": "sdot"}),
    ],
)
def test_real_models(
    runner: emulation.Runner,
    real_model: Callable[[str], Any],
    name: str,
    processors: Mapping[str, str],
    tmp_path: Path,
) -> None:
    real = real_model(name)
    compare(runner, real.model, real.conversion, real.images(4, 9), tmp_path, processors)
