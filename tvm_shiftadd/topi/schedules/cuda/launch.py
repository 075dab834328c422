"""What the CUDA kernels of layers share: their parameters, and the loops of a launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.function import Kernel, kernel

from .epilogue import Epilogue
from .problem import Problem, Shapes


def layer_function(
    name: str,
    computed_by: str,
    problem: Problem,
    epilogue: Epilogue,
    shapes: Shapes,
    weights: Sequence[int],
) -> AbstractContextManager[Kernel]:
    """Build a function (x, weights, constants[, residual], out), as ``kernel`` does.

    ``shapes`` are those of x and out, ``weights`` that of the packed weights, which are int32.
    """
    tensors = {
        "x": (shapes[0], problem.dtype),
        "weights": (weights, "int32"),
        **epilogue.tensors(shapes[1]),
    }
    return kernel(name, tensors, computed_by)


@contextmanager
def grid(
    blocks: Any, panels: int, groups: int, threads: int
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The loops of a launch; gives the int32 indices of block, panel, group and thread."""
    tags = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x")
    with (
        build.thread_binding(0, blocks, tags[0]) as block,
        build.thread_binding(0, panels, tags[1]) as panel,
        build.thread_binding(0, groups, tags[2]) as group,
        build.thread_binding(0, threads, tags[3]) as thread,
    ):
        yield T.bind(tirx.Cast("int32", block)), panel, group, thread


@contextmanager
def guarded(condition: Any, needed: bool) -> Iterator[None]:
    """Code that runs where a condition holds; without the question where it always does."""
    if not needed:
        yield
        return
    with T.If(condition), T.Then():
        yield


def split(pixel: Any, height: int, width: int) -> tuple[Any, Any, Any]:
    """Image, row and column of a pixel in a batch of maps."""
    return (
        T.bind(pixel // (height * width)),
        T.bind(pixel % (height * width) // width),
        T.bind(pixel % width),
    )


def matrix_views(made: Kernel, problem: Problem, epilogue: Epilogue, batch: Any) -> dict[str, Any]:
    """The input, the result and what is added to it as matrices: a row a pixel."""
    shape = problem.shape
    sizes = {
        "x": (batch * (shape.height * shape.width), shape.channels),
        "out": (batch * problem.pixels, shape.outputs),
    }
    types = {"x": problem.dtype, "out": epilogue.out.dtype}
    if epilogue.residual is not None:
        sizes["residual"], types["residual"] = sizes["out"], epilogue.residual.dtype
    views = {}
    for name, size in sizes.items():
        views[name] = T.decl_buffer(size, types[name], data=made[name].data)
        IRBuilder.name(name, views[name])
    return views
