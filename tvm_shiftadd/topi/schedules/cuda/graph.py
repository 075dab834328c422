"""Rewriting a module's layers to calls of CUDA kernels, each with all that belongs to it."""

from __future__ import annotations

from typing import Any

import tvm

from tvm_shiftadd.topi.schedules.fusion.chains import Chain, Readers, bindings
from tvm_shiftadd.topi.schedules.fusion.function import batch_of
from tvm_shiftadd.topi.schedules.fusion.layers import is_layer
from tvm_shiftadd.topi.schedules.fusion.rewriting import Rewriting

from .epilogue import Epilogue, Tensor
from .layers import layer_kernel, problem_of
from .problem import Problem
from .workload import Choices, Workload


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
        self.arch, self.choices = arch, choices
        self.main = Rewriting(mod)
        self.readers = Readers(mod["main"])
        #: Chains by the variable that their kernel computes, with what it has to do.
        self.chains: dict[Any, tuple[Chain, Problem]] = {}
        #: Variables that are computed inside a kernel.
        self.inner: set[Any] = set()
        for binding in bindings(mod["main"]):
            if is_layer(binding.value):
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
        return self.main.run(self._rewrite)

    def _rewrite(self, binding: Any) -> None:
        if binding.var in self.chains:
            self._emit_chain(*self.chains[binding.var])
        elif binding.var not in self.inner:
            self.main.keep(binding)

    def _emit_chain(self, chain: Chain, problem: Problem) -> None:
        main, layer, result = self.main, chain.layer, chain.result
        batch, epilogue = batch_of(result), _epilogue(chain)
        work = Workload.of(problem, epilogue, batch)
        kernel = layer_kernel(problem, self.choices.parameters(str(result.name), work, self.arch))
        weight, bias = (main.substitute(value) for value in layer.args[1:3])
        packed = main.prepare(kernel.pack, [weight], f"{result.name}.packed")
        constants = main.constants(chain, epilogue, bias)
        args = [main.substitute(layer.args[0]), packed, constants]
        if chain.add is not None:
            args.append(main.substitute(chain.other))
        shapes = _shape(layer.args[0], batch), _shape(result, batch)
        function, dtype = kernel.build(epilogue, batch, shapes), epilogue.out.dtype
        main.plain[result] = main.call(function, args, result.ty.shape, dtype, result.name)


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
