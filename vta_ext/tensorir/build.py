"""A scheduled operator as a program: lowered by TVM's passes, then by the visitor; and run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import handle, ir, s_tir, tirx
from tvm_shiftadd.errors import CompileError, DataError
from vta_ext import checker
from vta_ext.isa.machine import pack_codes
from vta_ext.jit.cache import CacheCounters
from vta_ext.jit.recorder import Recorder
from vta_ext.program import Program, Section
from vta_ext.runtime.device import Device, SimulatorDevice
from vta_ext.sim.report import TimingReport
from vta_ext.sim.timing import TimingParameters, simulate
from vta_ext.tensorir.environment import Environment
from vta_ext.tensorir.statements import Uses, accesses
from vta_ext.tensorir.visitor import Visitor

Array = NDArray[Any]


@dataclass(frozen=True)
class Argument:
    """One tensor of an operator, in the order of its parameters; ``codes``: of term codes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    codes: bool


@dataclass(frozen=True, eq=False)
class Operator:
    """A program with the tensors that go in and come out; a call runs it."""

    program: Program
    arguments: tuple[Argument, ...]
    counters: CacheCounters

    def __call__(self, *inputs: Array, device: Device | None = None) -> list[Array]:
        """The outputs, in order, for the inputs, in order; on the functional simulator by default.

        Raises DataError for inputs of another number, shape or type.
        """
        wanted = [argument for argument in self.arguments if argument.role == "input"]
        if len(inputs) != len(wanted):
            names = ", ".join(argument.name for argument in wanted)
            raise DataError(f"expected {len(wanted)} inputs ({names}), got {len(inputs)}")
        loaded = (device or SimulatorDevice(self.program.config)).load(self.program)
        for argument, array in zip(wanted, inputs, strict=True):
            loaded.write(self._section(argument).offset, _bytes(argument, array))
        loaded.launch()
        return [
            self._result(argument, loaded.read(self._section(argument).offset, _size(argument)))
            for argument in self.arguments
            if argument.role == "output"
        ]

    def _section(self, argument: Argument) -> Section:
        return self.program.section(argument.name)

    def _result(self, argument: Argument, data: bytes) -> Array:
        return np.frombuffer(data, argument.dtype).reshape(argument.shape).copy()

    def simulate(self, parameters: TimingParameters | None = None) -> TimingReport:
        """Cycles by the timing model."""
        return simulate(self.program, parameters)


def build(operator: Any, env: Environment) -> Operator:
    """The program of a schedule, a module or a function of TensorIR.

    Raises CompileError that quotes the statement that cannot run, and ProgramError where the
    checker finds the program unsafe.
    """
    function = lowered(operator)
    recorder = Recorder(env.config)
    arguments = tuple(_arguments(function))
    sections = {
        handle(buffer): _place(recorder, argument)
        for buffer, argument in zip(function.params, arguments, strict=True)
    }
    recorder.label(_name(operator))
    Visitor(env, recorder, sections, function.body).record()
    program = recorder.build()
    checker.require(program)
    return Operator(program, arguments, recorder.counters)


def lowered(operator: Any) -> Any:
    """The function of a schedule with loops, allocations and assignments only."""
    module = getattr(operator, "mod", operator)
    if isinstance(module, tirx.PrimFunc):
        module = ir.IRModule({"main": module})
    passes = s_tir.transform
    steps = ir.transform.Sequential(
        [
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            passes.CompactBufferAllocation(),
            passes.LowerMatchBuffer(),
            passes.LowerOpaqueBlock(),
            tirx.transform.StmtSimplify(),
        ]
    )
    functions = list(steps(module).functions.values())
    if len(functions) != 1:
        raise CompileError(f"expected a module of one function, got one of {len(functions)}")
    return functions[0]


def _name(operator: Any) -> str:
    module = getattr(operator, "mod", operator)
    names = [str(var.name_hint) for var in getattr(module, "functions", {})]
    return names[0] if names else "main"


def _arguments(function: Any) -> list[Argument]:
    written, codes = _written(function.body), _codes(function.body)
    found = []
    for buffer in function.params:
        shape = tuple(int(n) for n in buffer.shape)
        role = "output" if handle(buffer) in written else "input"
        if role == "output" and Uses.of(function.body).reads(buffer):
            raise CompileError(f"argument {buffer.name} is read and written; use two")
        found.append(
            Argument(str(buffer.name), shape, str(buffer.dtype), role, handle(buffer) in codes)
        )
    return found


def _stores(stmt: Any) -> list[Any]:
    if type(stmt).__name__ == "BufferStore":
        return [stmt]
    parts = list(stmt.seq) if type(stmt).__name__ == "SeqStmt" else []
    parts += [getattr(stmt, name, None) for name in ("body", "then_case", "else_case")]
    return [store for part in parts if part is not None for store in _stores(part)]


def _written(body: Any) -> set[int]:
    return {handle(store.buffer) for store in _stores(body)}


def _codes(body: Any) -> set[int]:
    """Arguments that hold term codes: bytes that are loaded as weights.

    Raises CompileError for one that is also loaded as something else.
    """
    codes: set[int] = set()
    others: set[int] = set()
    for store in _stores(body):
        wgt = str(store.buffer.scope()) == Environment.wgt_scope and store.buffer.dtype == "uint8"
        for access in accesses(store.value):
            (codes if wgt else others).add(handle(access.source))
            if {handle(access.source)} <= codes & others:
                raise CompileError(
                    f"{access.source.name} holds term codes, two a byte in DRAM; only scope "
                    f"{Environment.wgt_scope} takes them"
                )
    return codes


def _place(recorder: Recorder, argument: Argument) -> Section:
    make = recorder.output if argument.role == "output" else recorder.input
    return make(argument.name, _size(argument))


def _size(argument: Argument) -> int:
    size = int(np.prod(argument.shape)) * np.dtype(argument.dtype).itemsize
    return size // 2 if argument.codes else size


def _bytes(argument: Argument, array: Array) -> bytes:
    if array.dtype != argument.dtype or array.shape != argument.shape:
        raise DataError(
            f"expected {argument.name} of {argument.dtype}{list(argument.shape)}, got "
            f"{array.dtype}{list(array.shape)}"
        )
    array = np.ascontiguousarray(array)
    return pack_codes(array).tobytes() if argument.codes else array.tobytes()
