"""Kernels between layers: from quantised floats to stored maps, pools, and moves."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd.dialect.attrs import MaxPool2DAttrs, QuantizeAttrs
from tvm_shiftadd.topi.schedules.fusion.chains import map_sizes, name_of, parts_of
from tvm_shiftadd.topi.schedules.fusion.function import batch_of

from .entry import can_enter, quantize_pixels, quantize_store
from .forms import Forms
from .moves import Piece, move
from .network import Network
from .pool import PoolPlan, max_pool


def emit_between(network: Network, forms: Forms, var: Any, value: Any) -> bool:
    """Emit the kernel that a binding which is no layer has; False where it has none."""
    if var in network.moved:
        pool = name_of(value) == "shiftadd.max_pool2d"
        (_emit_pool if pool else _emit_move)(network, forms, var, value)
        return True
    return name_of(value) == "shiftadd.quantize" and _emit_entry(network, forms, var, value)


def _emit_entry(network: Network, forms: Forms, var: Any, value: Any) -> bool:
    """Quantise into a stored map, if this binding begins one."""
    exponent, dtype = QuantizeAttrs.of(value).exponent, str(var.ty.dtype)
    reader = network.readers.only(var)
    kernel, entry = quantize_pixels, var
    if reader is not None and name_of(reader.value) == "relax.permute_dims":
        kernel, entry = quantize_store, reader.var
    if not network.is_stored(entry):
        return False
    layout = network.layout(entry)
    if kernel is quantize_store and not can_enter(layout):
        return False
    function = kernel(layout, exponent, dtype, batch_of(entry))
    args, shape = [forms.substitute(value.args[0])], (entry.ty.shape[0], layout.size)
    forms.stored[entry] = forms.call(function, args, shape, "uint8", entry.name)
    if entry is not var:
        network.inner.add(entry)
    return True


def _emit_pool(network: Network, forms: Forms, var: Any, value: Any) -> None:
    source, out = network.layout(value.args[0]), network.layout(var)
    function = max_pool(PoolPlan(MaxPool2DAttrs.of(value), source, out), batch_of(var))
    _emit(forms, function, [value.args[0]], var, out.size)


def _emit_move(network: Network, forms: Forms, var: Any, value: Any) -> None:
    name, out = name_of(value).removeprefix("shiftadd."), network.layout(var)
    sources = parts_of(value) if name == "concat" else [value.args[0]]
    layouts = [network.layout(source) for source in sources]
    if name == "concat":
        pieces, at = [], [0, 0, 0]
        axis = int(value.attrs["axis"]) - 1
        for source, layout in zip(sources, layouts, strict=True):
            pieces.append(Piece(layout, (at[0], at[1], at[2])))
            at[axis] += map_sizes(source)[axis]
    elif name == "pad":
        _, _, top, _, left, _, before, _ = map(int, value.attrs["pad_width"])
        pieces = [Piece(layouts[0], (top, left, before))]
    else:
        down, across = map(int, value.attrs["scale"])
        pieces = [Piece(layouts[0], scale=(down, across))]
    function = move(f"shiftadd_{name}", pieces, out, batch_of(var))
    _emit(forms, function, sources, var, out.size)


def _emit(forms: Forms, function: Any, sources: list[Any], var: Any, size: int) -> None:
    args = [forms.stored_of(source) for source in sources]
    forms.stored[var] = forms.call(function, args, (var.ty.shape[0], size), "uint8", var.name)
