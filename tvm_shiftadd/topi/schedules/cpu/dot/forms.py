"""The forms in which a network's values exist in the function that is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import TensorType, constant_array, ir, relax, te, tirx

from . import convert
from .chains import map_sizes
from .network import Network
from .stored import Wide


class Forms:
    """Emits bindings; values take the form that their readers want, once each.

    ``plain`` is a tensor as the dialect has it, ``stored`` a map of bytes as ``network.layout``
    says, and ``wide`` an int32 map as kernels write it; all by the variable of the old function.
    """

    def __init__(self, mod: Any, network: Network) -> None:
        self.builder = relax.BlockBuilder(mod)
        self.network = network
        self.plain: dict[Any, Any] = {param: param for param in mod["main"].params}
        self.stored: dict[Any, Any] = {}
        self.wide: dict[Any, Any] = {}

    def emit(self, value: Any, name: str) -> Any:
        """A variable of a name bound to a value."""
        value = self.builder.normalize(value)
        var = relax.DataflowVar(name, value.ty)
        self.builder.emit_normalized(relax.VarBinding(var, value))
        return var

    def call(self, kernel: Any, args: list[Any], shape: Any, dtype: str, name: str) -> Any:
        """The result of a kernel."""
        variable = self.builder.add_func(kernel, str(kernel.attrs["global_symbol"]))
        return self.emit(relax.call_tir(variable, args, TensorType(shape, dtype)), name)

    def prepare(self, function: Any, inputs: list[Any], name: str) -> Any:
        """The result of a compute definition of parameters: computed when a network loads.

        Of constants alone it is computed here, since nothing of that is lifted out of a run.
        """
        known = [constant_array(value) for value in inputs]
        if all(values is not None for values in known):
            return relax.const(_computed(function, known))
        call = self.builder.call_te(function, *inputs, primfunc_name_hint="shiftadd_prepare")
        return self.emit(call, name)

    @staticmethod
    def batch(var: Any) -> Any:
        """The batch size: an int, or a fresh variable so that equal layers are one function."""
        size = var.ty.shape[0]
        return int(size) if isinstance(size, tirx.IntImm) else tirx.Var("n", "int64")

    def substitute(self, expr: Any) -> Any:
        """An expression of old variables with their plain new forms."""
        if isinstance(expr, relax.Var):
            return self.plain_of(expr)
        if isinstance(expr, relax.Call):
            args = [a if isinstance(a, ir.GlobalVar) else self.substitute(a) for a in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.substitute(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.substitute(expr.tuple_value), expr.index)
        return expr

    def plain_of(self, var: Any) -> Any:
        """The tensor as the dialect has it."""
        if var in self.plain:
            return self.plain[var]
        batch, root = var.ty.shape[0], self.network.root(var)
        if root in self.stored:
            layout, dtype = self.network.layout(root), str(var.ty.dtype)
            kernel = convert.plain_map(layout, dtype, self.batch(var))
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
            kernel = convert.store_map(layout, dtype, self.batch(root))
            shape = (root.ty.shape[0], layout.size)
            self.stored[root] = self.call(kernel, [x], shape, "uint8", f"{root.name}.stored")
        return self.stored[root]

    def wide_of(self, var: Any) -> Any:
        """The int32 tensor as a kernel reads it."""
        if var not in self.wide:
            x = relax.op.reshape(self.plain_of(var), (var.ty.shape[0], Wide(*map_sizes(var)).size))
            self.wide[var] = self.emit(x, f"{var.name}.flat")
        return self.wide[var]


def _computed(function: Callable[..., Any], values: list[Any]) -> NDArray[Any]:
    """What a compute definition gives for arrays."""
    inputs = [te.placeholder(value.shape, str(value.dtype)) for value in values]
    output = function(*inputs)
    compiled = tvm.compile(te.create_prim_func([*inputs, output]), target="llvm")
    shape = tuple(int(size) for size in output.shape)
    result = tvm.runtime.tensor(np.zeros(shape, str(output.dtype)))
    compiled(*map(tvm.runtime.tensor, values), result)
    found: NDArray[Any] = result.numpy()
    return found
