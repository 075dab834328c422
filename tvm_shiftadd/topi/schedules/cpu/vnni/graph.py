"""Rewriting a module's layers to calls of VNNI kernels, each with all that belongs to it."""

from __future__ import annotations

from typing import Any

import tvm

from tvm_shiftadd._compat import TensorType, ir, relax, tirx
from tvm_shiftadd.dialect.attrs import Conv2DAttrs
from tvm_shiftadd.topi.schedules.cpu.geometry import ConvShape, conv_shape

from . import convert, weights
from .chains import Chain, Readers, bindings, choose_layout, is_map, name_of, plain_layout
from .conv import choose_plan, conv
from .epilogue import Epilogue, Wide
from .stored import Stored

_LAYERS = ("shiftadd.conv2d",)


@tvm.transform.module_pass(opt_level=0, name="FuseLayers")
class FuseLayers:
    """Replace layers of ``main`` and what follows them by kernels on stored maps."""

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Rewrite ``main``; every other function stays."""
        if "main" not in [var.name_hint for var in mod.functions]:
            return mod
        builder = relax.BlockBuilder(mod)
        return _Rewriter(mod["main"], builder).run(mod)


class _Rewriter:
    def __init__(self, function: Any, builder: Any) -> None:
        self.function, self.builder = function, builder
        self.readers = Readers(function)
        self.chains = self._find_chains()
        #: Chains by the variable that their kernel computes, and all variables they do away with.
        self.results = {chain.result: chain for chain in self.chains}
        self.layouts: dict[Any, Stored] = {}
        #: The forms in which an old variable exists in the new function.
        self.plain: dict[Any, Any] = {}
        self.stored: dict[Any, Any] = {}
        self.wide: dict[Any, Any] = {}

    def _find_chains(self) -> list[Chain]:
        chains, taken = [], set()
        self.inner: set[Any] = set()
        for binding in bindings(self.function):
            if name_of(binding.value) not in _LAYERS:
                continue
            chain = self.readers.chain(binding)
            if chain.result in taken:
                # Two layers meet in an addition: the first has taken it, this one stays wide.
                chain = Chain(binding.value, binding.var)
            taken.add(chain.result)
            chains.append(chain)
            var = binding.var
            while not var.same_as(chain.result):
                self.inner.add(var)
                var = self.readers.only(var).var
        return chains

    def run(self, mod: Any) -> Any:
        """The module with its main function rewritten."""
        func, builder = self.function, self.builder
        attrs = {k: v for k, v in dict(func.attrs or {}).items() if k != "global_symbol"}
        for param in func.params:
            self.plain[param] = param
        main = mod.get_global_var("main")
        with builder.function("fused_main", list(func.params), attrs=attrs):
            with builder.dataflow():
                for binding in bindings(func):
                    self._rewrite(binding)
                output = builder.emit_output(self._substitute(func.body.body))
            builder.emit_func_output(output)
        made = builder.get()
        fused = made["fused_main"]
        functions = {
            var: body for var, body in made.functions.items() if var.name_hint != "fused_main"
        }
        result = ir.IRModule(functions, attrs=mod.attrs)
        result.update_func(result.get_global_var("main") if main is None else main, fused)
        return result

    def _rewrite(self, binding: Any) -> None:
        var = binding.var
        if var in self.results:
            self._emit_chain(self.results[var])
        elif var not in self.inner:
            value = self._substitute(binding.value)
            self.plain[var] = value if isinstance(value, relax.Var) else self._emit(value, var.name)

    def _emit(self, value: Any, name: str) -> Any:
        value = self.builder.normalize(value)
        var = relax.DataflowVar(name, value.ty)
        self.builder.emit_normalized(relax.VarBinding(var, value))
        return var

    # Values in the form a reader wants.

    def _substitute(self, expr: Any) -> Any:
        """An expression of old variables with their plain new forms."""
        if isinstance(expr, relax.Var):
            return self._plain(expr)
        if isinstance(expr, relax.Call):
            args = [a if isinstance(a, ir.GlobalVar) else self._substitute(a) for a in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._substitute(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._substitute(expr.tuple_value), expr.index)
        return expr

    def _plain(self, var: Any) -> Any:
        """The tensor as the dialect has it."""
        if var not in self.plain:
            if var in self.stored:
                layout = self._layout(var)
                kernel = convert.plain_map(layout, self._batch(var))
                shape = (var.ty.shape[0], layout.height, layout.width, layout.channels)
                result = self._call(kernel, [self.stored[var]], shape, "int8", f"{var.name}.plain")
            else:
                wide = Wide(*plain_layout(var))
                shape = (var.ty.shape[0], wide.height, wide.width, wide.pitch)
                result = self._emit(relax.op.reshape(self.wide[var], shape), f"{var.name}.plain")
                if wide.pitch != wide.channels:
                    result = relax.op.strided_slice(result, [3], [0], [wide.channels])
                    result = self._emit(result, f"{var.name}.cut")
            if len(var.ty.shape) == 2:
                result = self._emit(relax.op.reshape(result, var.ty.shape), f"{var.name}.rows")
            self.plain[var] = result
        return self.plain[var]

    def _stored(self, var: Any) -> Any:
        """The int8 tensor as its layout has it."""
        if var not in self.stored:
            layout = self._layout(var)
            x = self._plain(var)
            if len(var.ty.shape) == 2:
                one = (var.ty.shape[0], 1, 1, layout.channels)
                x = self._emit(relax.op.reshape(x, one), f"{var.name}.map")
            kernel = convert.store_map(layout, self._batch(var))
            shape = (var.ty.shape[0], layout.size)
            self.stored[var] = self._call(kernel, [x], shape, "uint8", f"{var.name}.stored")
        return self.stored[var]

    def _wide(self, var: Any) -> Any:
        if var not in self.wide:
            layout = Wide(*plain_layout(var))
            x = relax.op.reshape(self._plain(var), (var.ty.shape[0], layout.size))
            self.wide[var] = self._emit(x, f"{var.name}.flat")
        return self.wide[var]

    def _layout(self, var: Any) -> Stored:
        if var not in self.layouts:
            chains = [chain for chain in self.chains if chain.layer.args[0].same_as(var)]
            padding = (chain.layer.attrs["padding"] for chain in chains if chain.layer.attrs)
            self.layouts[var] = choose_layout(self.readers, var, padding)
        return self.layouts[var]

    @staticmethod
    def _batch(var: Any) -> Any:
        """The batch size: an int, or a fresh variable so that equal layers are one function."""
        size = var.ty.shape[0]
        return int(size) if isinstance(size, tirx.IntImm) else tirx.Var("n", "int64")

    def _call(self, kernel: Any, args: list[Any], shape: Any, dtype: str, name: str) -> Any:
        variable = self.builder.add_func(kernel, str(kernel.attrs["global_symbol"]))
        return self._emit(relax.call_tir(variable, args, TensorType(shape, dtype)), name)

    # Kernels.

    def _emit_chain(self, chain: Chain) -> None:
        layer, result = chain.layer, chain.result
        source = self._layout(layer.args[0])
        plan = choose_plan(_conv_shape(layer), source)
        epilogue = self._epilogue(chain)
        codes = self._substitute(layer.args[1])
        packed = self._prepare(
            lambda codes: weights.pack_codes(codes, plan), [codes], f"{result.name}.packed"
        )
        constants = self._constants(chain, epilogue, source, plan.shape.reduction // plan.merged)
        args = [self._stored(layer.args[0]), packed, constants]
        if chain.add is not None:
            wide = isinstance(epilogue.residual, Wide)
            args.append(self._wide(chain.other) if wide else self._stored(chain.other))
        kernel = conv(plan, epilogue, self._batch(result))
        dtype = "int32" if isinstance(epilogue.out, Wide) else "uint8"
        shape = (result.ty.shape[0], epilogue.out.size)
        form = self.wide if dtype == "int32" else self.stored
        form[result] = self._call(kernel, args, shape, dtype, result.name)

    def _epilogue(self, chain: Chain) -> Epilogue:
        residual: Stored | Wide | None = None
        if chain.add is not None:
            other = chain.other
            residual = self._layout(other) if is_map(other) else Wide(*plain_layout(other))
        scaled = chain.scale is not None
        if chain.requantize is None:
            out = Wide(*plain_layout(chain.result))
            return Epilogue(out, scaled=scaled, residual=residual)
        return Epilogue(self._layout(chain.result), *chain.bounds, scaled, residual)

    def _constants(self, chain: Chain, epilogue: Epilogue, source: Stored, reduction: int) -> Any:
        layer, name = chain.layer, chain.result.name
        operands: dict[str, Any] = {}
        if chain.scale is not None:
            operands["factor"] = chain.scale.args[1]
        if chain.add is not None:
            operands["lhs_shift"], operands["rhs_shift"] = chain.shifts
        if chain.requantize is not None:
            operands["shift"] = chain.requantize.args[1]
        inputs = [self._substitute(value) for value in (layer.args[2], *operands.values())]
        if source.zero:
            inputs.append(
                self._prepare(
                    lambda codes: weights.sum_of_weights(codes, reduction),
                    [self._substitute(layer.args[1])],
                    f"{name}.weight_sums",
                )
            )

        def made(bias: Any, *values: Any) -> Any:
            named = dict(zip(operands, values, strict=False))
            sums = values[-1] if source.zero else None
            return weights.constants(epilogue, bias, source.zero, sums, named)

        return self._prepare(made, inputs, f"{name}.constants")

    def _prepare(self, function: Any, inputs: list[Any], name: str) -> Any:
        call = self.builder.call_te(function, *inputs, primfunc_name_hint="shiftadd_prepare")
        return self._emit(call, name)


def _conv_shape(call: Any) -> ConvShape:
    attrs = Conv2DAttrs.of(call)
    terms, _, outputs = (int(size) for size in call.args[1].ty.shape)
    return conv_shape(
        plain_layout(call.args[0]),
        outputs,
        terms,
        attrs.kernel_size,  # type: ignore[arg-type]
        attrs.strides,  # type: ignore[arg-type]
        attrs.padding,  # type: ignore[arg-type]
        attrs.dilation,  # type: ignore[arg-type]
        attrs.groups,
    )
