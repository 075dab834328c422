"""Finding the operators that one fused kernel computes.

A chain begins at a layer and goes on, as long as each result has a single reader, with the
optional ``scale``, ``add`` and ``requantize`` behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_shiftadd._compat import TensorType, relax
from tvm_shiftadd.dialect.attrs import ClipAttrs, RequantizeAttrs
from tvm_shiftadd.dialect.registry import is_dialect_call, op_name

#: Operators that hand on values of their only operand, or zeros.
_MOVING = frozenset(f"shiftadd.{name}" for name in ("max_pool2d", "pad", "upsample2d")) | frozenset(
    f"relax.{name}" for name in ("reshape", "permute_dims", "strided_slice")
)


@dataclass
class Chain:
    """A layer and what follows it; ``result`` is the variable that the kernel computes.

    Where an addition, a requantisation or a clip follows no layer, ``layer`` is that call itself.
    """

    layer: Any
    result: Any
    scale: Any = None
    add: Any = None
    other: Any = None
    requantize: Any = None

    @property
    def shifts(self) -> tuple[Any, Any]:
        """The shifts of the addition: of the layer's result, then of the other operand."""
        lhs, rhs = self.add.args[2], self.add.args[3]
        return (rhs, lhs) if self.add.args[0].same_as(self.other) else (lhs, rhs)

    @property
    def source(self) -> Any:
        """What the layer reads."""
        alone = self.add is not None and self.layer.same_as(self.add)
        return _other(self.add, self.other) if alone else self.layer.args[0]

    @property
    def operands(self) -> dict[str, Any]:
        """What the constants of what follows the sums are made of, by name (see ``epilogue``)."""
        found: dict[str, Any] = {}
        if self.scale is not None:
            found["factor"] = self.scale.args[1]
        if self.add is not None:
            found["lhs_shift"], found["rhs_shift"] = self.shifts
        if self.requantize is not None:
            found["shift"] = self.shift
        return found

    @property
    def bounds(self) -> tuple[int, int]:
        """The bounds of the requantisation."""
        kind = ClipAttrs if name_of(self.requantize) == "shiftadd.clip" else RequantizeAttrs
        attrs = kind.of(self.requantize)
        return attrs.lo, attrs.hi

    @property
    def shift(self) -> Any:
        """By how much the requantisation shifts to the right, int32 ``[C]`` or ``[1]``."""
        if name_of(self.requantize) == "shiftadd.clip":
            return relax.const(np.zeros(1, np.int32))
        return self.requantize.args[1]


class Readers:
    """Who reads each variable of a function.

    Kernels take an int32 operand of an addition whose channels are a multiple of ``whole``.
    """

    def __init__(self, function: Any, whole: int = 1) -> None:
        self._whole = whole
        self.definitions = {b.var: b.value for b in bindings(function)}
        self.of: dict[Any, list[Any]] = defaultdict(list)
        for binding in bindings(function):
            for var in _variables(binding.value):
                self.of[var].append(binding)
        self._results = set(_variables(function.body.body))

    def only(self, var: Any) -> Any:
        """The binding that alone reads a variable, once; None if there is none or another."""
        found = self.of.get(var, [])
        return found[0] if len(found) == 1 and var not in self._results else None

    def chain(self, layer: Any, taken: Container[Any]) -> Chain:
        """The chain that begins with the binding of a layer.

        It ends before a sum that an earlier chain, whose result is in ``taken``, has made its own.
        """
        chain = self._chain(layer, ("scale", "add", "requantize"))
        return self._chain(layer, ("scale",)) if chain.result in taken else chain

    def alone(self, binding: Any) -> Chain | None:
        """The chain of an addition, a requantisation or a clip that follows no layer.

        One operand of an addition is a map of bytes; None for other bindings.
        """
        value, name, chain = binding.value, name_of(binding.value), None
        if name in ("shiftadd.requantize", "shiftadd.clip"):
            chain = Chain(value, binding.var, requantize=value)
        elif name == "shiftadd.add":
            lhs, rhs = value.args[:2]
            chain = Chain(value, binding.var, add=value, other=rhs if is_map(lhs) else lhs)
            if not self._can_add(chain.other):
                return None
            chain = self._extended(chain, ("requantize",))
        return chain if chain is not None and is_map(chain.source) else None

    def _chain(self, layer: Any, names: Sequence[str]) -> Chain:
        return self._extended(Chain(layer.value, layer.var), names)

    def _extended(self, chain: Chain, names: Sequence[str]) -> Chain:
        for name in names:
            reader = self.only(chain.result)
            if reader is None or name_of(reader.value) != f"shiftadd.{name}":
                continue
            if name == "add":
                chain.other = _other(reader.value, chain.result)
                if not self._can_add(chain.other):
                    chain.other = None
                    return chain
            elif not reader.value.args[0].same_as(chain.result):
                return chain
            setattr(chain, name, reader.value)
            chain.result = reader.var
        return chain

    def _can_add(self, other: Any) -> bool:
        if not isinstance(other, relax.Var):
            return False
        rank = len(other.ty.shape)
        whole = int(other.ty.shape[-1]) % self._whole == 0
        return rank in (2, 4) and (str(other.ty.dtype) != "int32" or whole)

    def never_negative(self, var: Any) -> bool:
        """Whether a stored tensor certainly holds no negative value."""
        if str(var.ty.dtype) == "uint8":
            return True
        value: Any = self.definitions.get(var)
        name = name_of(value)
        if name in ("shiftadd.requantize", "shiftadd.clip"):
            return int(value.attrs["lo"]) >= 0
        if name == "shiftadd.concat":
            return bool(parts := parts_of(value)) and all(map(self.never_negative, parts))
        return name in _MOVING and self.never_negative(value.args[0])

    def strided(self, var: Any) -> tuple[Any, tuple[int, int], int] | None:
        """The map that a variable shows with strides and channels of zeros put around.

        With the strides and the count of channels in front; None where it is no such view.
        """
        value: Any = self.definitions.get(var)
        before = 0
        if name_of(value) == "shiftadd.pad":
            width = [int(side) for side in value.attrs["pad_width"]]
            if len(width) != 8 or any(width[:6]):
                return None
            before, var = width[6], value.args[0]
        strides = [1, 1]
        while name_of(value := self.definitions.get(var)) == "relax.strided_slice":
            for axis, step in _whole_slice(value):
                if axis not in (1, 2):
                    return None
                strides[axis - 1] *= step
            var = value.args[0]
            if not _whole_slice(value):
                return None
        return None if strides == [1, 1] else (var, (strides[0], strides[1]), before)


def _whole_slice(call: Any) -> list[tuple[int, int]]:
    """Axes and strides of a slice from the first to the last element of each, else nothing."""
    axes, begin, end, *rest = (
        [int(getattr(field, "value", field)) for field in part.fields] for part in call.args[1:]
    )
    sizes = call.args[0].ty.shape
    # The batch may be symbolic; it is not sliced here.
    if any(axis not in (1, 2) for axis in axes) or any(begin):
        return []
    if any(stop < int(sizes[axis]) for axis, stop in zip(axes, end, strict=True)):
        return []
    steps = rest[0] if rest else [1] * len(axes)
    return list(zip(axes, steps, strict=True))


def bindings(function: Any) -> Iterator[Any]:
    """Every binding of a function in order."""
    for block in function.body.blocks:
        yield from block.bindings


def name_of(value: Any) -> str:
    """The operator a call is of: "shiftadd.conv2d", "relax.reshape"; "" for anything else."""
    if is_dialect_call(value):
        return "shiftadd." + op_name(value)
    op = getattr(value, "op", None) if isinstance(value, relax.Call) else None
    return str(getattr(op, "name", ""))


def map_sizes(var: Any) -> tuple[int, int, int]:
    """Height, width and channels of a tensor; a matrix is a map of one pixel."""
    sizes = [int(size) for size in list(var.ty.shape)[1:]]
    return (1, 1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1], sizes[2])


def is_map(var: Any) -> bool:
    """Whether a variable is a map or matrix of bytes, which can be stored."""
    ty = var.ty
    bytes_ = isinstance(ty, TensorType) and str(ty.dtype) in ("int8", "uint8")
    return bytes_ and len(ty.shape) in (2, 4)


def reach(window: Any, result: Any) -> tuple[int, int, int, int]:
    """How far a window's taps reach beyond its input: top, left, bottom, right.

    ``window`` is a call with the attributes of a convolution or a pooling, ``result`` its type.
    """
    attrs = window.attrs
    if attrs is None or "padding" not in attrs:
        return (0, 0, 0, 0)
    size = attrs["kernel_size"] if "kernel_size" in attrs else attrs["pool_size"]
    before = [int(pad) for pad in attrs["padding"]][:2]
    dilation = [int(d) for d in attrs["dilation"]] if "dilation" in attrs else [1, 1]
    after = []
    for axis in range(2):
        last = (int(result.shape[1 + axis]) - 1) * int(attrs["strides"][axis]) - before[axis]
        last += (int(size[axis]) - 1) * dilation[axis]
        after.append(max(0, last + 1 - int(window.args[0].ty.shape[1 + axis])))
    return (before[0], before[1], after[0], after[1])


def parts_of(concat: Any) -> list[Any]:
    """The tensors that a call of ``concat`` joins."""
    joined = concat.args[0]
    return list(joined.fields) if isinstance(joined, relax.Tuple) else []


def _other(add: Any, mine: Any) -> Any:
    return add.args[1] if add.args[0].same_as(mine) else add.args[0]


def _variables(expr: Any) -> list[Any]:
    if isinstance(expr, relax.Var):
        return [expr]
    parts: list[Any] = []
    if isinstance(expr, relax.Call):
        parts = list(expr.args)
    elif isinstance(expr, relax.Tuple):
        parts = list(expr.fields)
    elif isinstance(expr, relax.TupleGetItem):
        parts = [expr.tuple_value]
    return [var for part in parts for var in _variables(part)]
