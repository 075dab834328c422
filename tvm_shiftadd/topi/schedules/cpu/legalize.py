"""How the CPU computes the dialect's layers: calls of its own kernels.

These replace the compute definitions of ``topi`` when a module is compiled for the CPU; every
other operator keeps its definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvm_shiftadd._compat import TensorType, relax
from tvm_shiftadd.dialect.attrs import Conv2DTransposeAttrs
from tvm_shiftadd.topi.dense import dense as definition
from tvm_shiftadd.topi.schedules.fusion.chains import map_sizes
from tvm_shiftadd.topi.schedules.fusion.function import batch_of
from tvm_shiftadd.topi.schedules.fusion.layers import layer_shape
from tvm_shiftadd.topi.schedules.shapes import ConvShape, transposed_shape

from .geometry import choose_tile, depthwise_tile
from .lanes import depthwise_conv, lane_count, matrix_product
from .planar import planar_conv
from .planar_adder import folded_bias, planar_adder, rows_of_weights
from .term_lists import STARTS, term_lists

#: A minimum and an addition: a weight of an adder layer costs as much as two terms.
_ADDER_COST = 2

Legalize = Callable[[Any, Any], Any]


def legalize_map(lanes: int) -> dict[str, Legalize]:
    """Legalisation by operator name; ``lanes`` is the 16-bit elements of a vector register."""
    shift_lanes, dtype = _shift_lanes(lanes)

    def conv2d(builder: Any, call: Any) -> Any:
        shape = layer_shape(call)
        if shape.is_depthwise and lane_count(shape.channels, shift_lanes):
            return _emit_depthwise(builder, call, shape, shift_lanes, dtype)
        if _is_dense(shape) and lane_count(shape.outputs, shift_lanes):
            # One output pixel fills no vector of pixels.
            x, codes, bias = call.args
            batch, outputs = x.ty.shape[0], shape.outputs
            rows = builder.emit(relax.op.reshape(x, (batch, shape.reduction)))
            y = builder.emit(_emit_dense(builder, rows, codes, bias, shift_lanes, dtype))
            return relax.op.reshape(y, (batch, 1, 1, outputs))
        return _emit(builder, call, shape, lanes)

    def conv2d_transpose(builder: Any, call: Any) -> Any:
        return _emit(builder, call, _transposed_shape(call), lanes)

    def dense(builder: Any, call: Any) -> Any:
        x, codes, bias = call.args
        if len(x.ty.shape) != 2 or not lane_count(_sizes(codes)[2], shift_lanes):
            return builder.call_te(definition, x, codes, bias, primfunc_name_hint="shiftadd_dense")
        return _emit_dense(builder, x, codes, bias, shift_lanes, dtype)

    def adder_conv2d(builder: Any, call: Any) -> Any:
        return _emit_adder(builder, call, lanes)

    return {
        "shiftadd.adder_conv2d": adder_conv2d,
        "shiftadd.conv2d": conv2d,
        "shiftadd.conv2d_transpose": conv2d_transpose,
        "shiftadd.dense": dense,
    }


def _shift_lanes(lanes: int) -> tuple[int, str]:
    """Lanes to shift by different amounts, and their type: 16 bits only AVX-512 can."""
    return (lanes, "int16") if lanes == 32 else (8, "int32")


def _is_dense(shape: ConvShape) -> bool:
    """Whether there is one window, which is the map, so that R is the map's order."""
    whole = shape.kernel == (shape.height, shape.width) and shape.origin == (0, 0)
    return whole and (shape.out_height, shape.out_width, shape.groups) == (1, 1, 1)


def _emit_dense(builder: Any, x: Any, codes: Any, bias: Any, lanes: int, dtype: str) -> Any:
    terms, _, outputs = _sizes(codes)
    inputs = int(x.ty.shape[1])
    func = matrix_product(batch_of(x), inputs, outputs, terms, lanes, dtype, str(x.ty.dtype))
    kernel = builder.add_func(func, "shiftadd_dense")
    return relax.call_tir(kernel, [x, codes, bias], TensorType((x.ty.shape[0], outputs), "int32"))


def _emit_depthwise(builder: Any, call: Any, shape: ConvShape, lanes: int, dtype: str) -> Any:
    x = call.args[0]
    tile = depthwise_tile(shape, lanes)
    func = depthwise_conv(tile, batch_of(x), lanes, dtype, str(x.ty.dtype))
    kernel = builder.add_func(func, "shiftadd_depthwise")
    return relax.call_tir(kernel, list(call.args), call.ty)


def _emit(builder: Any, call: Any, shape: ConvShape, lanes: int) -> Any:
    """Sort the codes, then convolve: two calls, so that the first can be done ahead of time."""
    x, codes, bias = call.args
    tile = choose_tile(shape, lanes)
    batch, dtype = batch_of(x), str(x.ty.dtype)
    sort = builder.add_func(term_lists(tile, dtype), "shiftadd_term_lists")
    kernel = builder.add_func(planar_conv(tile, batch, dtype), "shiftadd_conv2d")
    outputs = shape.outputs
    rows = shape.terms * shape.reduction
    types = [TensorType((outputs, rows), "int32"), TensorType((outputs, STARTS), "int32")]
    lists = builder.emit(relax.call_tir(sort, [codes], types))
    return relax.call_tir(kernel, [x, lists[0], lists[1], bias], call.ty)


def _emit_adder(builder: Any, call: Any, lanes: int) -> Any:
    """Bring the weights into the kernel's order, then measure; the first is done ahead of time."""
    x, weight, bias = call.args
    tile = choose_tile(replace(layer_shape(call), terms=_ADDER_COST), lanes)
    kernel = builder.add_func(planar_adder(tile, batch_of(x)), "shiftadd_adder_conv2d")
    rows = builder.emit(builder.call_te(rows_of_weights, weight))
    folded = builder.emit(builder.call_te(folded_bias, weight, bias))
    return relax.call_tir(kernel, [x, rows, folded], call.ty)


def _sizes(expr: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in expr.ty.shape)


def _transposed_shape(call: Any) -> ConvShape:
    attrs = Conv2DTransposeAttrs.of(call)
    terms, _, outputs = _sizes(call.args[1])
    return transposed_shape(
        map_sizes(call.args[0]),
        outputs,
        terms,
        attrs.kernel_size,  # type: ignore[arg-type]
        attrs.strides,  # type: ignore[arg-type]
        attrs.padding,  # type: ignore[arg-type]
        attrs.output_padding,  # type: ignore[arg-type]
        attrs.dilation,  # type: ignore[arg-type]
    )
