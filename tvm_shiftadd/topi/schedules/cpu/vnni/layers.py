"""Which kernel computes a chain, and how its parameters are prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.dialect.attrs import AdderConv2DAttrs, Conv2DAttrs
from tvm_shiftadd.topi.schedules.cpu.geometry import ConvShape, conv_shape

from . import weights
from .chains import Chain, map_sizes, name_of
from .conv import conv
from .dense import dense, dense_plan
from .depthwise import DepthwisePlan, depthwise, order_constants, pack_depthwise
from .epilogue import Epilogue
from .plan import choose_plan
from .stored import Stored


@dataclass(frozen=True)
class LayerKernel:
    """A kernel and what it wants.

    ``pack`` brings the weights into its order and ``order`` the matrix of constants, both as
    compute definitions; ``build(epilogue, batch)`` is the kernel. ``bias`` makes that of the
    kernel from weights and bias, where it is another.
    """

    pack: Callable[[Any], Any]
    order: Callable[[Any], Any]
    build: Callable[[Epilogue, Any], tirx.PrimFunc]
    bias: Callable[[Any, Any], Any] | None = None


def is_depthwise(chain: Chain) -> bool:
    """Whether the depthwise kernel computes a chain: it stores bytes and adds nothing."""
    shape = layer_shape(chain.layer)
    one = shape.groups == shape.channels == shape.outputs > 1
    return one and chain.requantize is not None and chain.add is None


def layer_kernel(chain: Chain, source: Stored) -> LayerKernel:
    """The kernel of a chain whose layer reads a map stored as ``source``."""
    shape = layer_shape(chain.layer)
    if is_adder(chain.layer):
        adder = choose_plan(shape, source, adder=True)
        return LayerKernel(
            lambda weight: weights.pack_adder(weight, adder),
            lambda constants: constants,
            lambda epilogue, batch: conv(adder, epilogue, batch),
            lambda weight, bias: weights.adder_bias(weight, bias, source.zero),
        )
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


def is_adder(layer: Any) -> bool:
    """Whether a layer takes distances."""
    return name_of(layer).startswith("shiftadd.adder_")


def layer_shape(call: Any) -> ConvShape:
    """The sizes of a layer; a dense one is a convolution of one pixel."""
    sizes, adder = map_sizes(call.args[0]), is_adder(call)
    *planes, outputs = (int(size) for size in call.args[1].ty.shape)
    # An adder layer's weights have no terms; they are bytes.
    terms = 2 if adder else planes[0]
    if call.attrs is None or "kernel_size" not in call.attrs:
        return conv_shape(sizes, outputs, terms, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    attrs = (AdderConv2DAttrs if adder else Conv2DAttrs).of(call)
    return conv_shape(
        sizes,
        outputs,
        terms,
        attrs.kernel_size,  # type: ignore[arg-type]
        attrs.strides,  # type: ignore[arg-type]
        attrs.padding,  # type: ignore[arg-type]
        getattr(attrs, "dilation", (1, 1)),
        getattr(attrs, "groups", 1),
    )
