"""What a process does with a candidate of a CUDA kernel: build it, measure it, check it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import tvm

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target import CUDATarget, cuda, cuda_runtime, parse
from tvm_shiftadd.topi.evaluation import evaluate
from tvm_shiftadd.topi.schedules.cuda.layers import layer_kernel
from tvm_shiftadd.topi.schedules.cuda.parameters import Parameters
from tvm_shiftadd.topi.schedules.cuda.workload import Workload, parameters_of
from tvm_shiftadd.topi.schedules.fusion.epilogue import constants
from tvm_shiftadd.tune.random_layer import Array, Layer, difference

#: Milliseconds of one sample, and samples of a measurement.
_SAMPLE, _SAMPLES = 10, 5
#: The place of the matrix of constants among a kernel's parameters.
_CONSTANTS = 2


class CUDAHandler:
    """What a process answers: "measure" with "values", "verify" with "equal".

    Values are seconds for an image.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        target = parse(config["target"])
        if not isinstance(target, CUDATarget):
            raise InputError(f"expected a GPU as the target, got {config['target']}")
        self.target, self.device = target, cuda_runtime.device(target.arch)

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build the candidate and do the job on it.

        A kernel that fails leaves the GPU unusable to its process, which then ends.
        """
        work, level = Workload.from_dict(request["workload"]), self.target.level
        parameters = parameters_of(work, request["parameters"], level)
        function = work.kernel(parameters)
        built = cuda.build_function(function, self.target)
        try:
            if request["job"] == "verify":
                wrong = self._wrong(work, parameters, built)
                return {"error": wrong} if wrong else {"equal": True}
            times = [self._time(built, function, images) for images in work.calls(level)]
        except RuntimeError as error:
            lines = str(error).strip().splitlines() or ["no message"]
            sys.exit(lines[-1])
        return {"values": [sum(samples) / len(times) for samples in zip(*times, strict=True)]}

    def _wrong(self, work: Workload, parameters: Parameters, built: Any) -> str:
        """What is wrong with the kernel's results; "" for nothing."""
        for images in work.calls(self.target.level):
            arrays = arguments(work, parameters, images)
            tensors = [tvm.runtime.tensor(array, self.device) for array in arrays]
            built["main"](*tensors)
            wrong = difference(layer_of(work, images).expected, tensors[-1].numpy())
            if wrong:
                return wrong
        return ""

    def _time(self, built: Any, function: Any, images: int) -> list[float]:
        """Seconds for an image of a call with so many, several samples, by the GPU's own timer."""
        tensors = [tvm.runtime.tensor(a, self.device) for a in _operands(function, images)]
        timer = built.time_evaluator(
            "main", self.device, number=1, repeat=_SAMPLES, min_repeat_ms=_SAMPLE
        )
        return [float(seconds) / images for seconds in timer(*tensors).results]


@lru_cache(maxsize=2)  # The reference takes long; a workload's candidates come together.
def layer_of(work: Workload, images: int) -> Layer:
    """A layer with random numbers for a workload and so many images."""
    adder = work.kind == "adder"
    options = work.result, work.residual, work.scaled, adder, images
    return Layer(work.text, work.shape, work.dtype, *options)


def arguments(work: Workload, parameters: Parameters, images: int) -> list[Array]:
    """What the kernel is called with for random numbers; the last one is its result."""
    layer, kernel = layer_of(work, images), layer_kernel(work.problem, parameters)
    operands = layer.operands

    def define(weight: Any, bias: Any, *rest: Any) -> list[Any]:
        named = dict(zip(operands, rest, strict=True))
        return [kernel.pack(weight), constants(work.epilogue, bias, named)]

    packed, matrix = evaluate(define, [layer.weight, layer.bias, *operands.values()])
    added = [layer.addend] if work.residual else []
    # Every element of the result must be written.
    return [layer.x, packed, matrix, *added, np.full_like(layer.expected, 85)]


def _operands(function: Any, images: int) -> list[Array]:
    """Arguments of random bits, on which GPUs spend the power that data takes.

    Constants are ones: as distances to shift by, random bits would be far too large.
    """
    random, found = np.random.default_rng(0), []
    for index, parameter in enumerate(function.params):
        buffer = parameter.ty
        shape = [int(s) if isinstance(s, tirx.IntImm) else images for s in buffer.shape]
        dtype = np.dtype(str(buffer.dtype))
        if index == _CONSTANTS:
            found.append(np.ones(shape, dtype))
            continue
        values = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype)
        found.append(values.reshape(shape))
    return found


def serve(config: Mapping[str, Any]) -> CUDAHandler:
    """What ``worker`` starts: ``config`` has "target", a GPU's mapping."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return CUDAHandler(config)
