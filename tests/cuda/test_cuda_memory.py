"""Kernels touch no memory behind their tensors, and keep within their own arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda.emulation import emulated, run_function
from tvm_shiftadd.topi.schedules.cuda.epilogue import Epilogue, Tensor
from tvm_shiftadd.topi.schedules.cuda.layers import layer_kernel
from tvm_shiftadd.topi.schedules.cuda.problem import Problem
from tvm_shiftadd.topi.schedules.cuda.space import by_rule
from tvm_shiftadd.topi.schedules.shapes import conv_shape


def run_kernel(
    size: int,
    channels: int,
    outputs: int,
    window: int,
    groups: int,
    *,
    arch: int = 80,
    kind: Any = "dot",
    images: int = 1,
    terms: int = 1,
) -> None:
    """Emulate the kernel that a layer gets, on tensors behind which nothing can be touched."""
    dtype, sides = "int8", (window // 2,) * 4
    kernel = window, window
    shape = conv_shape(
        (size, size, channels), outputs, terms, kernel, (1, 1), sides, (1, 1), groups
    )
    problem = Problem(shape, dtype, kind)
    epilogue = Epilogue(Tensor(outputs, "int8"), residual=Tensor(outputs, "int8"))
    out = (images, outputs) if size == 1 else (images, size, size, outputs)
    x = (*out[:-1], channels)
    parameters = by_rule(problem, images, arch)
    function = layer_kernel(problem, parameters).build(epilogue, images, (x, out))
    arrays = [
        np.zeros([int(extent) for extent in param.shape], str(param.dtype))
        for param in function.params
    ]
    arrays[0] += 1
    with emulated():
        run_function(function, *arrays, arch=f"sm_{arch}")


CASES: dict[str, dict[str, Any]] = {
    "matrix, groups": {"size": 4, "channels": 64, "outputs": 80, "window": 3, "groups": 4},
    "gemv": {"size": 1, "channels": 80, "outputs": 36, "window": 1, "groups": 1},
}
MORE: dict[str, dict[str, Any]] = {
    "tile, groups": {"size": 5, "channels": 9, "outputs": 60, "window": 3, "groups": 3, "terms": 2},
    "depthwise": {"size": 5, "channels": 20, "outputs": 20, "window": 3, "groups": 20},
    "matrix": {"size": 9, "channels": 48, "outputs": 44, "window": 3, "groups": 1, "terms": 2},
    "gemv, images": {
        "size": 1,
        "channels": 144,
        "outputs": 100,
        "window": 1,
        "groups": 1,
        "images": 5,
    },
    "gemv, words": {
        "size": 1,
        "channels": 144,
        "outputs": 100,
        "window": 1,
        "groups": 1,
        "arch": 75,
    },
    "tile": {"size": 7, "channels": 32, "outputs": 68, "window": 3, "groups": 1, "arch": 75},
    "tile, adder": {
        "size": 6,
        "channels": 3,
        "outputs": 13,
        "window": 3,
        "groups": 1,
        "kind": "adder",
    },
    "depthwise, odd": {"size": 6, "channels": 7, "outputs": 7, "window": 3, "groups": 7},
}


@pytest.mark.parametrize("name", CASES)
def test_no_kernel_goes_beyond_its_tensors(name: str) -> None:
    run_kernel(**CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_no_kernel_of_these_goes_beyond_its_tensors(name: str) -> None:
    run_kernel(**MORE[name])
