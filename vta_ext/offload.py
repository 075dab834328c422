"""Splits a module of the dialect between accelerator and host.

Integer operators become regions: functions of their own, marked for external code generation,
which makes a program of each and a call of a packed function in its place. Quantising,
dequantising and float operators stay in ``main``, which compiles for the CPU as always. An operator
that the machine cannot run stays there too, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tvm_ffi

from tvm_shiftadd._compat import handle, ir, make_attrs, relax
from vta_ext import external
from vta_ext.compiler import frontend
from vta_ext.compiler.compile import Choose, CompiledRegion, estimated
from vta_ext.compiler.operators import Network
from vta_ext.compiler.refusal import RefusedError
from vta_ext.config import Config
from vta_ext.external import Told
from vta_ext.runtime.device import Device
from vta_ext.runtime.executor import RegionFunction
from vta_ext.runtime.stored import StoredRegion

_PREFIX: Final = "vta_region"


@dataclass(frozen=True, eq=False)
class Region:
    """A compiled region: the packed function that runs it, its operands and results."""

    function: str
    network: Network
    compiled: CompiledRegion

    def stored(self) -> StoredRegion:
        """What an artifact keeps of it."""
        return StoredRegion.of(self.function, self.network, self.compiled)


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A module whose regions are calls, those regions, and why operators stay on the host.

    ``marked`` is the module before code generation, regions as functions of the dialect.
    """

    module: Any
    regions: tuple[Region, ...]
    reasons: Mapping[str, str]
    marked: Any

    def bind(self, device: Device) -> None:
        """Run all regions of virtual machines that are made from now on on ``device``."""
        for region in self.regions:
            run = RegionFunction(region.stored(), device)
            tvm_ffi.register_global_func(region.function, run, override=True)


def _silent(_done: int, _total: int) -> None:
    pass


def offload(
    module: Any, config: Config, tell: Told = _silent, tiling: Choose = estimated
) -> Offloaded:
    """Compile every region of ``main`` that the machine can run.

    The module returned calls the regions; :meth:`Offloaded.bind` says on which device. ``tell`` is
    told how many regions are done, of how many; ``tiling`` says which tile sizes layers have.
    """
    function = module["main"]
    steps = frontend.read(function)
    reasons: dict[str, str] = {}
    while True:
        marked = _Plan(module, function, steps, reasons).marked()
        try:
            changed, compilation = external.generate(marked, config, tell, tiling)
            break
        except RefusedError as refused:
            reasons[refused.operator] = str(refused)
    regions = tuple(
        Region(symbol, *compiled) for symbol, compiled in sorted(compilation.compiled.items())
    )
    return Offloaded(changed, regions, reasons, marked)


class _Plan:
    """Which bindings run where, in levels: host first, then one region, then the next level."""

    def __init__(
        self,
        module: Any,
        function: Any,
        steps: Sequence[frontend.Step],
        reasons: Mapping[str, str],
    ) -> None:
        self.module, self.function, self.steps = module, function, steps
        self._levels: dict[int, tuple[int, bool]] = {}
        self._members: dict[int, tuple[list[frontend.Step], list[frontend.Step]]] = {}
        for step in steps:
            self._place(step, step.operator is not None and step.operator.name not in reasons)

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

    def marked(self) -> Any:
        """The module with each region a function of its own, called from ``main``."""
        builder = relax.BlockBuilder(ir.IRModule(dict(self.module.functions.items())))
        bindings: list[Any] = []
        count = 0
        for level in sorted(self._members):
            bindings += [step.binding for step in self._members[level][0]]
            if self._on(level):
                bindings += self._call(level, count, builder)
                count += 1
        old = self.function
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], old.body.body)
        main = relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)
        changed = builder.get()
        changed.update_func(changed.get_global_var("main"), main)
        return relax.transform.Normalize()(changed)

    def _call(self, level: int, number: int, builder: Any) -> list[Any]:
        """Add a region's function to the module; the bindings that call it."""
        name = f"{_PREFIX}_{number:03}"
        inputs, outputs = self._borders(level)
        function = _function(
            [step.binding for step in self._on(level)],
            inputs,
            outputs,
            {"Codegen": external.NAME, "global_symbol": name},
        )
        var = builder.add_func(function, name)
        call = builder.normalize(relax.Call(var, inputs))
        if len(outputs) == 1:
            return [relax.VarBinding(outputs[0], call)]
        whole = relax.DataflowVar(f"{name}.results", call.ty)
        fields = [
            relax.VarBinding(var, relax.TupleGetItem(whole, place))
            for place, var in enumerate(outputs)
        ]
        return [relax.VarBinding(whole, call), *fields]

    def _borders(self, level: int) -> tuple[list[Any], list[Any]]:
        """The variables that a region reads from elsewhere, and those that others read."""
        members = self._on(level)
        inside = {handle(step.binding.var) for step in members}
        inputs = {
            handle(var): var
            for step in members
            for var in _variables(step.binding.value)
            if handle(var) not in inside
        }
        read = {
            handle(var)
            for step in self.steps
            if handle(step.binding.var) not in inside
            for var in _variables(step.binding.value)
        }
        read |= {handle(var) for var in _variables(self.function.body.body)}
        made = [step.binding.var for step in members]
        return list(inputs.values()), [var for var in made if handle(var) in read]


def _function(
    bindings: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    attrs: Mapping[str, str],
) -> Any:
    """A function of ``inputs`` that returns ``outputs``; its variables are its own.

    Parameters and results have the names of what they stand for.
    """
    params = [relax.Var(str(var.name), var.ty) for var in inputs]
    results = [relax.Var(str(var.name), var.ty) for var in outputs]
    taken = list(map(relax.VarBinding, inputs, params))
    given = list(map(relax.VarBinding, results, outputs))
    result = results[0] if len(results) == 1 else relax.Tuple(results)
    body = relax.SeqExpr([relax.DataflowBlock([*taken, *bindings, *given])], result)
    function = relax.Function(params, body, result.ty, attrs=make_attrs(attrs))
    return relax.utils.copy_with_new_vars(function)


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
