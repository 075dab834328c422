"""Parameters of CUDA kernels: what the rules choose, and what is worth a trial."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import tirx

from tvm_shiftadd.topi.schedules.cuda.parameters import (
    DenseParameters,
    DepthwiseParameters,
    MatrixParameters,
    TileParameters,
    VectorParameters,
)
from tvm_shiftadd.topi.schedules.cuda.problem import Problem
from tvm_shiftadd.topi.schedules.cuda.space import by_rule, candidates
from tvm_shiftadd.topi.schedules.shapes import conv_shape

ANY = tirx.Var("n", "int64")


def conv(size: int, channels: int, outputs: int, window: int = 3, groups: int = 1) -> Problem:
    map_shape, sides = (size, size, channels), (window // 2,) * 4
    shape = conv_shape(map_shape, outputs, 1, (window, window), (1, 1), sides, (1, 1), groups)
    return Problem(shape, "uint8")


def dense(inputs: int, outputs: int) -> Problem:
    return conv(1, inputs, outputs, 1)


@pytest.mark.parametrize(
    ("problem", "batch", "arch", "kind"),
    [
        (conv(56, 64, 64), 32, 80, MatrixParameters),
        (conv(56, 64, 64), 32, 75, TileParameters),
        (conv(224, 3, 64, 7), 1, 90, TileParameters),
        (conv(14, 96, 96, groups=96), 1, 80, DepthwiseParameters),
        (dense(4096, 4096), 1, 80, VectorParameters),
        (dense(4096, 4096), 9, 80, MatrixParameters),
        (dense(4096, 4096), ANY, 80, DenseParameters),
        (dense(4095, 10), 1, 80, TileParameters),
    ],
)
def test_a_layer_gets_its_kernel(problem: Problem, batch: Any, arch: int, kind: type) -> None:
    found = candidates(problem, batch, arch)
    assert {type(parameters) for parameters in found} == {kind}
    assert found[0] == by_rule(problem, batch, arch)
    assert len(set(found)) == len(found) > 1


def test_blocks_are_as_large_as_the_work_allows() -> None:
    large, small = (by_rule(conv(56, 64, 64), batch, 80) for batch in (32, 1))
    assert isinstance(large, MatrixParameters) and isinstance(small, MatrixParameters)
    assert large.down * large.rows > small.down * small.rows
    # No block computes outputs that are not there.
    narrow = by_rule(conv(32, 16, 16), 32, 80)
    assert isinstance(narrow, MatrixParameters) and (narrow.across, narrow.panels) == (1, 1)


@pytest.mark.parametrize("outputs", [16, 64, 512])
def test_candidates_fit_registers_and_shared_memory(outputs: int) -> None:
    problem = conv(14, 64, outputs)
    for p in candidates(problem, 32, 80):
        assert isinstance(p, MatrixParameters)
        rows, columns = p.down * p.rows * 16, p.across * p.panels * problem.panel
        assert p.stages * 64 * (rows + columns / 2) <= 48 << 10
        assert rows * columns / (p.down * p.across * 32) <= 128


def test_one_image_needs_no_tensor_cores() -> None:
    one, eight = (by_rule(dense(4096, 4096), images, 80) for images in (1, 8))
    assert isinstance(one, VectorParameters) and isinstance(eight, VectorParameters)
    assert (one.matrix, eight.matrix) == (False, True)
    older = by_rule(dense(4096, 4096), 8, 75)
    assert isinstance(older, VectorParameters)
    assert not older.matrix and not older.copies
