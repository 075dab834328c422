"""Which CUDA kernel computes a chain, and how its parameters are prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.cpu.dot.chains import Chain
from tvm_shiftadd.topi.schedules.cpu.dot.layers import is_adder, layer_shape

from .epilogue import Epilogue
from .gemv import IMAGES, gemv
from .matrix import dense, matrix
from .parameters import MatrixParameters, TileParameters, VectorParameters
from .problem import Problem, Shapes
from .tile import tile
from .weights import pack_fragments, pack_words

#: The first compute capability whose tensor cores take bytes as the kernels hand them over.
TENSOR_CORES = 80


@dataclass(frozen=True)
class LayerKernel:
    """A kernel and what it wants.

    ``pack`` is a compute definition that brings the weights into its order; ``build(epilogue,
    batch, shapes)`` is the PrimFunc (x, weights, constants[, residual], out), ``shapes`` those of
    x and out.
    """

    pack: Callable[[Any], Any]
    build: Callable[[Epilogue, Any, Shapes], tirx.PrimFunc]


def problem_of(chain: Chain) -> Problem | None:
    """What a chain's kernel has to do; None for a layer that no kernel takes."""
    dtype = str(chain.layer.args[0].ty.dtype)
    kind: Literal["dot", "adder"] = "adder" if is_adder(chain.layer) else "dot"
    if kind == "adder" and dtype != "int8":
        return None
    return Problem(layer_shape(chain.layer), dtype, kind)


def layer_kernel(problem: Problem, batch: Any, arch: int) -> LayerKernel:
    """The kernel of a problem on a GPU of compute capability ``arch``, 80 for 8.0."""
    new = arch >= TENSOR_CORES
    unroll = 8 if problem.coded and new else 4
    vector = VectorParameters(unroll=unroll, copies=new, matrix=new and batch != 1)

    if isinstance(batch, int) and batch <= IMAGES and problem.fits_vector:

        def of_few_images(epilogue: Epilogue, n: Any, shapes: Shapes) -> tirx.PrimFunc:
            return gemv(problem, epilogue, n, shapes, vector)

        return LayerKernel(lambda weights: pack_fragments(weights, problem), of_few_images)
    if not isinstance(batch, int) and new and problem.fits_vector:

        def of_any_images(epilogue: Epilogue, n: Any, shapes: Shapes) -> tirx.PrimFunc:
            return dense(problem, epilogue, n, shapes, vector, MatrixParameters())

        return LayerKernel(lambda weights: pack_fragments(weights, problem), of_any_images)
    if arch >= TENSOR_CORES and problem.fits_matrix:

        def on_tensor_cores(epilogue: Epilogue, n: Any, shapes: Shapes) -> tirx.PrimFunc:
            return matrix(problem, epilogue, n, shapes, MatrixParameters())

        return LayerKernel(lambda weights: pack_fragments(weights, problem), on_tensor_cores)

    def by_words(epilogue: Epilogue, n: Any, shapes: Shapes) -> tirx.PrimFunc:
        return tile(problem, epilogue, n, shapes, TileParameters())

    return LayerKernel(lambda weights: pack_words(weights, problem), by_words)
