"""Rewriting a module's layers to calls of fused kernels, each with all that belongs to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect.attrs import AvgPool2DAttrs
from tvm_shiftadd.topi.schedules.fusion.chains import Chain, is_map, map_sizes, name_of
from tvm_shiftadd.topi.schedules.fusion.function import batch_of
from tvm_shiftadd.topi.schedules.fusion.layers import layer_shape

from . import weights
from .between import emit_between
from .epilogue import Epilogue
from .forms import Forms
from .instructions import InstructionSet
from .layers import layer_kernel, workload
from .network import ALONE, AVERAGE, TRANSPOSED, Network
from .pool import average, elementwise, reciprocals
from .stored import Stored, Wide
from .transposed import phase_kernels, transposed
from .workload import Choices


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
        return _Rewriter(mod, self.isa, self.choices).run()


class _Rewriter:
    """Rebuilds ``main`` binding by binding."""

    def __init__(self, mod: Any, isa: InstructionSet, choices: Choices) -> None:
        self.isa, self.choices = isa, choices
        self.network = Network(mod["main"])
        self.forms = Forms(mod, self.network)

    def run(self) -> Any:
        """The module with its main function rewritten."""
        return self.forms.run(self._rewrite)

    def _rewrite(self, binding: Any) -> None:
        var, value, network, forms = binding.var, binding.value, self.network, self.forms
        if var in network.chains:
            self._emit_chain(network.chains[var])
        elif var in network.inner or not network.root(var).same_as(var):
            return
        elif not emit_between(network, forms, var, value):
            forms.keep(binding)

    def _emit_chain(self, chain: Chain) -> None:
        result, epilogue = chain.result, self._epilogue(chain)
        make = {AVERAGE: self._average, TRANSPOSED: self._transposed}.get(name_of(chain.layer))
        if name_of(chain.layer) in ALONE:
            make = self._alone
        function, operands = (make or self._layer)(chain, epilogue)
        flat = self.network.flat(chain.layer)
        source = flat[0] if flat else chain.source
        args = [self.forms.stored_of(source), *operands]
        if chain.add is not None:
            args.append(self._other(chain, epilogue))
        out = epilogue.out
        shape = (result.ty.shape[0], out.size)
        form = self.forms.wide if isinstance(out, Wide) else self.forms.stored
        form[result] = self.forms.call(function, args, shape, out.dtype, result.name)

    def _layer(self, chain: Chain, epilogue: Epilogue) -> tuple[Any, list[Any]]:
        """The kernel of a layer, its weights and its constants."""
        layer, name, forms = chain.layer, chain.result.name, self.forms
        flat = self.network.flat(layer)
        source = flat[1].layout if flat else self.network.layout(layer.args[0])
        work = workload(chain, source, epilogue)
        plan = self.choices.plan(name, work, source, self.isa)
        kernel = layer_kernel(work, plan, flat[1].row if flat else None)
        weight, bias = (forms.substitute(value) for value in layer.args[1:3])
        packed = forms.prepare(kernel.pack, [weight], f"{name}.packed")
        if kernel.bias is not None:
            bias = forms.prepare(kernel.bias, [weight, bias], f"{name}.bias")
        sums = None
        if kernel.zero:
            reduction = layer_shape(layer).reduction
            sums = forms.prepare(
                lambda codes: weights.sum_of_weights(codes, reduction), [weight], f"{name}.sums"
            )
        constants = forms.constants(
            chain, epilogue, bias, zero=kernel.zero, sums=sums, order=kernel.order
        )
        return kernel.build(epilogue, batch_of(chain.result)), [packed, constants]

    def _transposed(self, chain: Chain, epilogue: Epilogue) -> tuple[Any, list[Any]]:
        """The kernel of a transposed convolution, weights and constants of each phase."""
        layer, name, forms = chain.layer, chain.result.name, self.forms
        weight, bias = (forms.substitute(value) for value in layer.args[1:3])
        parts = phase_kernels(layer, self.network.layout(layer.args[0]), self.isa)
        operands = []
        for part in parts:
            sums, empty = None, not part.phase.rows
            if empty:
                zeros = np.zeros(part.plan.packed_shape, part.plan.packed_type)
                operands.append(relax.const(zeros))
            else:
                operands.append(forms.prepare(part.pack, [weight], f"{name}.packed"))
            zero = 0 if empty else part.plan.zero
            if zero:
                sums = forms.prepare(part.sums, [weight], f"{name}.sums")
            operands.append(forms.constants(chain, epilogue, bias, zero=zero, sums=sums))
        return transposed(parts, epilogue, batch_of(chain.result)), operands

    def _average(self, chain: Chain, epilogue: Epilogue) -> tuple[Any, list[Any]]:
        """The kernel of an average, its reciprocals and its constants."""
        attrs = AvgPool2DAttrs.of(chain.layer)
        source = self.network.layout(chain.source)
        function = average(attrs, source, epilogue, batch_of(chain.result))
        constants = self._constants_of_bytes(chain, epilogue)
        return function, [relax.const(reciprocals(attrs, source)), constants]

    def _alone(self, chain: Chain, epilogue: Epilogue) -> tuple[Any, list[Any]]:
        """The kernel of what follows no layer, and its constants."""
        source, batch = self.network.layout(chain.source), batch_of(chain.result)
        name = name_of(chain.layer).replace(".", "_")
        return elementwise(name, source, epilogue, batch), [
            self._constants_of_bytes(chain, epilogue)
        ]

    def _constants_of_bytes(self, chain: Chain, epilogue: Epilogue) -> Any:
        """The constants where sums begin with nothing."""
        bias = relax.const(np.zeros(epilogue.out.channels, np.int32))
        return self.forms.constants(chain, epilogue, bias)

    def _epilogue(self, chain: Chain) -> Epilogue:
        residual: Stored | Wide | None = None
        if chain.add is not None:
            other, view = chain.other, self.network.view(chain)
            residual = self.network.layout(other) if is_map(other) else Wide(*map_sizes(other))
            residual = view[1] if view else residual
        scaled = chain.scale is not None
        if chain.requantize is None:
            out = Wide(*map_sizes(chain.result))
            return Epilogue(out, scaled=scaled, residual=residual, isa=self.isa)
        stored = self.network.layout(chain.result)
        return Epilogue(stored, *chain.bounds, scaled, residual, isa=self.isa)

    def _other(self, chain: Chain, epilogue: Epilogue) -> Any:
        """The other operand of a chain's addition."""
        if isinstance(epilogue.residual, Wide):
            return self.forms.wide_of(chain.other)
        view = self.network.view(chain)
        return self.forms.stored_of(view[0] if view else chain.other)
