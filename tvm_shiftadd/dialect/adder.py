"""Adder layers: adder_conv2d and adder_dense.

Their weight is int8 ``[R, O]`` on the input's own scale 2^-a, R flattened as in the other layers;
see docs/integer-specification.md. The result is the int32 accumulator bias - sum |x - w|, on the
scale 2^-a too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import registry
from tvm_shiftadd.dialect.attrs import AdderConv2DAttrs
from tvm_shiftadd.dialect.types import Operands, tensor_type
from tvm_shiftadd.formats.windows import conv_map_size

_ARGUMENTS = (
    ("x", "int8 activations, channels last"),
    ("weight", "int8 [R, O], on the scale of x"),
    ("bias", "int32 [O], on the scale of x"),
)


def adder_conv2d(
    x: Any,
    weight: Any,
    bias: Any,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
) -> Any:
    """Distances of windows and filters: int8 ``[N, H, W, I]`` to int32 ``[N, OH, OW, O]``.

    ``padding`` is (top, left, bottom, right), zeros, which take part: they add |w|. R = kh * kw *
    I, flattened in that order. Raises VerificationError on attributes that are not allowed; type
    inference raises it on operands that do not fit.
    """
    attrs = AdderConv2DAttrs(kernel_size, strides, padding)  # type: ignore[arg-type]
    return relax.Call(registry.op("adder_conv2d"), [x, weight, bias], attrs.to_node())


def adder_dense(x: Any, weight: Any, bias: Any) -> Any:
    """Distances of rows and columns: int8 ``[..., I]`` to int32 ``[..., O]``; R = I.

    Raises VerificationError at type inference on operands that do not fit.
    """
    return relax.Call(registry.op("adder_dense"), [x, weight, bias])


def _check_weight(operands: Operands, reduction: int) -> int:
    """Check weight and bias of a layer whose reduction has that length; returns O."""
    rows, outputs = operands.tensor(1, "int8", "[R, O]")
    operands.require(
        rows == reduction and isinstance(outputs, int), f"weight int8 [R, O] with R = {reduction}"
    )
    (channels,) = operands.tensor(2, "int32", "[O]")
    operands.require(channels == outputs, f"bias int32 [{outputs}], one value an output of weight")
    return int(outputs)


def _infer_conv2d(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    attrs = AdderConv2DAttrs.of(call)
    n, h, w, c = operands.image(0, "int8")
    kh, kw = attrs.kernel_size
    outputs = _check_weight(operands, kh * kw * c)
    with operands.expecting("a window that fits"):
        size = conv_map_size((h, w), (kh, kw), attrs.strides, attrs.padding)
    return tensor_type((n, *size, outputs), "int32")


def _infer_dense(call: Any) -> Any:
    operands = Operands(call, [name for name, _ in _ARGUMENTS])
    dims = operands.tensor(0, "int8", "[..., I]")
    known = len(dims) >= 1 and isinstance(dims[-1], int)
    operands.require(known, "x with a known last dimension")
    return tensor_type((*dims[:-1], _check_weight(operands, int(dims[-1]))), "int32")


def _legalize_conv2d(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import adder

    return registry.call_te(builder, call, adder.adder_conv2d, AdderConv2DAttrs)


def _legalize_dense(builder: Any, call: Any) -> Any:
    from tvm_shiftadd.topi import adder

    return registry.call_te(builder, call, adder.adder_dense)


SPECS = (
    registry.OpSpec(
        "adder_conv2d",
        "sums of absolute differences between windows and filters",
        _ARGUMENTS,
        _infer_conv2d,
        _legalize_conv2d,
    ),
    registry.OpSpec(
        "adder_dense",
        "sums of absolute differences between rows and columns",
        _ARGUMENTS,
        _infer_dense,
        _legalize_dense,
    ),
)
