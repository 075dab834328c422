"""Which kernel computes a chain, and how its parameters are prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.dialect.attrs import Conv2DAttrs
from tvm_shiftadd.topi.schedules.cpu.geometry import ConvShape, conv_shape

from . import weights
from .chains import Chain, map_sizes
from .conv import choose_plan, conv
from .dense import dense, dense_plan
from .depthwise import DepthwisePlan, depthwise, order_constants, pack_depthwise
from .epilogue import Epilogue
from .stored import Stored


@dataclass(frozen=True)
class LayerKernel:
    """A kernel and what it wants.

    ``pack`` brings the codes into its order and ``order`` the matrix of constants, both as
    compute definitions; ``build(epilogue, batch)`` is the kernel.
    """

    pack: Callable[[Any], Any]
    order: Callable[[Any], Any]
    build: Callable[[Epilogue, Any], tirx.PrimFunc]


def is_depthwise(chain: Chain) -> bool:
    """Whether the depthwise kernel computes a chain: it stores bytes and adds nothing."""
    shape = layer_shape(chain.layer)
    one = shape.groups == shape.channels == shape.outputs > 1
    return one and chain.requantize is not None and chain.add is None


def layer_kernel(chain: Chain, source: Stored) -> LayerKernel:
    """The kernel of a chain whose layer reads a map stored as ``source``."""
    shape = layer_shape(chain.layer)
    if is_depthwise(chain):
        taps = DepthwisePlan(shape, source)
        return LayerKernel(
            lambda codes: pack_depthwise(codes, taps),
            lambda constants: order_constants(constants, taps),
            lambda epilogue, batch: depthwise(taps, epilogue, batch),
        )
    pixel = (shape.height, shape.width, *shape.kernel, shape.groups) == (1, 1, 1, 1, 1)
    plan = dense_plan(shape, source) if pixel else choose_plan(shape, source)
    kernel = dense if pixel else conv
    return LayerKernel(
        lambda codes: weights.pack_codes(codes, plan),
        lambda constants: constants,
        lambda epilogue, batch: kernel(plan, epilogue, batch),
    )


def layer_shape(call: Any) -> ConvShape:
    """The sizes of a layer; a dense one is a convolution of one pixel."""
    terms, _, outputs = (int(size) for size in call.args[1].ty.shape)
    sizes = map_sizes(call.args[0])
    if call.attrs is None or "kernel_size" not in call.attrs:
        return conv_shape(sizes, outputs, terms, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    attrs = Conv2DAttrs.of(call)
    return conv_shape(
        sizes,
        outputs,
        terms,
        attrs.kernel_size,  # type: ignore[arg-type]
        attrs.strides,  # type: ignore[arg-type]
        attrs.padding,  # type: ignore[arg-type]
        attrs.dilation,  # type: ignore[arg-type]
        attrs.groups,
    )
