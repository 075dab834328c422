"""Which CUDA kernel computes a chain, and how its parameters are prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.chains import Chain
from tvm_shiftadd.topi.schedules.fusion.layers import is_adder, layer_shape

from .depthwise import depthwise
from .epilogue import Epilogue
from .gemv import gemv
from .matrix import dense, matrix
from .parameters import (
    DenseParameters,
    DepthwiseParameters,
    Parameters,
    TileParameters,
    VectorParameters,
)
from .problem import Problem, Shapes
from .tile import tile
from .weights import pack_fragments, pack_taps, pack_words

_BLOCKS = 65535


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
    shape = layer_shape(chain.layer)
    dtype = str(chain.layer.args[0].ty.dtype)
    kind: Literal["dot", "adder"] = "adder" if is_adder(chain.layer) else "dot"
    if kind == "adder" and dtype != "int8":
        return None
    problem = Problem(shape, dtype, kind)
    # A launch has as many blocks along its third axis, which is that of groups.
    return problem if problem.is_depthwise or shape.groups <= _BLOCKS else None


def layer_kernel(problem: Problem, parameters: Parameters) -> LayerKernel:
    """The kernel of a problem by its parameters."""
    pack: Callable[[Any, Problem], Any] = pack_fragments
    if isinstance(parameters, TileParameters):
        pack = pack_words
    elif isinstance(parameters, DepthwiseParameters):
        pack = pack_taps

    def build(epilogue: Epilogue, batch: Any, shapes: Shapes) -> tirx.PrimFunc:
        args = problem, epilogue, batch, shapes
        if isinstance(parameters, TileParameters):
            return tile(*args, parameters)
        if isinstance(parameters, DepthwiseParameters):
            return depthwise(*args, parameters)
        if isinstance(parameters, VectorParameters):
            return gemv(*args, parameters)
        if isinstance(parameters, DenseParameters):
            return dense(*args, parameters)
        return matrix(*args, parameters)

    return LayerKernel(lambda weights: pack(weights, problem), build)
