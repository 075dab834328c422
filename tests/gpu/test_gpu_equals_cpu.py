"""On a real GPU: networks and operators give the bits that they give on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.dialect.conftest import Case, build_module
from tests.dialect.test_dialect_numerics import CASES
from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.target import CUDATarget, cuda

pytestmark = pytest.mark.gpu


def compare(path: Path, terms: int, target: Any) -> None:
    """All images at once, then one by itself, which has a function of its own."""
    model = api.load(path)
    shape = model.graph.shapes[model.graph.inputs[0]]
    images = model.graph.batch or 10
    x = np.random.default_rng(0).standard_normal((images, *shape[1:])).astype(np.float32)
    conversion = api.convert(model, x, ConvertOptions(terms=terms, compensation=False))
    wanted = api.build(model, conversion, target="cpu").run(x)
    artifact = api.build(model, conversion, target=target)
    np.testing.assert_array_equal(artifact.run(x), wanted)
    if model.graph.batch is None:
        np.testing.assert_array_equal(artifact.run(x[-1:]), wanted[-1:])
    assert np.ptp(wanted) > 0


@pytest.mark.data
@pytest.mark.parametrize("kernels", ["auto", "shift"])
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", ["cifar10_akamaster_resnet20", "imagenet_mobilenet_v1_0.25_224"])
def test_networks(data_dir: Path, arch: str, name: str, terms: int, kernels: str) -> None:
    target = CUDATarget(arch=arch, kernels=kernels)
    compare(data_dir / "models" / f"{name}.onnx", terms, target)


@pytest.mark.data
def test_adder_network(data_dir: Path, arch: str) -> None:
    pytest.importorskip("torch")  # its file is read by it
    compare(data_dir / "models" / "addernet_resnet20_cifar10.pth", 2, f"cuda:{arch}")


@pytest.mark.data
def test_the_code_of_older_gpus_runs_on_newer_ones(data_dir: Path, arch: str) -> None:
    compare(data_dir / "models" / "mnist_lenet_germanov.onnx", 1, "cuda:sm_75")


@pytest.mark.parametrize("name", sorted(CASES))
def test_operators(arch: str, name: str) -> None:
    drawn = st.tuples(CASES[name](), st.booleans())

    @settings(max_examples=3, suppress_health_check=list(HealthCheck))
    @given(st.lists(drawn, min_size=8, max_size=8))
    def compare_drawn(batch: list[Any]) -> None:
        module = build_module(
            [
                Case(build, operands, constants, symbolic)
                for (build, operands, constants, _), symbolic in batch
            ]
        )
        built = cuda.build(module, CUDATarget(arch=arch, kernels="shift"))
        machine = relax.VirtualMachine(built, tvm.cuda())
        for number, ((_, operands, _, _), _) in enumerate(batch):
            feeds = {f"x{i}": array for i, array in enumerate(operands)}
            (expected,) = run_reference(module, feeds, function=f"f{number}").values()
            inputs = [tvm.runtime.tensor(array, tvm.cuda()) for array in operands]
            np.testing.assert_array_equal(machine[f"f{number}"](*inputs).numpy(), expected)

    compare_drawn()
