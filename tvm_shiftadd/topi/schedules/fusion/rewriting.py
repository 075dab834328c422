"""Building a function in the place of ``main``, with calls of kernels for layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_shiftadd._compat import TensorType, constant_array, ir, relax
from tvm_shiftadd.topi.evaluation import evaluate

from .chains import Chain, bindings
from .epilogue import Epilogue, constants


class Rewriting:
    """Emits the bindings of the function that is built.

    ``plain`` are its tensors by the variables of the old function, as the dialect has them.
    """

    def __init__(self, mod: Any) -> None:
        self._mod = mod
        self.builder = relax.BlockBuilder(mod)
        self.plain: dict[Any, Any] = {param: param for param in mod["main"].params}

    def run(self, rewrite: Callable[[Any], None]) -> Any:
        """The module with its main function rewritten, by a call of ``rewrite`` a binding."""
        func, builder = self._mod["main"], self.builder
        attrs = {k: v for k, v in dict(func.attrs or {}).items() if k != "global_symbol"}
        with builder.function("fused_main", list(func.params), attrs=attrs):
            with builder.dataflow():
                for binding in bindings(func):
                    rewrite(binding)
                output = builder.emit_output(self.substitute(func.body.body))
            builder.emit_func_output(output)
        made = builder.get()
        fused = made.get_global_var("fused_main")
        functions = {var: body for var, body in made.functions.items() if var != fused}
        result = ir.IRModule(functions, attrs=self._mod.attrs)
        result.update_func(self._mod.get_global_var("main"), made[fused])
        return result

    def keep(self, binding: Any) -> None:
        """Take over a binding as it is."""
        var, new = binding.var, self.substitute(binding.value)
        self.plain[var] = new if isinstance(new, relax.Var) else self.emit(new, var.name)

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
        known = [array for value in inputs if (array := constant_array(value)) is not None]
        if len(known) == len(inputs):
            return relax.const(evaluate(lambda *values: [function(*values)], known)[0])
        call = self.builder.call_te(function, *inputs, primfunc_name_hint="shiftadd_prepare")
        return self.emit(call, name)

    def constants(
        self,
        chain: Chain,
        epilogue: Epilogue,
        bias: Any,
        *,
        zero: int = 0,
        sums: Any = None,
        order: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The matrix of constants of a chain's kernel, its columns brought into an order.

        ``zero`` and ``sums``, which is there where that is not 0, as for ``epilogue.constants``.
        """
        operands = chain.operands
        inputs = [bias, *(self.substitute(value) for value in operands.values())]

        def made(bias: Any, *values: Any) -> Any:
            named = dict(zip(operands, values, strict=False))
            matrix = constants(epilogue, bias, named, zero, values[-1] if zero else None)
            return matrix if order is None else order(matrix)

        name = f"{chain.result.name}.constants"
        return self.prepare(made, [*inputs, *([sums] if zero else [])], name)

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
        """The new form of an old variable."""
        return self.plain[var]
