"""Small networks of every operator on the simulated accelerator and the host, bit for bit."""

from __future__ import annotations

import pytest

from tests.relay_passes.onnx_networks import NETWORKS, converted
from tests.vta_ext.offloading import verify
from vta_ext.config import Config
from vta_ext.presets import SHIFT, SMALL

SLOW = [pytest.param(name, SMALL, marks=pytest.mark.slow) for name in sorted(NETWORKS)]


@pytest.mark.parametrize(("name", "config"), [*((name, SHIFT) for name in NETWORKS), *SLOW])
def test_small_networks(name: str, config: Config) -> None:
    made = converted(name)
    found = verify(made.model, made.plan, made.images, config)
    assert found.regions


def test_what_stays_on_the_host_is_named() -> None:
    """A region's own map to another layout."""
    made = converted("clipped_input")
    found = verify(made.model, made.plan, made.images, SHIFT)
    sentence = "layer clip.nhwc cannot run on the accelerator: a transposition by [0, 2, 3, 1]"
    assert found.reasons == {"clip.nhwc": sentence}
