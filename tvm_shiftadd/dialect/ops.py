"""The builders of every operator: functions that return a ``relax.Call``."""

from __future__ import annotations

from tvm_shiftadd.dialect.adder import adder_conv2d, adder_dense
from tvm_shiftadd.dialect.elementwise import add, clip
from tvm_shiftadd.dialect.float_adder import float_adder_conv2d, float_adder_dense
from tvm_shiftadd.dialect.layout import concat, pad, upsample2d
from tvm_shiftadd.dialect.linear import conv2d, conv2d_transpose, dense
from tvm_shiftadd.dialect.pooling import avg_pool2d, max_pool2d
from tvm_shiftadd.dialect.scaling import dequantize, quantize, requantize, scale

__all__ = [
    "add",
    "adder_conv2d",
    "adder_dense",
    "avg_pool2d",
    "clip",
    "concat",
    "conv2d",
    "conv2d_transpose",
    "dense",
    "dequantize",
    "float_adder_conv2d",
    "float_adder_dense",
    "max_pool2d",
    "pad",
    "quantize",
    "requantize",
    "scale",
    "upsample2d",
]
