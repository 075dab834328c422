"""Rewriting a module's layers to calls of CUDA kernels, each with all that belongs to it."""

from __future__ import annotations

from typing import Any

import tvm

from tvm_shiftadd._compat import TensorType, ir, relax, tirx
from tvm_shiftadd.topi.schedules.cpu.dot import weights
from tvm_shiftadd.topi.schedules.cpu.dot.chains import Chain, Readers, bindings, name_of

from .epilogue import Epilogue, Tensor
from .layers import layer_kernel, problem_of
from .problem import Problem
from .workload import Choices, Workload

_MAP_LAYERS = ("shiftadd.conv2d", "shiftadd.adder_conv2d")
_MATRIX_LAYERS = ("shiftadd.dense", "shiftadd.adder_dense")


@tvm.transform.module_pass(opt_level=0, name="FuseLayers")
class FuseLayers:
    """Replace layers of ``main`` and what follows them by kernels on plain tensors.

    ``arch`` is the compute capability that the kernels may use, 61 or more: 80 stands for 8.0.
    ``choices`` gives their parameters, and takes down which they were.
    """

    def __init__(self, arch: int, choices: Choices | None = None) -> None:
        self.arch = arch
        self.choices = Choices() if choices is None else choices

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Rewrite ``main``; every other function stays."""
        return _Rewriter(mod, self.arch, self.choices).run()


class _Rewriter:
    """Rebuilds ``main`` binding by binding."""

    def __init__(self, mod: Any, arch: int, choices: Choices) -> None:
        self.mod, self.function, self.arch = mod, mod["main"], arch
        self.choices = choices
        self.builder = relax.BlockBuilder(mod)
        self.readers = Readers(self.function, whole=1)
        #: Chains by the variable that their kernel computes, with what it has to do.
        self.chains: dict[Any, tuple[Chain, Problem]] = {}
        #: Variables that are computed inside a kernel.
        self.inner: set[Any] = set()
        self.new: dict[Any, Any] = {param: param for param in self.function.params}
        for binding in bindings(self.function):
            if _is_layer(binding):
                self._add_chain(binding)

    def _add_chain(self, binding: Any) -> None:
        chain = self.readers.chain(binding, self.chains)
        problem = problem_of(chain)
        if problem is None:
            return
        self.chains[chain.result] = (chain, problem)
        var = binding.var
        while not var.same_as(chain.result):
            self.inner.add(var)
            var = self.readers.only(var).var

    def run(self) -> Any:
        """The module with its main function rewritten."""
        func, builder = self.function, self.builder
        attrs = {k: v for k, v in dict(func.attrs or {}).items() if k != "global_symbol"}
        with builder.function("fused_main", list(func.params), attrs=attrs):
            with builder.dataflow():
                for binding in bindings(func):
                    self._rewrite(binding)
                output = builder.emit_output(self._substitute(func.body.body))
            builder.emit_func_output(output)
        made = builder.get()
        fused = made.get_global_var("fused_main")
        functions = {var: body for var, body in made.functions.items() if var != fused}
        result = ir.IRModule(functions, attrs=self.mod.attrs)
        result.update_func(self.mod.get_global_var("main"), made[fused])
        return result

    def _rewrite(self, binding: Any) -> None:
        var = binding.var
        if var in self.chains:
            self._emit_chain(*self.chains[var])
        elif var not in self.inner:
            new = self._substitute(binding.value)
            self.new[var] = new if isinstance(new, relax.Var) else self._emit(new, var.name)

    def _emit(self, value: Any, name: str) -> Any:
        value = self.builder.normalize(value)
        var = relax.DataflowVar(name, value.ty)
        self.builder.emit_normalized(relax.VarBinding(var, value))
        return var

    def _substitute(self, expr: Any) -> Any:
        """An expression of old variables with their new ones."""
        if isinstance(expr, relax.Var):
            return self.new[expr]
        if isinstance(expr, relax.Call):
            args = [a if isinstance(a, ir.GlobalVar) else self._substitute(a) for a in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._substitute(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._substitute(expr.tuple_value), expr.index)
        return expr

    def _emit_chain(self, chain: Chain, problem: Problem) -> None:
        layer, result = chain.layer, chain.result
        batch = _batch(result)
        epilogue = _epilogue(chain)
        work = Workload.of(problem, epilogue, batch)
        kernel = layer_kernel(problem, self.choices.parameters(str(result.name), work, self.arch))
        weight, bias = (self._substitute(value) for value in layer.args[1:3])
        packed = self._prepare(kernel.pack, [weight], f"{result.name}.packed")
        constants = self._constants(chain, epilogue, bias)
        args = [self._substitute(layer.args[0]), packed, constants]
        if chain.add is not None:
            args.append(self._substitute(chain.other))
        shapes = _shape(layer.args[0], batch), _shape(result, batch)
        function = kernel.build(epilogue, batch, shapes)
        variable = self.builder.add_func(function, str(function.attrs["global_symbol"]))
        kind = TensorType(result.ty.shape, epilogue.out.dtype)
        self.new[result] = self._emit(relax.call_tir(variable, args, kind), result.name)

    def _constants(self, chain: Chain, epilogue: Epilogue, bias: Any) -> Any:
        operands: dict[str, Any] = {}
        if chain.scale is not None:
            operands["factor"] = chain.scale.args[1]
        if chain.add is not None:
            operands["lhs_shift"], operands["rhs_shift"] = chain.shifts
        if chain.requantize is not None:
            operands["shift"] = chain.requantize.args[1]

        def made(bias: Any, *values: Any) -> Any:
            named = dict(zip(operands, values, strict=True))
            return weights.constants(epilogue, bias, 0, None, named)

        inputs = [bias, *(self._substitute(value) for value in operands.values())]
        return self._prepare(made, inputs, f"{chain.result.name}.constants")

    def _prepare(self, function: Any, inputs: list[Any], name: str) -> Any:
        call = self.builder.call_te(function, *inputs, primfunc_name_hint="shiftadd_prepare")
        return self._emit(call, name)


def _is_layer(binding: Any) -> bool:
    name = name_of(binding.value)
    matrix = name in _MATRIX_LAYERS and len(binding.value.args[0].ty.shape) == 2
    return matrix or name in _MAP_LAYERS


def _batch(var: Any) -> Any:
    """The batch size: an int, or a fresh variable so that equal layers are one function."""
    size = var.ty.shape[0]
    return int(size) if isinstance(size, tirx.IntImm) else tirx.Var("n", "int64")


def _shape(var: Any, batch: Any) -> tuple[Any, ...]:
    return (batch, *(int(size) for size in list(var.ty.shape)[1:]))


def _epilogue(chain: Chain) -> Epilogue:
    """What follows the sums of a chain."""
    channels = int(chain.result.ty.shape[-1])
    out = Tensor(channels, str(chain.result.ty.dtype))
    other = chain.other
    residual = None if chain.add is None else Tensor(channels, str(other.ty.dtype))
    scaled = chain.scale is not None
    if chain.requantize is None:
        return Epilogue(out, scaled=scaled, residual=residual)
    return Epilogue(out, *chain.bounds, scaled, residual)
