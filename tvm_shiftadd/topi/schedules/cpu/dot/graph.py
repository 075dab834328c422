"""Rewriting a module's layers to calls of fused kernels, each with all that belongs to it."""

from __future__ import annotations

from typing import Any

import tvm

from tvm_shiftadd._compat import TensorType, ir, relax, tirx
from tvm_shiftadd.dialect.attrs import MaxPool2DAttrs, QuantizeAttrs

from . import convert, weights
from .chains import Chain, Readers, bindings, is_map, map_sizes, name_of, reach
from .entry import can_enter, quantize_store
from .epilogue import Epilogue
from .instructions import InstructionSet
from .layers import LayerKernel, is_depthwise, layer_kernel, layer_shape, workload
from .pool import PoolPlan, max_pool
from .stored import Stored, View, Wide, pitch_of
from .workload import Choices

_LAST = [0, 2, 3, 1]
_MAP_LAYERS = ("shiftadd.conv2d", "shiftadd.adder_conv2d")
_MATRIX_LAYERS = ("shiftadd.dense", "shiftadd.adder_dense")


@tvm.transform.module_pass(opt_level=0, name="FuseLayers")
class FuseLayers:
    """Replace layers of ``main`` and what follows them by kernels on stored maps.

    ``isa`` is what the kernels are made of; ``choices`` gives their parameters, and takes down
    which they were.
    """

    def __init__(self, isa: InstructionSet, choices: Choices | None = None) -> None:
        self.isa = isa
        self.choices = Choices() if choices is None else choices

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """Rewrite ``main``; every other function stays."""
        return _Rewriter(mod, self.isa, self.choices).run() if mod.get_global_var("main") else mod


class _Rewriter:
    """Rebuilds ``main`` binding by binding; values take the form that their readers want."""

    def __init__(self, mod: Any, isa: InstructionSet, choices: Choices) -> None:
        self.mod, self.function, self.isa, self.choices = mod, mod["main"], isa, choices
        self.builder = relax.BlockBuilder(mod)
        self.readers = Readers(self.function)
        #: Chains by the variable that their kernel computes.
        self.chains: dict[Any, Chain] = {}
        #: Variables that are nowhere in memory any more.
        self.inner: set[Any] = set()
        self.layouts: dict[Any, Stored] = {}
        #: The forms in which an old variable exists in the new function.
        self.plain: dict[Any, Any] = {param: param for param in self.function.params}
        self.stored: dict[Any, Any] = {}
        self.wide: dict[Any, Any] = {}
        for binding in bindings(self.function):
            if _is_layer(binding):
                self._add_chain(binding)
        for chain in self.chains.values():
            self._drop_views(chain)

    def _add_chain(self, binding: Any) -> None:
        chain = self.readers.chain(binding, self.chains)
        self.chains[chain.result] = chain
        var = binding.var
        while not var.same_as(chain.result):
            self.inner.add(var)
            var = self.readers.only(var).var

    def _view(self, chain: Chain) -> tuple[Any, View] | None:
        """The stored map that a chain adds a view of, if it adds one."""
        found = self.readers.strided(chain.other) if chain.other is not None else None
        if found is None or found[0] not in self.chains:
            return None
        source, strides, before = found
        layout = self._layout(source)
        if layout.origin < before or self.chains[source].requantize is None:
            return None
        return source, View(**vars(layout), strides=strides, before=before)

    def _drop_views(self, chain: Chain) -> None:
        """What lies between a stored map and its view need not be computed."""
        var, view = chain.other, self._view(chain)
        while view is not None and not var.same_as(view[0]) and self.readers.only(var):
            self.inner.add(var)
            var = self.readers.definitions[var].args[0]

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
        var, value = binding.var, binding.value
        if var in self.chains:
            self._emit_chain(self.chains[var])
        elif var in self.inner or self._emit_entry(var, value) or self._emit_pool(var, value):
            return
        else:
            new = self._substitute(value)
            self.plain[var] = new if isinstance(new, relax.Var) else self._emit(new, var.name)

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
        if var in self.plain:
            return self.plain[var]
        batch = var.ty.shape[0]
        if var in self.stored:
            layout, dtype = self._layout(var), str(var.ty.dtype)
            kernel = convert.plain_map(layout, dtype, self._batch(var))
            shape = (batch, layout.height, layout.width, layout.channels)
            result = self._call(kernel, [self.stored[var]], shape, dtype, f"{var.name}.plain")
        else:
            wide = Wide(*map_sizes(var))
            result = relax.op.reshape(self.wide[var], (batch, wide.height, wide.width, wide.pitch))
            result = self._emit(result, f"{var.name}.plain")
            if wide.pitch != wide.channels:
                result = relax.op.strided_slice(result, [3], [0], [wide.channels])
                result = self._emit(result, f"{var.name}.cut")
        if len(var.ty.shape) == 2:
            result = self._emit(relax.op.reshape(result, var.ty.shape), f"{var.name}.rows")
        self.plain[var] = result
        return result

    def _stored(self, var: Any) -> Any:
        """The tensor of bytes as its layout has it."""
        if var not in self.stored:
            layout, dtype = self._layout(var), str(var.ty.dtype)
            x = self._plain(var)
            if len(var.ty.shape) == 2:
                one = (var.ty.shape[0], 1, 1, layout.channels)
                x = self._emit(relax.op.reshape(x, one), f"{var.name}.map")
            kernel = convert.store_map(layout, dtype, self._batch(var))
            shape = (var.ty.shape[0], layout.size)
            self.stored[var] = self._call(kernel, [x], shape, "uint8", f"{var.name}.stored")
        return self.stored[var]

    def _wide(self, var: Any) -> Any:
        """The int32 tensor as a kernel reads it."""
        if var not in self.wide:
            x = relax.op.reshape(self._plain(var), (var.ty.shape[0], Wide(*map_sizes(var)).size))
            self.wide[var] = self._emit(x, f"{var.name}.flat")
        return self.wide[var]

    def _layout(self, var: Any) -> Stored:
        """How a map is stored: with a border as wide as any of its readers reaches."""
        if var not in self.layouts:
            height, width, channels = map_sizes(var)
            readers = [binding for binding in self.readers.of[var] if _is_window(binding)]
            sides = [reach(binding.value, binding.var.ty) for binding in readers]
            top, left, bottom, right = (
                (max([0, *side]) for side in zip(*sides, strict=True)) if sides else (0,) * 4
            )
            chains = [c for c in self.chains.values() if c.layer.args[0].same_as(var)]
            added = any(var.same_as(c.other) for c in self.chains.values() if c.other is not None)
            vectors = added or var in self.chains or any(map(is_depthwise, chains))
            pitch = pitch_of(channels, not vectors and not self._pooled(var))
            zero = 0 if self.readers.never_negative(var) else 128
            border = (top, left, bottom, right)
            self.layouts[var] = Stored(height, width, channels, pitch, border, zero)
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
        epilogue = self._epilogue(chain)
        work = workload(chain, source, epilogue)
        kernel = layer_kernel(work, self.choices.plan(result.name, work, source, self.isa))
        packed = self._prepare(
            kernel.pack, [self._substitute(layer.args[1])], f"{result.name}.packed"
        )
        constants = self._constants(chain, epilogue, kernel)
        args = [self._stored(layer.args[0]), packed, constants]
        if chain.add is not None:
            view = self._view(chain)
            if isinstance(epilogue.residual, Wide):
                args.append(self._wide(chain.other))
            else:
                args.append(self._stored(view[0] if view else chain.other))
        function = kernel.build(epilogue, self._batch(result))
        dtype = "int32" if isinstance(epilogue.out, Wide) else "uint8"
        shape = (result.ty.shape[0], epilogue.out.size)
        form = self.wide if dtype == "int32" else self.stored
        form[result] = self._call(function, args, shape, dtype, result.name)

    def _epilogue(self, chain: Chain) -> Epilogue:
        residual: Stored | Wide | None = None
        if chain.add is not None:
            other, view = chain.other, self._view(chain)
            residual = self._layout(other) if is_map(other) else Wide(*map_sizes(other))
            residual = view[1] if view else residual
        scaled = chain.scale is not None
        if chain.requantize is None:
            return Epilogue(
                self.isa, Wide(*map_sizes(chain.result)), scaled=scaled, residual=residual
            )
        return Epilogue(self.isa, self._layout(chain.result), *chain.bounds, scaled, residual)

    def _constants(self, chain: Chain, epilogue: Epilogue, kernel: LayerKernel) -> Any:
        layer, name = chain.layer, chain.result.name
        operands: dict[str, Any] = {}
        if chain.scale is not None:
            operands["factor"] = chain.scale.args[1]
        if chain.add is not None:
            operands["lhs_shift"], operands["rhs_shift"] = chain.shifts
        if chain.requantize is not None:
            operands["shift"] = chain.requantize.args[1]
        weight, bias = (self._substitute(value) for value in layer.args[1:3])
        if kernel.bias is not None:
            bias = self._prepare(kernel.bias, [weight, bias], f"{name}.bias")
        inputs = [bias, *(self._substitute(value) for value in operands.values())]
        if kernel.zero:
            reduction = layer_shape(layer).reduction
            sums = self._prepare(
                lambda codes: weights.sum_of_weights(codes, reduction), [weight], f"{name}.sums"
            )
            inputs.append(sums)

        def made(bias: Any, *values: Any) -> Any:
            named = dict(zip(operands, values, strict=False))
            sums = values[-1] if kernel.zero else None
            return kernel.order(weights.constants(epilogue, bias, kernel.zero, sums, named))

        return self._prepare(made, inputs, f"{name}.constants")

    def _prepare(self, function: Any, inputs: list[Any], name: str) -> Any:
        call = self.builder.call_te(function, *inputs, primfunc_name_hint="shiftadd_prepare")
        return self._emit(call, name)

    def _emit_entry(self, var: Any, value: Any) -> bool:
        """Quantise the network's input into a stored map, if this binding begins that."""
        if name_of(value) != "shiftadd.quantize" or len(value.args[0].ty.shape) != 4:
            return False
        reader = self.readers.only(var)
        if reader is None or name_of(reader.value) != "relax.permute_dims":
            return False
        moved, axes = reader.var, reader.value.attrs["axes"]
        layers = [c for c in self.chains.values() if c.layer.args[0].same_as(moved)]
        if not layers or [int(axis) for axis in axes or ()] != _LAST:
            return False
        layout, exponent = self._layout(moved), QuantizeAttrs.of(value).exponent
        if not can_enter(layout):
            return False
        kernel = quantize_store(layout, exponent, str(var.ty.dtype), self._batch(moved))
        args, shape = [self._substitute(value.args[0])], (moved.ty.shape[0], layout.size)
        self.stored[moved] = self._call(kernel, args, shape, "uint8", moved.name)
        self.inner.add(moved)
        return True

    def _pooled(self, var: Any) -> bool:
        """Whether a variable is a maximum that the kernel on stored maps takes."""
        value: Any = self.readers.definitions.get(var)
        if name_of(value) != "shiftadd.max_pool2d":
            return False
        source = value.args[0]
        return (source in self.chains or self._pooled(source)) and self.readers.never_negative(
            source
        )

    def _emit_pool(self, var: Any, value: Any) -> bool:
        if not self._pooled(var):
            return False
        plan = PoolPlan(MaxPool2DAttrs.of(value), self._layout(value.args[0]), self._layout(var))
        kernel = max_pool(plan, self._batch(var))
        shape = (var.ty.shape[0], plan.out.size)
        args = [self._stored(value.args[0])]
        self.stored[var] = self._call(kernel, args, shape, "uint8", var.name)
        return True


def _is_layer(binding: Any) -> bool:
    name = name_of(binding.value)
    matrix = name in _MATRIX_LAYERS and len(binding.value.args[0].ty.shape) == 2
    return matrix or name in _MAP_LAYERS


def _is_window(binding: Any) -> bool:
    return name_of(binding.value) in (*_MAP_LAYERS, "shiftadd.max_pool2d")
