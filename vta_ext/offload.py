"""Splits a module of the dialect between accelerator and host.

Integer operators become regions, each one call of a packed function; quantising, dequantising and
float operators stay in the module, which compiles for the CPU as always. An operator that the
machine cannot run stays there too, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tvm_ffi

from tvm_shiftadd._compat import handle, ir, relax
from vta_ext.compiler import frontend
from vta_ext.compiler.compile import CompiledRegion, compile_network
from vta_ext.compiler.operators import Network, Value
from vta_ext.compiler.refusal import RefusedError
from vta_ext.config import Config
from vta_ext.runtime.device import Device
from vta_ext.runtime.executor import RegionExecutor

_serial = itertools.count()
_PREFIX: Final = "vta_ext.region"


@dataclass(frozen=True, eq=False)
class Region:
    """A compiled region: the packed function that runs it, its operands and results."""

    function: str
    network: Network
    compiled: CompiledRegion

    def bind(self, device: Device) -> None:
        """Have the packed function run on ``device``; a later call takes its place."""
        executor = RegionExecutor(self.compiled, device)

        def run(*tensors: Any) -> None:
            inputs, outputs = self.network.inputs, self.network.outputs
            given = zip(inputs, tensors, strict=False)
            feeds = {value.name: _as_maps(tensor.numpy(), value) for value, tensor in given}
            results = executor.run(feeds)
            arrays = [results[binding.tensor.name] for binding in self.compiled.outputs]
            for value, array, tensor in zip(outputs, arrays, tensors[len(inputs) :], strict=True):
                shaped = array.reshape(len(array), *value.shape)
                tensor.copyfrom(np.ascontiguousarray(shaped))

        tvm_ffi.register_global_func(self.function, run, override=True)


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A module whose regions are calls, those regions, and why operators stay on the host."""

    module: Any
    regions: tuple[Region, ...]
    reasons: Mapping[str, str]

    def bind(self, device: Device) -> None:
        """Run all regions on ``device``."""
        for region in self.regions:
            region.bind(device)


def offload(module: Any, config: Config) -> Offloaded:
    """Compile every region of ``main`` that the machine can run.

    The module returned calls the regions; :meth:`Offloaded.bind` says on which device.
    """
    function = module["main"]
    steps = frontend.read(function)
    reasons: dict[str, str] = {}
    while True:
        plan = _Plan(function, steps, reasons)
        try:
            regions = tuple(
                Region(f"{_PREFIX}.{next(_serial)}", network, compile_network(network, config))
                for network in plan.networks
            )
            break
        except RefusedError as refused:
            reasons[refused.operator] = str(refused)
    changed = ir.IRModule(dict(module.functions.items()))
    changed.update_func(module.get_global_var("main"), plan.rewritten(regions))
    return Offloaded(changed, regions, reasons)


class _Plan:
    """Which bindings run where, in levels: host first, then one region, then the next level."""

    def __init__(
        self, function: Any, steps: Sequence[frontend.Step], reasons: Mapping[str, str]
    ) -> None:
        self.function, self.steps = function, steps
        self._levels: dict[int, tuple[int, bool]] = {}
        self._members: dict[int, tuple[list[frontend.Step], list[frontend.Step]]] = {}
        for step in steps:
            self._place(step, step.operator is not None and step.operator.name not in reasons)
        self._vars = {str(step.binding.var.name): step.binding.var for step in steps}
        self._vars |= {str(param.name): param for param in function.params}
        self.networks = [self._network(level) for level in sorted(self._members) if self._on(level)]

    def _on(self, level: int) -> list[frontend.Step]:
        return self._members[level][1]

    def _place(self, step: frontend.Step, region: bool) -> None:
        level = 0
        for var in _variables(step.binding.value):
            made, in_region = self._levels.get(handle(var), (0, False))
            level = max(level, made + (in_region and not region))
        host_input = step.operator is not None and step.operator.kind == "permute"
        if region and host_input and not self._made_by_region(step):
            # The image's own layout: the host changes it while it quantises.
            region = False
        self._levels[handle(step.binding.var)] = (level, region)
        self._members.setdefault(level, ([], []))[int(region)].append(step)

    def _made_by_region(self, step: frontend.Step) -> bool:
        return any(
            self._levels.get(handle(var), (0, False))[1] for var in _variables(step.binding.value)
        )

    def _network(self, level: int) -> Network:
        members = self._on(level)
        inside = {handle(step.binding.var) for step in members}
        read = {
            handle(var)
            for step in self.steps
            if handle(step.binding.var) not in inside
            for var in _variables(step.binding.value)
        }
        read |= {handle(var) for var in _variables(self.function.body.body)}
        operators = [step.operator for step in members if step.operator is not None]
        outputs = [
            o.output.name
            for o, s in zip(operators, members, strict=True)
            if handle(s.binding.var) in read
        ]
        return frontend.network(operators, outputs)

    def rewritten(self, regions: Sequence[Region]) -> Any:
        """``main`` with calls of the regions."""
        bindings: list[Any] = []
        waiting = iter(regions)
        for level in sorted(self._members):
            bindings += [step.binding for step in self._members[level][0]]
            if self._on(level):
                bindings += self._call(next(waiting))
        old = self.function
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], old.body.body)
        return relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)

    def _call(self, region: Region) -> list[Any]:
        outputs = [self._vars[value.name] for value in region.network.outputs]
        inputs = relax.Tuple([self._vars[value.name] for value in region.network.inputs])
        call = relax.call_dps_packed(region.function, inputs, [var.ty for var in outputs])
        if len(outputs) == 1:
            return [relax.VarBinding(outputs[0], call)]
        whole = relax.DataflowVar(f"{region.function}.results", call.ty_args[0])
        fields = [
            relax.VarBinding(var, relax.TupleGetItem(whole, number))
            for number, var in enumerate(outputs)
        ]
        return [relax.VarBinding(whole, call), *fields]


def _variables(value: Any) -> list[Any]:
    """The variables that an expression reads."""
    if isinstance(value, relax.Var):
        return [value]
    parts = getattr(value, "fields", None) if isinstance(value, relax.Tuple) else None
    if isinstance(value, relax.Call):
        parts = value.args
    elif isinstance(value, relax.TupleGetItem):
        parts = [value.tuple_value]
    return [var for part in parts or () for var in _variables(part)]


def _as_maps(array: Any, value: Value) -> Any:
    return array if len(value.shape) == 3 else array.reshape(len(array), 1, 1, -1)
