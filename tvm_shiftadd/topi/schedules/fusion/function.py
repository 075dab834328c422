"""Writing a TensorIR function by TVM's builder: what every fused kernel begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx

#: Attribute of a kernel that computes the integers of its definition by the target's own
#: instructions, products included. Such a kernel is written, and tested bit by bit,
#: against a definition without products; nothing else may carry it.
COMPUTED_BY = "shiftadd.computed_by"
#: TVM's operator pattern of a function that is not fused.
_OPAQUE = 8


class Kernel:
    """A function being built: its parameters by name; ``function`` once it is complete."""

    function: tirx.PrimFunc

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters

    def __getitem__(self, name: str) -> Any:
        return self._parameters[name]


@contextmanager
def kernel(
    name: str, tensors: Mapping[str, tuple[Sequence[Any], str]], computed_by: str | None
) -> Iterator[Kernel]:
    """Build a function that needs neither fusing nor scheduling.

    ``tensors`` are its parameters, shape and type of each, in order; an int in a shape is a
    known size. ``computed_by``: the instruction that stands for shifts, None for real ones.
    """
    attrs: dict[str, Any] = {"tirx.noalias": True, "op_pattern": _OPAQUE, "tirx.is_scheduled": True}
    if computed_by is not None:
        attrs[COMPUTED_BY] = computed_by
    with IRBuilder() as builder:
        with build.prim_func(s_tir=True):
            build.func_name(name)
            made = Kernel(
                {
                    key: build.arg(key, build.buffer([_size(d) for d in shape], dtype))
                    for key, (shape, dtype) in tensors.items()
                }
            )
            build.func_attr(attrs)
            with build.sblock("root"):
                build.reads([])
                build.writes([])
                yield made
        made.function = builder.get()


def batch_size(batch: Any) -> Any:
    """The batch as an expression: an int64 constant, or the symbolic variable it is."""
    return _size(batch)


def batch_of(expr: Any) -> Any:
    """The batch of a tensor: an int, or a fresh variable so that equal layers are one function."""
    size = expr.ty.shape[0]
    return int(size) if isinstance(size, tirx.IntImm) else tirx.Var("n", "int64")


def _size(size: Any) -> Any:
    return tirx.IntImm("int64", size) if isinstance(size, int) else size
