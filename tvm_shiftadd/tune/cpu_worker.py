"""What a process does with a candidate of a fused kernel: build it, measure it, check it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm

from tvm_shiftadd import _runtime
from tvm_shiftadd.errors import CompileError, InputError
from tvm_shiftadd.target import CPUTarget, cpu, runtime
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import Parameters
from tvm_shiftadd.topi.schedules.cpu.dot.space import problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.tune.check import arguments, problem
from tvm_shiftadd.tune.cpu import check_target
from tvm_shiftadd.tune.cpu_space import parameters_of

#: Seconds of one sample, and samples of a measurement.
_SAMPLE, _SAMPLES = 0.01, 5
#: A layer with more bytes of weights is in a network that does not fit a core's own cache: its
#: weights are then read from copies in turns, which together are this large.
_KEPT, _COPIES = 65_536, 4 << 20
_FLUSH = "cache_flush_cpu_non_first_arg"


class _Machine:
    """Where candidates run: here, or on a machine that a tracker lends."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        target = CPUTarget(**config["target"])
        self.target, self.isa = cpu.tvm_target(target), check_target(target)
        self.triple = target.mtriple
        self.threads = int(config["threads"])
        self.tracker, self.timeout = config.get("tracker"), float(config["timeout"])
        if self.tracker is None:
            runtime.set_num_threads(self.threads)

    def build(self, mod: Any) -> Any:
        """A module compiled for the target."""
        try:
            return tvm.compile(mod, target=self.target)
        except RuntimeError as error:
            raise CompileError(str(error)) from error

    @contextmanager
    def load(self, executable: Any) -> Iterator[tuple[Any, Any]]:
        """The module and the device where it runs."""
        if self.tracker is None:
            yield executable.jit(), tvm.cpu()
            return
        from tvm_shiftadd.tune import remote

        with remote.session(self.tracker, self.timeout) as found:
            yield remote.load(found, executable, self.triple), found.cpu()


class CPUHandler:
    """What a process answers: "measure" with "values", "verify" with "equal".

    Values are seconds, of a kernel for several images those for one of them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.machine = _Machine(config)

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build the candidate and do the job on it."""
        work = Workload.from_dict(request["workload"])
        parameters = parameters_of(work, request["parameters"])
        wrong = problem_of(work.plan(self.machine.isa, parameters))
        if wrong:
            raise InputError(wrong)
        function = work.kernel(self.machine.isa, parameters).with_attr("global_symbol", "main")
        executable = self.machine.build(tvm.IRModule({"main": function}))
        try:
            with self.machine.load(executable) as (module, device):
                if request["job"] == "verify":
                    return self._verify(work, parameters, module, device)
                if self.machine.tracker is None:
                    samples = _time(module["main"], function)
                else:
                    samples = _time_remotely(module, device, function)
                return {"values": [seconds / work.images for seconds in samples]}
        except tvm.error.RPCSessionTimeoutError:
            return {"error": f"took longer than {self.machine.timeout:g} s"}

    def _verify(
        self, work: Workload, parameters: Parameters, module: Any, device: Any
    ) -> dict[str, Any]:
        arrays = arguments(work, self.machine.isa, parameters)
        tensors = [tvm.runtime.tensor(array, device) for array in arrays]
        module["main"](*tensors)
        wrong = problem(work, tensors[-1].numpy())
        return {"error": wrong} if wrong else {"equal": True}


def _tensors(function: Any, device: Any) -> list[Any]:
    """Arguments of any content: no instruction takes longer for one number than for another."""
    buffers = [parameter.ty for parameter in function.params]
    arrays = [
        np.ones([int(size) for size in buffer.shape], str(buffer.dtype)) for buffer in buffers
    ]
    return [tvm.runtime.tensor(array, device) for array in arrays]


def _time(function: Any, kernel: Any) -> list[float]:
    """Seconds of a call here, several samples.

    One thread's by the clock of the processor, which other programs disturb least.
    """
    tensors = _tensors(kernel, tvm.cpu())
    size = _runtime.tensor_bytes(tensors[1])
    copies = [tensors[1]] if size <= _KEPT else _copied(tensors[1], -(-_COPIES // size))
    sets = [[tensors[0], weights, *tensors[2:]] for weights in copies]
    clock = time.process_time if runtime.num_threads() == 1 else time.perf_counter
    for arguments_ in sets:
        function(*arguments_)
    begun = clock()
    for arguments_ in sets:
        function(*arguments_)
    each = max((clock() - begun) / len(sets), 1e-9)
    turns = max(1, round(_SAMPLE / (each * len(sets))))
    samples = []
    for _ in range(_SAMPLES):
        begun = clock()
        for _ in range(turns):
            for arguments_ in sets:
                function(*arguments_)
        samples.append((clock() - begun) / (turns * len(sets)))
    return samples


def _copied(tensor: Any, count: int) -> list[Any]:
    return [tvm.runtime.tensor(tensor.numpy(), tvm.cpu()) for _ in range(count)]


def _time_remotely(module: Any, device: Any, kernel: Any) -> list[float]:
    """Seconds of a call there; the weights of large layers come from memory."""
    tensors = _tensors(kernel, device)
    large = _runtime.tensor_bytes(tensors[1]) > _KEPT
    how: dict[str, Any] = (
        {"number": 1, "repeat": 4 * _SAMPLES, "f_preproc": _FLUSH}
        if large
        else {"number": 1, "repeat": _SAMPLES, "min_repeat_ms": int(1000 * _SAMPLE)}
    )
    result = module.time_evaluator("main", device, **how)(*tensors)
    samples = sorted(float(seconds) for seconds in result.results)
    return [statistics.median(samples)] if large else samples


def serve(config: Mapping[str, Any]) -> CPUHandler:
    """What ``worker`` starts: ``config`` has "target", "threads", "tracker", which may be None,
    and "timeout", the seconds that a machine of it may be used for a candidate.

    On a machine of a tracker the threads are what TVM_NUM_THREADS says there.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return CPUHandler(config)
