"""The integer module computes what the converter's reference does, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.relay_passes.onnx_networks import NETWORKS, converted
from tests.relay_passes.programs import operators, run
from tvm_shiftadd.dialect.reference_module import run_reference

#: Their host computes nothing in float.
WITHOUT_HOST = [name for name in NETWORKS if name != "hosted"]


def same(mine: Any, theirs: Any) -> None:
    assert len(mine) == len(theirs)
    for got, wanted in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(got, wanted.reshape(got.shape))


@pytest.mark.parametrize("name", WITHOUT_HOST)
def test_the_interpreted_module_is_bit_exact(name: str) -> None:
    network = converted(name)
    results = run_reference(network.integer, {"x": network.images})
    same(list(results.values()), network.expected())


@pytest.mark.parametrize("name", ["residual", "hosted", "upsampling"])
def test_the_compiled_module_is_bit_exact(name: str) -> None:
    network = converted(name)
    same(run(network.integer, network.images), network.expected())


@pytest.mark.parametrize("name", NETWORKS)
def test_float_stays_at_the_edges_of_the_regions(name: str) -> None:
    found = operators(converted(name).integer)
    kinds = {op for op in found if not op.startswith("shiftadd.")}
    host = {"sigmoid", "multiply", "nn.softmax"} if name == "hosted" else set()
    assert kinds <= {"permute_dims", "reshape", "strided_slice", *host}
    assert "shiftadd.conv2d" in found


def test_each_round_trip_is_gone() -> None:
    """One quantize for the input, one dequantize for the result."""
    for name in WITHOUT_HOST:
        network = converted(name)
        found = operators(network.integer)
        assert found.count("shiftadd.quantize") == 1, name
        assert found.count("shiftadd.dequantize") == len(network.model.graph.outputs), name
