"""Converters of the ONNX operators that move data: reshape, slice, pad, resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import relax, tirx
from tvm_shiftadd.importers._common import product, quotient
from tvm_shiftadd.importers._onnx_layers import Converter
from tvm_shiftadd.importers._onnx_node import OnnxNode


def flatten(node: OnnxNode) -> relax.Expr | None:
    """Flatten as a reshape to two explicit dimensions."""
    shape = node.shape()
    axis = int(node.attrs.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    return relax.op.reshape(node.inputs[0], [product(shape[:axis]), product(shape[axis:])])


def reshape(node: OnnxNode) -> relax.Expr | None:
    """Reshape to a constant shape, its 0 and -1 resolved, so that a symbolic batch stays one."""
    target = node.constant(1)
    if target is None or not node.is_tensor(0):
        return None
    shape = node.shape()
    keep_zero = bool(node.attrs.get("allowzero", 0))
    dims: list[Any] = [int(dim) for dim in target.reshape(-1)]
    if not keep_zero:
        dims = [shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    dims = _with_open_batch(node, shape, dims)
    for axis, dim in enumerate(dims):
        if isinstance(dim, int) and dim == -1:
            others = product([*dims[:axis], *dims[axis + 1 :]])
            dims[axis] = quotient(product(shape), others)
    return relax.op.reshape(node.inputs[0], dims)


def _with_open_batch(node: OnnxNode, shape: list[Any], dims: list[Any]) -> list[Any]:
    """The target of a reshape, with the batch of one that exporters write into it left open.

    Taken as it stands, ``[1, -1]`` would lay the samples of a larger batch one behind the other.
    """
    batch, sample = _split_batch(shape)
    if batch is None or not dims or not isinstance(dims[0], int) or dims[0] < 1:
        return dims
    known = product([dim for dim in dims[1:] if dim != -1])
    whole = sample % known == 0 if -1 in dims[1:] and known else sample == known
    if dims[0] == 1 and whole:
        node.notes.append(f"{node.name}: the 1 that its shape begins with is read as the batch")
        return [batch, *(sample // known if dim == -1 else dim for dim in dims[1:])]
    if isinstance(shape[0], tirx.Var):
        raise node.unsupported(
            f"its shape {dims} does not fit an open batch of {list(shape[1:])}; fix the batch "
            "with shape="
        )
    return dims


def _split_batch(shape: list[Any]) -> tuple[Any, int]:
    """An open batch and the elements a sample; the batch is None where there is none."""
    if not shape or isinstance(shape[0], int) or not all(isinstance(d, int) for d in shape[1:]):
        return None, 0
    head, inner = shape[0], product(shape[1:])
    if isinstance(head, tirx.Mul) and isinstance(head.b, tirx.IntImm):
        head, inner = head.a, inner * int(head.b)
    return (head, inner) if isinstance(head, tirx.Var) else (None, 0)


def slice_(node: OnnxNode) -> relax.Expr | None:
    """Slice with constant bounds, clamped to the axis; one that takes all of it is nothing."""
    if not node.is_tensor(0):
        return None
    arguments = _slice_arguments(node)
    if arguments is None:
        return None
    shape = node.shape()
    axes, begins, ends, strides = [], [], [], []
    for axis, begin, end, stride in zip(*arguments, strict=True):
        axis += len(shape) if axis < 0 else 0
        size = shape[axis]
        if not isinstance(size, int):
            if begin == 0 and stride == 1 and end >= np.iinfo(np.int32).max:
                continue
            raise node.unsupported(f"it cuts axis {axis}, whose size is not known")
        if stride < 0:
            return None
        begin, end, stride = slice(begin, end, stride).indices(size)
        if (begin, end, stride) == (0, size, 1):
            continue
        axes.append(axis)
        begins.append(begin)
        ends.append(max(begin, end))
        strides.append(stride)
    if not axes:
        return node.inputs[0]
    return relax.op.strided_slice(node.inputs[0], axes, begins, ends, strides)


def _slice_arguments(node: OnnxNode) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """(axes, begins, ends, strides), or None where one of them is not constant."""
    if node.opset < 10:
        starts, ends = node.integers("starts", []), node.integers("ends", [])
        return node.integers("axes", range(len(starts))), starts, ends, [1] * len(starts)
    values: list[list[int] | None] = []
    for index in range(1, 5):
        constant = node.constant(index)
        if constant is None and node.input(index) is not None:
            return None
        values.append(None if constant is None else [int(v) for v in constant.reshape(-1)])
    begins, limits, axes, strides = values
    if begins is None or limits is None:
        return None
    return axes or list(range(len(begins))), begins, limits, strides or [1] * len(begins)


def pad(node: OnnxNode) -> relax.Expr | None:
    """Pad with a constant; the other modes are left to TVM."""
    if node.text("mode", "constant") != "constant":
        return None
    rank = len(node.shape())
    if node.opset < 11:
        widths: list[int] | None = node.integers("pads", [])
        value = float(node.attrs.get("value", 0.0))
    else:
        widths = _pad_widths(node, rank)
        fill = node.constant(2)
        value = 0.0 if fill is None or fill.size == 0 else float(fill.reshape(-1)[0])
    if widths is None:
        raise node.unsupported("the widths of its padding depend on the input's values")
    if min(widths) < 0:
        raise node.unsupported("it cuts with a negative padding: use Slice instead")
    pairs = [width for axis in range(rank) for width in (widths[axis], widths[rank + axis])]
    return relax.op.nn.pad(node.inputs[0], pairs, pad_mode="constant", pad_value=value)


def _pad_widths(node: OnnxNode, rank: int) -> list[int] | None:
    """All begins, then all ends, as ONNX has them, for every axis."""
    constant = node.constant(1)
    if constant is None:
        return None
    given = [int(width) for width in constant.reshape(-1)]
    axes = list(range(rank))
    if not node.is_left_out(3):
        chosen = node.constant(3)
        if chosen is None:
            return None
        axes = [int(axis) % rank for axis in chosen.reshape(-1)]
    widths = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        widths[axis] = given[position]
        widths[rank + axis] = given[len(axes) + position]
    return widths


def resize(node: OnnxNode) -> relax.Expr | None:
    """Resize of maps; one that repeats pixels takes the one form ``asymmetric``, ``floor``."""
    if not node.is_2d() or node.attrs.get("axes"):
        return None
    sizes = _resize_sizes(node)
    if node.text("mode", "nearest") != "nearest" or sizes is None:
        return None
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.unsupported("a keep_aspect_ratio_policy other than stretch is not handled")
    mode = node.text(
        "coordinate_transformation_mode", "half_pixel" if node.opset > 10 else "asymmetric"
    )
    rounding = node.text("nearest_mode", "round_prefer_floor" if node.opset > 10 else "floor")
    heights = node.shape()[2:]
    if all(_repeats(size, out, mode, rounding) for size, out in zip(heights, sizes, strict=True)):
        return _repeat_pixels(node, sizes)
    if node.opset > 10:
        return None
    return relax.op.image.resize2d(
        node.inputs[0],
        relax.ShapeExpr(sizes),
        method="nearest_neighbor",
        coordinate_transformation_mode=mode,
        rounding_method=rounding,
    )


def upsample(node: OnnxNode) -> relax.Expr | None:
    """Upsample, the older name of Resize."""
    if not node.is_2d():
        raise node.unsupported("only maps, with four axes, can be enlarged")
    scales = node.attrs.get("scales") if node.opset < 9 else node.constant(1)
    if scales is None:
        raise node.unsupported("its scales depend on the input's values")
    sizes = _scaled_sizes(node, scales)
    mode = node.text("mode", "nearest")
    if mode == "nearest":
        heights = node.shape()[2:]
        if all(
            _repeats(size, out, "asymmetric", "floor")
            for size, out in zip(heights, sizes, strict=True)
        ):
            return _repeat_pixels(node, sizes)
    elif mode not in ("linear", "bilinear"):
        raise node.unsupported(f"mode '{mode}' is not handled")
    return relax.op.image.resize2d(
        node.inputs[0],
        relax.ShapeExpr(sizes),
        method="nearest_neighbor" if mode == "nearest" else "linear",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    )


def _resize_sizes(node: OnnxNode) -> list[int] | None:
    """(height, width) of the result, or None where they are not constant."""
    if node.opset < 11:
        scales = node.constant(1)
        return None if scales is None else _scaled_sizes(node, scales)
    if not node.is_left_out(2):
        scales = node.constant(2)
        return None if scales is None else _scaled_sizes(node, scales)
    target = node.input(3)
    if isinstance(target, relax.ShapeExpr):
        dims = target.values[2:]
        return [int(d) for d in dims] if all(isinstance(d, tirx.IntImm) for d in dims) else None
    constant = node.constant(3)
    return None if constant is None else [int(dim) for dim in constant.reshape(-1)[2:]]


def _scaled_sizes(node: OnnxNode, scales: Sequence[float] | NDArray[Any]) -> list[int]:
    values = [float(scale) for scale in scales]
    if len(values) != 4 or values[0] != 1.0 or values[1] != 1.0:
        raise node.unsupported(f"scales {values} change the batch or the channels")
    sizes = []
    for dim, scale in zip(node.shape()[2:], values[2:], strict=True):
        if not isinstance(dim, int):
            raise node.unsupported("it needs a static height and width")
        sizes.append(int(np.floor(dim * scale)))
    return sizes


def _repeats(size: Any, out: int, mode: str, rounding: str) -> bool:
    """Whether nearest-neighbour enlargement repeats each pixel a whole number of times."""
    if not isinstance(size, int) or size == 0 or out % size:
        return False
    factor = out // size
    index = np.arange(out, dtype=np.float64)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        source = (index + 0.5) / factor - 0.5
        if mode == "pytorch_half_pixel" and out == 1:
            source = np.zeros(1)
    elif mode == "asymmetric":
        source = index / factor
    elif mode == "align_corners":
        source = index * (size - 1) / max(out - 1, 1)
    else:
        return False
    rounded = {
        "floor": np.floor(source),
        "ceil": np.ceil(source),
        "round_prefer_floor": np.ceil(source - 0.5),
        "round_prefer_ceil": np.floor(source + 0.5),
    }.get(rounding)
    return rounded is not None and bool(
        (np.clip(rounded, 0, size - 1) == np.arange(out) // factor).all()
    )


def _repeat_pixels(node: OnnxNode, sizes: list[int]) -> relax.Expr:
    return relax.op.image.resize2d(
        node.inputs[0],
        relax.ShapeExpr(sizes),
        method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    )


SHAPE_CONVERTERS: dict[str, Converter] = {
    "Flatten": flatten,
    "Reshape": reshape,
    "Slice": slice_,
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
}
