"""Whole networks give the same numbers before the float passes and after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvm_shiftadd as tsa
from relay_passes import pipeline
from relay_passes.canonicalize import Canonicalize
from relay_passes.fold_batch_norm import FoldBatchNorm
from tests.importers.onnx_models import run_onnxruntime
from tests.relay_passes.onnx_networks import NETWORKS, Onnx, images_for
from tests.relay_passes.programs import run
from tvm_shiftadd import convert

RANDOM = [f"random {seed}" for seed in range(6)]


def random_network(seed: int) -> Any:
    """Layers, activations, norms and shortcuts in a random order, on maps of 4 channels."""
    n, choose = Onnx(seed), np.random.default_rng(seed)
    tensors = [n.conv("stem", "x", (3, 4))]
    for step in range(8):
        x = tensors[int(choose.integers(max(0, len(tensors) - 2), len(tensors)))]
        name = f"layer{step}/op"
        kind = choose.integers(8)
        if kind == 0:
            y = n.conv(name, x, (4, 4), 1)
        elif kind == 1:
            y = n.conv(name, x, (4, 4), group=4)
        elif kind == 2:
            y = n.batch_norm(name, x, 4)
        elif kind == 3:
            y = n.relu(name, x)
        elif kind == 4:
            y = n.add("Add", name, x, tensors[int(choose.integers(len(tensors)))])
        elif kind == 5:
            y = n.add("Mul", name, x, n.normal(4, 1, 1))
        elif kind == 6:
            y = n.add("Add", name, x, n.normal(1, 4, 1, 1))
        else:
            y = n.add("Sigmoid", name, x)
        tensors.append(y)
    return n.build(tensors[-1], tensors[-3])


def network(name: str) -> Any:
    kind, _, seed = name.partition(" ")
    return random_network(int(seed)) if kind == "random" else NETWORKS[name]()


def close(mine: Any, theirs: Any) -> None:
    assert len(mine) == len(theirs)
    for got, wanted in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("name", [*NETWORKS, *RANDOM])
def test_the_extracted_graph_computes_what_onnxruntime_does(name: str) -> None:
    proto = network(name)
    model = tsa.load(proto)
    x = images_for(model)
    outputs = convert.run_float(model.graph, {"x": x})
    close([outputs[key] for key in model.graph.outputs], run_onnxruntime(proto, x))


@pytest.mark.parametrize("name", ["residual", *RANDOM[:3]])
def test_each_pass_keeps_the_numbers(name: str) -> None:
    proto = network(name)
    model = tsa.load(proto)
    x = images_for(model)
    wanted = run_onnxruntime(proto, x)
    folded = FoldBatchNorm()(Canonicalize()(model.module))
    close(run(folded, x), wanted)
    close(run(pipeline.run(model.module, pipeline.FLOAT_PASSES), x), wanted)
