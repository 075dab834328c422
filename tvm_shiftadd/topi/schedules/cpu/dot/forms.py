"""The forms in which a network's values exist in the function that is built."""

from __future__ import annotations

from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.topi.schedules.fusion.chains import map_sizes
from tvm_shiftadd.topi.schedules.fusion.function import batch_of
from tvm_shiftadd.topi.schedules.fusion.rewriting import Rewriting

from . import convert
from .network import Network
from .stored import Wide


class Forms(Rewriting):
    """Emits bindings; values take the form that their readers want, once each.

    ``plain`` is a tensor as the dialect has it, ``stored`` a map of bytes as ``network.layout``
    says, and ``wide`` an int32 map as kernels write it; all by the variable of the old function.
    """

    def __init__(self, mod: Any, network: Network) -> None:
        super().__init__(mod)
        self.network = network
        self.stored: dict[Any, Any] = {}
        self.wide: dict[Any, Any] = {}

    def plain_of(self, var: Any) -> Any:
        """The tensor as the dialect has it."""
        if var in self.plain:
            return self.plain[var]
        batch, root = var.ty.shape[0], self.network.root(var)
        if root in self.stored:
            layout, dtype = self.network.layout(root), str(var.ty.dtype)
            kernel = convert.plain_map(layout, dtype, batch_of(var))
            shape = (batch, layout.height, layout.width, layout.channels)
            result = self.call(kernel, [self.stored[root]], shape, dtype, f"{var.name}.plain")
        elif not root.same_as(var):
            result = self.emit(relax.op.reshape(self.plain_of(root), var.ty.shape), var.name)
        else:
            wide = Wide(*map_sizes(var))
            result = relax.op.reshape(self.wide[var], (batch, wide.height, wide.width, wide.pitch))
            result = self.emit(result, f"{var.name}.plain")
            if wide.pitch != wide.channels:
                result = relax.op.strided_slice(result, [3], [0], [wide.channels])
                result = self.emit(result, f"{var.name}.cut")
        if len(var.ty.shape) != len(result.ty.shape):
            result = self.emit(relax.op.reshape(result, var.ty.shape), f"{var.name}.rows")
        self.plain[var] = result
        return result

    def stored_of(self, var: Any) -> Any:
        """The tensor of bytes as its layout has it."""
        root = self.network.root(var)
        if root not in self.stored:
            layout, dtype = self.network.layout(root), str(root.ty.dtype)
            x = self.plain_of(root)
            if len(root.ty.shape) == 2:
                one = (root.ty.shape[0], 1, 1, layout.channels)
                x = self.emit(relax.op.reshape(x, one), f"{root.name}.map")
            kernel = convert.store_map(layout, dtype, batch_of(root))
            shape = (root.ty.shape[0], layout.size)
            self.stored[root] = self.call(kernel, [x], shape, "uint8", f"{root.name}.stored")
        return self.stored[root]

    def wide_of(self, var: Any) -> Any:
        """The int32 tensor as a kernel reads it."""
        if var not in self.wide:
            x = relax.op.reshape(self.plain_of(var), (var.ty.shape[0], Wide(*map_sizes(var)).size))
            self.wide[var] = self.emit(x, f"{var.name}.flat")
        return self.wide[var]
