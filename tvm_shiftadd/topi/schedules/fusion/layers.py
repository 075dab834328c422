"""What a layer is to a kernel: its sizes, and whether it takes distances."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd.dialect.attrs import AdderConv2DAttrs, Conv2DAttrs
from tvm_shiftadd.topi.schedules.shapes import ConvShape, conv_shape

from .chains import map_sizes, name_of

#: Layers of maps, and layers of matrices, that kernels of every target compute.
MAP_LAYERS = ("shiftadd.conv2d", "shiftadd.adder_conv2d")
_MATRIX_LAYERS = ("shiftadd.dense", "shiftadd.adder_dense")


def is_layer(call: Any) -> bool:
    """Whether a call is a layer that ``layer_shape`` has the sizes of."""
    name = name_of(call)
    return name in MAP_LAYERS or (name in _MATRIX_LAYERS and len(call.args[0].ty.shape) == 2)


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
