"""The micro-benchmarks that a machine's peaks are measured with, as TensorIR functions.

Each takes int32 ``[n]`` data and writes int32 ``[threads, ...]`` results, so that nothing of it
can be left out, and runs ``threads`` equal tasks in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import ONE_TERM, QUAD, InstructionSet

#: Independent sums: enough to hide the latency of one, and all fit the registers.
SUMS = 12


@dataclass(frozen=True)
class Bench:
    """A function of data int32 ``[words]`` and results int32 ``results``.

    ``work`` is what one call does, in the units of the peak.
    """

    function: tirx.PrimFunc
    words: int
    results: tuple[int, int]
    work: float


def dot_products(threads: int, turns: int, isa: InstructionSet) -> Bench:
    """Products of bytes with weights of one term; its work is multiply-accumulates."""

    def step(total: Any, x: Any) -> Any:
        # Inputs that change from turn to turn: what is the same in each would be done once.
        return isa.dot(total, total, x, ONE_TERM)

    bench = _in_registers(threads, turns, isa.lanes, "int32", step)
    return replace(bench, work=bench.work * QUAD)


def shift_adds(threads: int, turns: int, size: int) -> Bench:
    """A shift, the same for all elements but not known in advance, and an addition, of 16 bits."""
    lanes = size // 2

    def step(total: Any, x: Any) -> Any:
        amount = T.Shuffle([x], [tirx.IntImm("int32", 0)])
        return T.shift_left(total, T.broadcast(amount, lanes)) + x

    return _in_registers(threads, turns, lanes, "int16", step)


def reading(threads: int, size: int, repeats: int, vector: int) -> Bench:
    """Each task reads ``size`` bytes of its own ``repeats`` times over; its work is bytes.

    ``vector`` is the bytes of a vector register.
    """
    lanes = vector // 4
    group = lanes * SUMS
    groups = size // (4 * group)

    def body(data: Any, out: Any, task: Any) -> None:
        sums = _Registers("int32", lanes)
        with build.serial(repeats), build.serial(groups) as i:
            first = (task * groups + i) * group
            for s in range(SUMS):
                sums[s] = sums[s] + data.vload([first + s * lanes], dtype=sums.vector)
        sums.write(out, task)

    words = threads * groups * group
    return _bench(threads, words, group, body, 4.0 * words * repeats)


def nothing(threads: int) -> Bench:
    """Starts its tasks and does next to nothing: what a call costs by itself."""

    def body(data: Any, out: Any, task: Any) -> None:
        T.buffer_store(out, data.vload([0], dtype="int32x4"), [task, T.ramp(0, 1, 4)])

    return _bench(threads, 4, 4, body, 1.0)


class _Registers:
    """``value`` in ``SUMS`` vector registers, of ``lanes`` elements each."""

    def __init__(self, dtype: str, lanes: int, value: int = 0) -> None:
        self.vector, self._lanes = f"{dtype}x{lanes}", lanes
        self._buffer = T.alloc_buffer((SUMS * lanes,), dtype, scope="local")
        start = T.broadcast(tirx.IntImm(dtype, value), lanes)
        for s in range(SUMS):
            self[s] = start

    def __getitem__(self, s: int) -> Any:
        return self._buffer.vload([s * self._lanes], dtype=self.vector)

    def __setitem__(self, s: int, value: Any) -> None:
        T.buffer_store(self._buffer, value, [T.ramp(s * self._lanes, 1, self._lanes)])

    def write(self, out: Any, task: Any) -> None:
        """Store the registers as a task's results."""
        words = int(out.shape[1]) // SUMS
        for s in range(SUMS):
            value = T.reinterpret(self[s], dtype=f"int32x{words}")
            T.buffer_store(out, value, [task, T.ramp(s * words, 1, words)])


def _in_registers(
    threads: int, turns: int, lanes: int, dtype: str, step: Callable[[Any, Any], Any]
) -> Bench:
    """``step(sum, operand)`` over and over on every register; its work is the steps' elements."""
    words = lanes * (2 if dtype == "int16" else 4) // 4

    def body(data: Any, out: Any, task: Any) -> None:
        operand = T.reinterpret(data.vload([0], dtype=f"int32x{words}"), dtype=f"{dtype}x{lanes}")
        x = T.bind(operand)
        # Not from zero, of which products would remain zero and a wrong step go unseen.
        sums = _Registers(dtype, lanes, 1)
        with build.serial(turns):
            for s in range(SUMS):
                sums[s] = step(sums[s], x)
        sums.write(out, task)

    return _bench(threads, words, SUMS * words, body, float(threads * turns * SUMS * lanes))


def _bench(
    threads: int, words: int, results: int, body: Callable[[Any, Any, Any], None], work: float
) -> Bench:
    """A function (data int32 ``[words]``, out int32 ``[threads, results]``)."""
    with IRBuilder() as builder:
        with build.prim_func(s_tir=True):
            build.func_name("bench")
            data = build.arg("data", build.buffer([words], "int32"))
            out = build.arg("out", build.buffer([threads, results], "int32"))
            build.func_attr({"tirx.noalias": True, "global_symbol": "bench"})
            with build.sblock("root"):
                build.reads([])
                build.writes([])
                with (build.parallel if threads > 1 else build.serial)(threads) as task:
                    body(data, out, task)
        function = builder.get()
    return Bench(function, words, (threads, results), work)
